"""Values of which only the sizes are known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

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
