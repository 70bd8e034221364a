"""The loss that a training step is planned with where the model does not return one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch.utils import _pytree as pytree

from partitioner.errors import SpecError


def training_loss(
    output: object, begin_term: Callable[[torch.Tensor], None] = lambda _: None
) -> torch.Tensor:
    """A scalar to begin the backward from.

    A scalar floating output (a model that computes its own loss) is taken as it is; else the mean
    square of every floating output that has a gradient, summed where the first one is.

    Args:
        output: what the model returned.
        begin_term: told of each output just before its part of the loss is computed.

    Raises:
        SpecError: no output has a gradient.
    """
    floating = trainable_outputs(output)
    if not floating:
        raise SpecError(
            "the model returns no floating tensor with a gradient, so there is nothing to train; "
            "plan it for inference, or return what a loss is made of"
        )
    scalars = [tensor for tensor in floating if tensor.dim() == 0]
    if scalars:
        return scalars[0]
    losses = []
    for tensor in floating:
        begin_term(tensor)
        losses.append(tensor.float().pow(2).mean())
    return sum((loss.to(losses[0].device) for loss in losses[1:]), losses[0])


def trainable_outputs(output: object) -> list[torch.Tensor]:
    """The tensors of what a model returns from which a backward can begin."""
    return [
        tensor
        for tensor in output_tensors(output)
        if tensor.is_floating_point() and tensor.requires_grad
    ]


def output_tensors(output: object) -> list[torch.Tensor]:
    """The tensors of what a model returns: in containers, registered classes and dataclasses."""
    found: list[torch.Tensor] = []
    for leaf in pytree.tree_leaves(output):
        if isinstance(leaf, torch.Tensor):
            found.append(leaf)
        elif dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
            for field in dataclasses.fields(leaf):
                found += output_tensors(getattr(leaf, field.name))
    return found
