"""The original's own `forward` on state that is spread over devices: each call follows its weights.

It takes any call of the model, recorded or not, at the cost of a look at every operator's devices.
`generate` needs it: its calls carry a cache that grows, which no single recording holds. So does a
model for which no graph stands.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from partitioner.capture.structure import dissect

CONVERSIONS = (Tensor.to, Tensor.type_as, Tensor.set_)


class FollowWeights(TorchFunctionMode):
    """Moves an operator's tensors together before it runs.

    To the first operand where that is changed in place, else to the first parameter, else to the
    first tensor that is no scalar, one on a GPU if there is one.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in CONVERSIONS:
            return func(*args, **kwargs)
        tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if len(tensors) > 1 and len({tensor.device for tensor in tensors}) > 1:
            args, kwargs = _together((args, kwargs), _device(func, tensors))
        return func(*args, **kwargs)


def _device(func: Callable[..., Any], tensors: list[Tensor]) -> torch.device:
    name = getattr(func, "__name__", "")
    if name == "__setitem__" or (name.endswith("_") and not name.endswith("__")):
        return tensors[0].device
    weights = (tensor for tensor in tensors if isinstance(tensor, nn.Parameter))
    sized = [tensor for tensor in tensors if tensor.dim()] or tensors
    away = (tensor for tensor in sized if tensor.device.type != "cpu")
    return next(weights, next(away, sized[0])).device


def _together(values: Any, device: torch.device) -> Any:
    return pytree.tree_map_only(Tensor, lambda tensor: tensor.to(device), values)


@dataclass(frozen=True, slots=True)
class Gathering:
    """A hook that brings a module's arguments to its device: its own code may not let them follow.

    Autograd functions and `torch.func` do not, nor does what checkpointing computes again.
    """

    device: torch.device

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """The arguments, with all their tensors on the device."""
        return _together((args, kwargs), self.device)


@dataclass(frozen=True, slots=True)
class Returning:
    """Brings the tensors of a result to the devices that were told."""

    devices: tuple[str, ...]
    __name__ = "returned"

    def __call__(self, result: Any) -> Any:
        """The result, built alike."""
        structure, leaves = dissect(result, lambda part: isinstance(part, Tensor))
        tensors = [leaf for _, leaf in leaves]
        moved = [
            tensor.to(self.devices[min(at, len(self.devices) - 1)])
            for at, tensor in enumerate(tensors)
        ]
        if all(new is old for new, old in zip(moved, tensors, strict=True)):
            return result
        return structure.rebuild(structure.plain(iter(moved)))


@contextmanager
def following(module: nn.Module, original: type[nn.Module]) -> Iterator[None]:
    """For the time of the context, calls of `module` run the `forward` of its original class."""

    @functools.wraps(original.forward)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with FollowWeights():
            return original.forward(self, *args, **kwargs)

    vars(module)["forward"] = types.MethodType(forward, module)
    try:
        yield
    finally:
        vars(module).pop("forward", None)


def following_generate(original: type[nn.Module]) -> Callable[..., Any]:
    """`generate` of a class that has one, for a placed module of that class.

    Tokens are the original's. Its static caches are not compiled, since a compiled graph is bound
    to one device.
    """
    given: Callable[..., Any] = original.generate  # type: ignore[attr-defined]

    @functools.wraps(given)
    def generate(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        kwargs.setdefault("disable_compile", True)
        with following(self, original):
            return given(self, *args, **kwargs)

    return generate
