"""The loss that a training step is planned with where the model does not return one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.utils import _pytree as pytree


def training_loss(
    output: object, before_term: Callable[[torch.Tensor], None] = lambda leaf: None
) -> torch.Tensor:
    """A scalar to begin the backward from.

    A scalar floating output (a model that computes its own loss) is taken as it is; else the mean
    square of every floating output that has a gradient, summed where the first one is.

    Args:
        output: of the model.
        before_term: told of each output before its term is computed.
    """
    floating = [
        leaf
        for leaf in pytree.tree_leaves(output)
        if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() and leaf.requires_grad
    ]
    scalars = [leaf for leaf in floating if leaf.dim() == 0]
    if scalars:
        before_term(scalars[0])
        return scalars[0]
    losses = []
    for leaf in floating:
        before_term(leaf)
        losses.append(leaf.float().pow(2).mean())
    return sum((loss.to(losses[0].device) for loss in losses[1:]), losses[0])
