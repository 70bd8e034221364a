"""Data of what no checkpoint holds: buffers that the model computes for itself, as rotary angles.

A model on `meta` has lost them. PyTorch's convention is that a module fills in what it owns itself
in `reset_parameters()`; Hugging Face's models do so in `_init_weights(module)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from partitioner.capture.clone import NamedTensor, clone

_SEED = 0


def initialised(model: nn.Module, bare: Sequence[NamedTensor]) -> dict[str, Callable[[], Tensor]]:
    """Readers of those of the tensors that the model's own code computes, by canonical name.

    Computed twice, over different contents: what the code leaves alone differs and is not taken.
    """
    owners = dict.fromkeys(each.names[0].rpartition(".")[0] for each in bare)
    computed = {path: [_computed(model, path, fill) for fill in (0, 1)] for path in owners}
    found: dict[str, Callable[[], Tensor]] = {}
    for each in bare:
        path, _, attribute = each.names[0].rpartition(".")
        first, second = (tensors.get(attribute) for tensors in computed[path])
        if (
            first is not None
            and second is not None
            and first.shape == each.tensor.shape
            and torch.equal(first, second)
        ):
            found[each.names[0]] = partial(_given, first)
    return found


def _given(tensor: Tensor) -> Tensor:
    return tensor


def _computed(model: nn.Module, path: str, fill: int) -> dict[str, Tensor]:
    """What the module at `path` makes of its buffers and tensor attributes, full of `fill`."""

    def apart(tensor: Tensor, _: str) -> Tensor:
        if isinstance(tensor, nn.Parameter):
            return nn.Parameter(torch.empty_like(tensor, device="meta"), tensor.requires_grad)
        if tensor.is_meta:
            return torch.full_like(tensor, fill, device="cpu")
        return tensor.detach().clone()

    module = clone(model.get_submodule(path), apart)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(_SEED)
        for initialise in _initialisers(model, path, module):
            try:
                initialise()
            except Exception:
                continue
    return {
        name: tensor
        for name, tensor in {**vars(module), **module._buffers}.items()
        if isinstance(tensor, Tensor) and not tensor.is_meta
    }


def _initialisers(model: nn.Module, path: str, module: Any) -> Iterator[Callable[[], Any]]:
    """The ways that the model offers, the nearest last."""
    parts = path.split(".") if path else []
    for count in range(len(parts) + 1):
        around: Any = model.get_submodule(".".join(parts[:count]))
        if callable(getattr(around, "_init_weights", None)):
            yield partial(around._init_weights, module)
    if callable(getattr(module, "reset_parameters", None)):
        yield module.reset_parameters
