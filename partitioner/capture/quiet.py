"""A clean room for running models on fake tensors."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

import torch
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
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        yield
