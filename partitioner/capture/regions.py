"""Regions that a model's own code opens: autocast, and hooks on what autograd saves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch.amp.autocast_mode import autocast
from torch.nn.modules import transformer
from torch.utils.checkpoint import CheckpointFunction, checkpoint

# Device type, dtype name, enabled, cache_enabled.
Autocast = tuple[str, str, bool, bool]


def saved_tensor_hooks() -> object:
    """Tell the hooks that autograd applies to what it saves here; `None` where there are none."""
    return torch._C._autograd._top_saved_tensors_default_hooks(False)


def is_checkpoint(hooks: Any) -> bool:
    """Whether such hooks are those of `torch.utils.checkpoint`."""
    return hooks is not None and hooks[0].__module__ == "torch.utils.checkpoint"


@contextmanager
def autocast_regions(regions: list[Autocast]) -> Iterator[None]:
    """Keep in `regions` the autocast regions that this thread has open, the innermost last.

    A region for another type of device than the CPU counts for the CPU meanwhile, since that is
    where a recording runs.
    """
    thread = threading.get_ident()
    begin: Any = autocast.__init__
    enter, leave = autocast.__enter__, autocast.__exit__

    def init(
        self: autocast,
        device_type: str,
        dtype: torch.dtype | None = None,
        enabled: bool = True,
        cache_enabled: bool | None = None,
    ) -> None:
        if threading.get_ident() == thread and device_type != "cpu":
            if dtype is None:
                dtype = torch.get_autocast_dtype(device_type)
            device_type = "cpu"
        begin(self, device_type, dtype, enabled, cache_enabled)

    def opened(self: Any) -> Any:
        if threading.get_ident() == thread:
            dtype = str(self.fast_dtype).removeprefix("torch.")
            regions.append((self.device, dtype, self._enabled, self._cache_enabled))
        return enter(self)  # type: ignore[no-untyped-call]

    def closed(self: Any, *exception: Any) -> Any:
        if threading.get_ident() == thread and regions:
            regions.pop()
        return leave(self, *exception)

    with (
        mock.patch.object(autocast, "__init__", init),
        mock.patch.object(autocast, "__enter__", opened),
        mock.patch.object(autocast, "__exit__", closed),
    ):
        yield


@contextmanager
def autograd_functions(seen: Callable[[type], None]) -> Iterator[None]:
    """Call `seen(cls)` before each `cls.apply` of a custom autograd function in this thread.

    Reentrant checkpointing, which is made of one, becomes the other kind.
    """
    thread = threading.get_ident()
    apply = torch.autograd.Function.__dict__["apply"].__func__

    def watched(cls: type, *args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() == thread:
            if cls is CheckpointFunction:
                function, preserve_rng_state, *inputs = args
                return checkpoint(
                    function, *inputs, use_reentrant=False, preserve_rng_state=preserve_rng_state
                )
            seen(cls)
        return apply(cls, *args, **kwargs)

    with mock.patch.object(torch.autograd.Function, "apply", classmethod(watched)):
        yield


@contextmanager
def masks_undetected() -> Iterator[None]:
    """Keep PyTorch's transformer layers from looking into a mask to see whether it is causal.

    They do so to choose a faster kernel; the mask is applied in any case.
    """

    def told(mask: Any, is_causal: bool | None = None, size: int | None = None) -> bool:
        return bool(is_causal)

    with mock.patch.object(transformer, "_detect_is_causal_mask", told):
        yield
