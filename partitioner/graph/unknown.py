"""Values of which only the sizes are known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from partitioner.capture import TensorSpec


def fake_value(spec: Any) -> Any:
    """Fake tensors of a recorded value's sizes."""
    if isinstance(spec, TensorSpec):
        made = torch.empty(spec.shape, dtype=getattr(torch, spec.dtype))
        return made.requires_grad_(spec.requires_grad and torch.is_grad_enabled())
    if isinstance(spec, tuple | list):
        return type(spec)(fake_value(entry) for entry in spec)
    if isinstance(spec, Mapping):
        return {key: fake_value(entry) for key, entry in spec.items()}
    return None


def with_all_gradients(result: Any, module: nn.Module) -> Any:
    """A module's result, such that parameters which it did not use this time have gradients too."""
    leaves, spec = pytree.tree_flatten(result)
    followed = [i for i, leaf in enumerate(leaves) if getattr(leaf, "grad_fn", None) is not None]
    if not followed:
        return result
    reached = _reached([leaves[i].grad_fn for i in followed])
    left = [p for p in module.parameters() if p.requires_grad and id(p) not in reached]
    if left:
        leaves[followed[0]] = _Reaching.apply(leaves[followed[0]], *left)  # type: ignore[no-untyped-call]
    return pytree.tree_unflatten(leaves, spec)


def _reached(functions: list[Any]) -> set[int]:
    """The parameters, by identity, that the backward from some functions comes to."""
    seen = set(functions)
    while functions:
        for following, _ in functions.pop().next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                functions.append(following)
    return {id(function.variable) for function in seen if hasattr(function, "variable")}


class _Reaching(torch.autograd.Function):
    """The first argument; the others get gradients of their sizes."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(*parameters)
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return gradient, *map(torch.empty_like, ctx.saved_tensors)


class Unknown(torch.autograd.Function):
    """Stands for a computation of which only the sizes are known."""

    @staticmethod
    def forward(ctx: Any, report: Any, made: list[torch.Tensor], *reads: torch.Tensor) -> Any:
        """Values of the sizes of `made`; everything in `reads` is kept."""
        ctx.save_for_backward(*reads)
        ctx.report = report
        return tuple(torch.empty_like(tensor) for tensor in made)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """Gradients of the sizes of `reads`."""
        ctx.report()
        return (
            None,
            None,
            *(
                torch.empty_like(tensor) if needed else None
                for tensor, needed in zip(ctx.saved_tensors, ctx.needs_input_grad[2:], strict=True)
            ),
        )
