"""Taking devices out of calls, and telling a device that follows an input from a literal one.

While a model is recorded, `.device` of every tensor answers `FOLLOWED`, a CPU device with an index
that no tensor ever has. A factory called with it follows its inputs wherever they go; one called
with no device or another one does not.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

import torch
from torch import Tensor
from torch.utils._device import _device_constructors

FOLLOWED = torch.device("cpu", 1)

_MOVES_ONLY = frozenset({"cuda", "cpu", "xpu", "npu", "hpu", "ipu", "pin_memory"})


class DeviceUse(Enum):
    """How a call named a device."""

    NONE = "none"
    FOLLOWS = "follows"
    LITERAL = "literal"


def is_marker(device: object) -> bool:
    """Whether this is the device that recorded tensors answer."""
    return isinstance(device, torch.device) and device == FOLLOWED


def use_of(device: object) -> DeviceUse:
    """Tell how a device argument was written."""
    if device is None:
        return DeviceUse.NONE
    return DeviceUse.FOLLOWS if is_marker(device) else DeviceUse.LITERAL


def takes_device(func: Any) -> bool:
    """Whether a torch function makes tensors on a device of its caller's choice."""
    return func in _device_constructors()


def without_device(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, tuple[Any, ...], dict[str, Any], DeviceUse] | None:
    """Take the device out of a call.

    Returns:
        The function, arguments and keywords to call instead, and how a device was named; `None`
        when nothing is left to do, the call having only moved its first argument.
    """
    name = getattr(func, "__name__", "")
    if args and isinstance(args[0], Tensor) and getattr(Tensor, name, None) == func:
        if name == "to":
            return _without_device_to(args, kwargs)
        if name in _MOVES_ONLY:
            return None
        if name == "type_as":
            return Tensor.to, (args[0], args[1].dtype), {}, DeviceUse.FOLLOWS
        if name == "type" and len(args) == 2 and not isinstance(args[1], torch.dtype):
            return Tensor.to, (args[0], _named_dtype(args[1])), {}, DeviceUse.LITERAL
    if not kwargs:
        return func, args, kwargs, DeviceUse.NONE
    use = use_of(kwargs.get("device"))
    if "device" in kwargs or "pin_memory" in kwargs:
        kwargs = {k: v for k, v in kwargs.items() if k not in ("device", "pin_memory")}
    return func, args, kwargs, use


def _without_device_to(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, tuple[Any, ...], dict[str, Any], DeviceUse] | None:
    tensor, *rest = args
    kept = {k: v for k, v in kwargs.items() if k in ("copy", "memory_format") and v}
    if rest and isinstance(rest[0], Tensor):
        return Tensor.to, (tensor, rest[0].dtype), kept, DeviceUse.FOLLOWS
    if isinstance(kwargs.get("other"), Tensor):
        return Tensor.to, (tensor, kwargs["other"].dtype), kept, DeviceUse.FOLLOWS
    device: Any = kwargs.get("device")
    dtype: Any = kwargs.get("dtype")
    flags: list[bool] = []
    for value in rest:
        if isinstance(value, torch.dtype):
            dtype = value
        elif isinstance(value, bool):
            flags.append(value)
        elif value is not None:
            device = value
    if len(flags) > 1 and flags[1]:
        kept["copy"] = True
    use = use_of(device)
    if dtype is None and not kept:
        return None if use is not DeviceUse.NONE else (Tensor.to, (tensor,), {}, use)
    return Tensor.to, (tensor, tensor.dtype if dtype is None else dtype), kept, use


def _named_dtype(kind: Any) -> torch.dtype:
    """The dtype of `"torch.cuda.FloatTensor"` or of a tensor type."""
    text = kind if isinstance(kind, str) else torch.typename(kind)
    text = text.replace("torch.cuda.", "torch.")
    return torch.empty(0, device="cpu").type(text).dtype
