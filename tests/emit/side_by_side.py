"""Original and placed module run on the same call, for the tests of this folder."""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from partitioner.capture import Captured
from partitioner.capture.structure import dissect
from tests.capture.side_by_side import captured_case
from tests.zoo import ZOO, Case

DEVICES = ("cuda:0", "cuda:1", "cuda:2")
QUICK = (
    "seqnet",
    "mlp",
    "residual_cnn",
    "language_model",
    "hf_gpt2_no_cache",
    *(name for name in ZOO if "awkward" in ZOO[name].tags),
)

captured = captured_case
"""The recording of a zoo model, in training mode."""


def blocks(recording: Captured, cuts: Sequence[str]) -> dict[str, str]:
    """Consecutive nodes on consecutive devices, a cut before each named node."""
    placement, device = {}, 0
    for name in recording.nodes:
        device += name in cuts
        placement[name] = DEVICES[device]
    return together(recording, placement)


def scattered(recording: Captured, source: random.Random) -> dict[str, str]:
    """A device at random for each node, or for each run of nodes."""
    stay = source.choice((0.0, 0.7, 0.9))
    placement: dict[str, str] = {}
    device = source.choice(DEVICES)
    for name in recording.nodes:
        if source.random() >= stay:
            device = source.choice(DEVICES)
        placement[name] = device
    return together(recording, placement)


def together(recording: Captured, placement: dict[str, str]) -> dict[str, str]:
    """The placement, with the groups that must share a device put on one."""
    for group in recording.colocated:
        placement.update(dict.fromkeys(group, placement[group[0]]))
    return placement


@dataclass(frozen=True)
class Outcome:
    """What one step left behind, on the host."""

    type: type
    outputs: tuple[Tensor, ...]
    gradients: Mapping[str, Tensor | None]
    state: Mapping[str, Tensor]


def leaves(output: Any) -> list[Tensor]:
    """The tensors of an output, in order, whatever holds them."""
    return [leaf for _, leaf in dissect(output, lambda part: isinstance(part, Tensor))[1]]


def step(module: nn.Module, case: Case, *, training: bool, seed: int = 0) -> Outcome:
    """Run a call, and in training its backward."""
    module.train(training)
    args, kwargs = copy.deepcopy((case.args(), case.kwargs()))
    torch.manual_seed(seed)
    output = module(*args, **kwargs)
    tensors = leaves(output)
    gradients: dict[str, Tensor | None] = {}
    if training:
        losses = [t.float().pow(2).mean().to("cpu") for t in tensors if t.requires_grad]
        sum(losses, torch.zeros(())).backward()
        gradients = {
            name: None if parameter.grad is None else parameter.grad.detach().to("cpu")
            for name, parameter in module.named_parameters()
        }
        module.zero_grad(set_to_none=True)
    return Outcome(
        type(output),
        tuple(tensor.detach().to("cpu") for tensor in tensors),
        gradients,
        {name: value.detach().to("cpu").clone() for name, value in module.state_dict().items()},
    )


def assert_same(expected: Outcome, found: Outcome) -> None:
    """Everything is equal, up to rounding."""
    assert found.type is expected.type
    assert len(found.outputs) == len(expected.outputs)
    for left, right in zip(expected.outputs, found.outputs, strict=True):
        assert_close(left, right)
    assert list(found.state) == list(expected.state)
    for name, value in expected.state.items():
        assert_close(value, found.state[name])
    assert found.gradients.keys() == expected.gradients.keys()
    for name, gradient in expected.gradients.items():
        other = found.gradients[name]
        assert (gradient is None) == (other is None), name
        if gradient is not None and other is not None:
            assert_close(gradient, other)


def assert_close(left: Tensor, right: Tensor) -> None:
    """Two tensors are equal, up to rounding in proportion to their largest element."""
    finite = left.double().nan_to_num(0.0, 0.0, 0.0)
    scale = float(finite.abs().max()) if left.numel() else 0.0
    torch.testing.assert_close(right, left, rtol=1e-4, atol=1e-5 * (1 + scale), equal_nan=True)
