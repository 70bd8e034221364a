"""Running a part of a model for real, where it does not run on fake tensors."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torch.utils import _pytree as pytree

LARGEST_NBYTES = 1 << 30
"""What has more parameters than this is not run for real."""


def has_data(module: nn.Module, values: Any = ()) -> bool:
    """Whether a module and `values` have their data at hand, and no more than `LARGEST_NBYTES`."""
    given = [leaf for leaf in pytree.tree_leaves(values) if isinstance(leaf, Tensor)]
    held = [*module.parameters(), *module.buffers(), *given]
    nbytes = sum(tensor.numel() * tensor.dtype.itemsize for tensor in held)
    return nbytes <= LARGEST_NBYTES and not any(
        tensor.is_meta or isinstance(tensor, FakeTensor) for tensor in held
    )


class RealRun:
    """A copy of a module on the CPU, called with made-up numbers of the sizes that are asked for.

    Some operators have no rule for fake tensors, or a stricter one than the real operator. What
    they return is learnt by calling them.

    Args:
        module: the original.
    """

    def __init__(self, module: nn.Module) -> None:
        with unset_fake_temporarily():
            self._module = copy.deepcopy(module).cpu()

    def __call__(self, args: Any, kwargs: Any, *, training: bool) -> Any:
        """Call it; the result has fake tensors like the real ones."""
        self._module.train(training)
        with unset_fake_temporarily():
            args, kwargs = pytree.tree_map_only(Tensor, _made_up, (args, kwargs))
            result = self._module(*args, **kwargs)
        return pytree.tree_map_only(Tensor, _faked, result)


def _made_up(tensor: Tensor) -> Tensor:
    shape = tuple(tensor.shape)
    if not tensor.dtype.is_floating_point:
        return torch.zeros(shape, dtype=tensor.dtype)
    return torch.randn(shape).to(tensor.dtype).requires_grad_(tensor.requires_grad)


def _faked(tensor: Tensor) -> Tensor:
    fake = torch.empty(tuple(tensor.shape), dtype=tensor.dtype, device="cpu")
    return fake.requires_grad_(tensor.requires_grad)
