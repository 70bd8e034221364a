"""Where CUDA's kernels give, keep or take other than the CPU's, or than fake tensors tell.

- Integer `histc`, which the CPU cannot.
- Dropout. CUDA takes `native_dropout`, which keeps a byte for each element; the CPU multiplies with
  noise of the input's type and keeps that. Here the operator is CUDA's, and so are the bytes, but
  the noise is drawn and applied as the CPU does it: a seed gives the numbers of the model that runs
  without virtual GPUs.
- Losses that reduce in place. The scalar that `mse_loss` and others give keeps the storage of a
  loss for each element, on the CPU and on CUDA. Fake tensors know only of the scalar.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

_aten = torch.ops.aten
_REDUCED_IN_PLACE = (
    _aten.mse_loss.default,
    _aten.smooth_l1_loss.default,
    _aten.soft_margin_loss.default,
    _aten.binary_cross_entropy.default,
)


def computed(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What CUDA's kernel of an ATen operator gives, computed on the CPU."""
    if func is _aten.native_dropout.default and args[2]:
        return _dropped(*args)
    if func is _aten.native_dropout_backward.default:
        return _dropped_backward(*args)
    if func is _aten.histc.default and not args[0].is_floating_point():
        return func(args[0].double(), *args[1:], **kwargs).to(args[0].dtype)
    result = func(*args, **kwargs)
    if func in _REDUCED_IN_PLACE and result.dim() == 0:
        nbytes = max(args[0].numel(), args[1].numel()) * result.itemsize
        if result.untyped_storage().nbytes() < nbytes:
            result.untyped_storage().resize_(nbytes)
    return result


def takes_native_dropout(tensor: Tensor, p: float, train: bool) -> bool:
    """Whether CUDA takes the operator that keeps a mask of bytes."""
    return train and 0 < p < 1 and tensor.numel() > 0


@contextmanager
def native_dropout() -> Iterator[None]:
    """For a while, `torch.nn.functional.dropout` takes the operator that it takes on CUDA."""
    plain = torch.dropout

    def dropout(input: Tensor, p: float, train: bool) -> Tensor:
        if takes_native_dropout(input, p, train):
            return torch.native_dropout(input, p, True)[0]
        return plain(input, p, train)

    names: Any = torch._VF
    names.dropout = dropout
    try:
        yield
    finally:
        del names.dropout


def _dropped(tensor: Tensor, p: float, train: bool) -> tuple[Tensor, Tensor]:
    """The result and the mask."""
    noise = torch.empty_like(tensor).bernoulli_(1 - p)
    mask = noise.bool()
    return tensor * noise.div_(1 - p), mask


def _dropped_backward(gradient: Tensor, mask: Tensor, scale: float) -> Tensor:
    if gradient.dtype == torch.float64:
        return gradient * mask.double().mul_(scale)
    return gradient * mask.to(gradient.dtype).div_(1 / scale)
