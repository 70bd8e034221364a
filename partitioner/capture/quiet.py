"""A clean room for running models on fake tensors."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, _meta_registrations
from torch._subclasses import fake_tensor

from partitioner.virtual import suspended


@contextmanager
def quiet() -> Iterator[None]:
    """Leave what the caller has switched on outside: virtual GPUs, autocast, no_grad, compilation.

    Warnings and fake tensors' own log are silent meanwhile, and random numbers are not used up.
    """
    with ExitStack() as stack:
        stack.enter_context(suspended())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(
            mock.patch.object(logging.getLogger(fake_tensor.__name__), "disabled", True)
        )
        stack.enter_context(
            mock.patch.object(_meta_registrations, "_meta_grouped_mm_common", _grouped_mm)
        )
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        yield


def _grouped_mm(mat_a: Tensor, mat_b: Tensor, **options: Any) -> Tensor:
    """The size of a grouped matrix product in other types than bfloat16, which PyTorch computes."""
    if mat_a.dtype is torch.bfloat16 or options["scale_a"] is not None:
        return _GROUPED_MM(mat_a, mat_b, **options)
    return _CREATE(mat_a, mat_b, options["offs"], options["out_dtype"])


_GROUPED_MM: Callable[..., Tensor] = _meta_registrations._meta_grouped_mm_common
_CREATE: Callable[..., Tensor] = _meta_registrations._create_grouped_mm_output_tensor
