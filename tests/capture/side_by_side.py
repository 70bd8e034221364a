"""An original model and its recorded graph, run side by side."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from partitioner.capture import Captured, GraphRun, capture
from partitioner.capture.structure import dissect
from tests.zoo import ZOO

SEED = 7


@dataclass(frozen=True)
class Step:
    """One forward and backward."""

    output: Any
    tensors: list[Tensor]
    gradients: dict[str, Tensor | None]
    buffers: dict[str, Tensor]


@functools.cache
def captured_case(name: str) -> Captured:
    """The recording of a zoo model, made once."""
    case = ZOO[name]
    return capture(case.build(), case.args(), case.kwargs(), training=True)


def in_mode(captured: Captured, training: bool) -> Captured:
    """The recording that serves a mode."""
    if captured.training != training and captured.alternate is not None:
        return captured.alternate
    return captured


def tensors_in(value: Any) -> list[Tensor]:
    return [leaf for _, leaf in dissect(value, lambda part: isinstance(part, Tensor))[1]]


def step(model: nn.Module, call: Callable[..., Any], args: Any, kwargs: Any) -> Step:
    """Call once with fixed random numbers, and differentiate a weighted sum of all results."""
    torch.manual_seed(SEED)
    output = call(*copy.deepcopy(args), **copy.deepcopy(kwargs))
    tensors = tensors_in(output)
    losses = [
        (tensor.float() * torch.linspace(0.5, 1.5, tensor.numel()).view(tensor.shape)).sum()
        for tensor in tensors
        if tensor.requires_grad
    ]
    if losses:
        torch.stack(losses).sum().backward()
    return Step(
        output,
        tensors,
        {name: parameter.grad for name, parameter in model.named_parameters()},
        {name: buffer.clone() for name, buffer in model.named_buffers()},
    )


def assert_same_step(one: Step, other: Step) -> None:
    """Equal types, outputs, gradients and buffers, to float accuracy."""
    assert type(one.output) is type(other.output)
    assert len(one.tensors) == len(other.tensors)
    for mine, theirs in zip(one.tensors, other.tensors, strict=True):
        torch.testing.assert_close(mine, theirs)
    assert one.gradients.keys() == other.gradients.keys()
    for name, gradient in one.gradients.items():
        assert (gradient is None) == (other.gradients[name] is None), name
        if gradient is not None:
            torch.testing.assert_close(gradient, other.gradients[name], msg=lambda m, n=name: n + m)
    for name, buffer in one.buffers.items():
        torch.testing.assert_close(buffer, other.buffers[name])


def assert_same(
    captured: Captured,
    build: Callable[[], nn.Module],
    args: Any,
    kwargs: Any,
    *,
    training: bool,
) -> None:
    """The recorded graph does what the model does: results, gradients, changed buffers."""
    original, interpreted = build().train(training), build().train(training)
    expected = step(original, original, args, kwargs)
    run = GraphRun(interpreted, in_mode(captured, training))
    assert_same_step(expected, step(interpreted, run.call, args, kwargs))
