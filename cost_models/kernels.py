"""What is known of ATen operators beyond their schemas: the few lists that costs need."""

from __future__ import annotations

from typing import Any

import torch


def _names(text: str) -> frozenset[str]:
    return frozenset(f"aten.{name}" for name in text.split())


ALLOCATES_ONLY = _names(
    """
    _local_scalar_dense empty empty_like empty_permuted empty_strided lift_fresh new_empty
    new_empty_strided resize_ set_
    """
)
"""Operators that touch no element."""

WRITES_ONLY = _names(
    """
    _foreach_copy_ _foreach_zero_ bernoulli_ copy_ exponential_ fill_ normal_ random_
    uniform_ zero_
    """
)
"""Operators that change a tensor in place without reading it."""

TAKES_FROM = _names(
    """
    embedding gather index index_select take take_along_dim
    """
)
"""Operators that read of their first tensor only what they put out."""

BANDWIDTH_BOUND = _names(
    """
    _adaptive_avg_pool2d _adaptive_avg_pool2d_backward _fused_rms_norm
    _fused_rms_norm_backward _index_put_impl_ _local_scalar_dense _log_softmax
    _log_softmax_backward_data _native_batch_norm_legit _softmax _softmax_backward_data
    _to_copy all amax amin any arange argmax argmin avg_pool2d avg_pool2d_backward bernoulli
    bernoulli_ cat clone constant_pad_nd copy_ cumsum embedding embedding_dense_backward eye
    fill_ flip full full_like gather gelu_backward index index_add index_add_ index_put
    index_put_ index_select linalg_vector_norm linspace max max_pool2d_with_indices
    max_pool2d_with_indices_backward mean min mse_loss mse_loss_backward native_batch_norm
    native_batch_norm_backward native_dropout native_dropout_backward native_group_norm
    native_group_norm_backward native_layer_norm native_layer_norm_backward new_full
    new_ones new_zeros nll_loss2d_backward nll_loss2d_forward nll_loss_backward
    nll_loss_forward normal_ ones ones_like prod rand rand_like randint randn randn_like
    random_ randperm reflection_pad2d repeat roll scalar_tensor scatter scatter_ scatter_add
    scatter_add_ select_backward select_scatter sigmoid_backward silu_backward
    slice_backward slice_scatter stack std sum tanh_backward threshold_backward tril triu
    unfold_backward uniform_ upsample_nearest2d upsample_nearest2d_backward var var_mean
    where zero_ zeros zeros_like
    """
)
"""Operators without a FLOP formula whose work is in proportion to the bytes that they touch: beside
those that PyTorch tags as pointwise or as reductions, copies, indexing, norms, softmax, pooling."""


def overload_of(operator: str) -> Any | None:
    """The `OpOverload` of that name, such as `"aten.add.Tensor"`; `None` where there is none."""
    found: Any = torch.ops
    for part in operator.split("."):
        found = getattr(found, part, None)
        if found is None:
            return None
    return found if isinstance(found, torch._ops.OpOverload) else None


def is_bandwidth_bound(operator: str) -> bool:
    """Whether the operator's work is in proportion to its bytes, so that bytes alone price it.

    Args:
        operator: with its overload, such as `"aten.add.Tensor"`.
    """
    if operator.rpartition(".")[0] in BANDWIDTH_BOUND:
        return True
    overload = overload_of(operator)
    tags = overload.tags if overload is not None else ()
    return torch.Tag.pointwise in tags or torch.Tag.reduction in tags
