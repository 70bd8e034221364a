"""The mode above autograd: device arguments become labels, and labels answer for devices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C import TensorBase
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors

from partitioner.virtual.kernels import takes_native_dropout
from partitioner.virtual.ledger import VirtualGpu
from partitioner.virtual.session import CPU, Session, nbytes_of

Arguments = Sequence[Any]
Keywords = Mapping[str, Any]
_Handler = Callable[[Any, Arguments, Keywords], Any]

_FROM_DATA = (torch.tensor, torch.as_tensor, torch.asarray)
_TYPE_NAMES = {"FloatTensor": torch.float32, "DoubleTensor": torch.float64} | {
    "HalfTensor": torch.float16,
    "BFloat16Tensor": torch.bfloat16,
    "LongTensor": torch.int64,
    "IntTensor": torch.int32,
    "ShortTensor": torch.int16,
    "CharTensor": torch.int8,
    "ByteTensor": torch.uint8,
    "BoolTensor": torch.bool,
}


class FunctionMode(TorchFunctionMode):
    """Translates for one session; everything that names no device passes through untouched."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session
        questions: dict[Any, _Handler] = {
            _getter("device"): self._device,
            _getter("is_cuda"): self._is_cuda,
            _getter("is_cpu"): self._is_cpu,
            Tensor.get_device: self._get_device,
            torch.get_device: self._get_device,
        }
        moves: dict[Any, _Handler] = {
            Tensor.to: self._to,
            Tensor.cuda: self._cuda,
            Tensor.cpu: self._cpu,
            Tensor.type: self._type,
            Tensor.type_as: self._type_as,
            Tensor.copy_: self._copy,
            Tensor.__setitem__: self._set_item,
            torch._C._nn._parse_to: self._parse_to,
            torch.ctc_loss: self._ctc_loss,
            torch.dropout: self._dropout,
        }
        checks: dict[Any, _Handler] = {
            Tensor.numpy: self._numpy,
            vars(TensorBase)["grad"].__set__: self._set_grad,
        }
        factories: dict[Any, _Handler] = dict.fromkeys(_device_constructors(), self._create)
        factories |= dict.fromkeys(_FROM_DATA, self._from_data) | {torch.normal: self._normal}
        factories |= dict.fromkeys((Tensor.new, Tensor.new_tensor), self._create_like)
        self._handlers: dict[Any, _Handler] = questions | moves | checks | factories

    def is_innermost(self) -> bool:
        """Whether the next call reaches this mode first."""
        depth = torch._C._len_torch_function_stack()
        return depth > 0 and torch._C._get_function_stack_at(depth - 1) is self

    def is_entered(self) -> bool:
        """Whether the next call reaches this mode at all."""
        depth = torch._C._len_torch_function_stack()
        return any(torch._C._get_function_stack_at(i) is self for i in range(depth))

    def __torch_function__(
        self, func: Any, types: Any, args: Arguments = (), kwargs: Keywords | None = None
    ) -> Any:
        """Answer, translate, or pass on."""
        handler = self._handlers.get(func)
        if handler is not None:
            return handler(func, args, kwargs or {})
        if not kwargs:
            return func(*args)
        if kwargs.get("device") is not None or "pin_memory" in kwargs:
            return self._create_like(func, args, kwargs)
        return func(*args, **kwargs)

    def _device(self, func: Any, args: Arguments, kwargs: Keywords) -> Any:
        return self._session.device(args[0]) or func(*args)

    def _is_cuda(self, func: Any, args: Arguments, kwargs: Keywords) -> Any:
        device = self._session.device(args[0])
        return func(*args) if device is None else device.type == "cuda"

    def _is_cpu(self, func: Any, args: Arguments, kwargs: Keywords) -> Any:
        device = self._session.device(args[0])
        return func(*args) if device is None else device.type == "cpu"

    def _get_device(self, func: Any, args: Arguments, kwargs: Keywords) -> Any:
        device = self._session.device(args[0])
        return func(*args, **kwargs) if device is None or device.index is None else device.index

    def _to(self, func: Any, args: Arguments, kwargs: Keywords) -> Any:
        tensor, *rest = args
        device, dtype, copy = _destination(rest, kwargs)
        if isinstance(device, Tensor):
            target: VirtualGpu | None = self._session.home(device)
        elif device is None:
            return func(*args, **kwargs)
        else:
            target = self._session.resolve(device)
        if target is None:
            return func(*args, **kwargs)
        return self._move(tensor, target, dtype, kwargs.get("memory_format"), copy=copy)

    def _cuda(self, func: Any, args: Arguments, kwargs: Keywords) -> Any:
        tensor, *rest = args
        device = rest[0] if rest else kwargs.get("device")
        target = self._session.resolve("cuda" if device is None else device)
        if target is None or target.device.type != "cuda":
            raise ValueError(f"Invalid device, must be cuda device, not {device}")
        return self._move(tensor, target, None, kwargs.get("memory_format"))

    def _cpu(self, func: Any, args: Arguments, kwargs: Keywords) -> Any:
        return self._move(args[0], self._session.cpu, None, kwargs.get("memory_format"))

    def _type(self, func: Any, args: Arguments, kwargs: Keywords) -> Any:
        tensor, *rest = args
        dtype = rest[0] if rest else kwargs.get("dtype")
        on_gpu = self._session.home(tensor).device.type == "cuda"
        if dtype is None:
            name = func(tensor)
            return name.replace("torch.", "torch.cuda.", 1) if on_gpu else name
        name = dtype if isinstance(dtype, str) else ""
        prefix, _, short = name.rpartition(".")
        if prefix == "torch.cuda" and short in _TYPE_NAMES:
            target = self._session.home(tensor) if on_gpu else self._session.resolve("cuda")
        elif prefix == "torch" and short in _TYPE_NAMES:
            target = self._session.cpu
        else:
            return func(*args, **kwargs)
        assert target is not None
        return self._move(tensor, target, _TYPE_NAMES[short], None)

    def _type_as(self, func: Any, args: Arguments, kwargs: Keywords) -> Any:
        other = args[1] if len(args) > 1 else kwargs["other"]
        return self._move(args[0], self._session.home(other), other.dtype, None)

    def _parse_to(self, func: Any, args: Arguments, kwargs: Keywords) -> Any:
        """Reads the arguments of `Module.to`."""
        first, *rest = args or (kwargs.get("device"),)
        if isinstance(first, Tensor):
            _, *options = func(first, *rest, **kwargs)
            return self._session.home(first).device, *options
        if isinstance(first, int):
            others = {name: value for name, value in kwargs.items() if name != "device"}
            return func(torch.device("cuda", first), *rest, **others)
        return func(*args, **kwargs)

    def _move(
        self,
        tensor: Tensor,
        target: VirtualGpu,
        dtype: torch.dtype | None,
        memory_format: torch.memory_format | None,
        *,
        copy: bool = False,
    ) -> Tensor:
        session = self._session
        source = session.device(tensor) or tensor.device
        if source == target.device:
            kept = torch.preserve_format if memory_format is None else memory_format
            return tensor.to(dtype or tensor.dtype, copy=copy, memory_format=kept)
        if source.type not in ("cpu", "cuda"):
            return tensor.to(CPU, dtype or tensor.dtype)
        return session.move(tensor, target, dtype, memory_format)

    def _copy(self, func: Any, args: Arguments, kwargs: Keywords) -> Any:
        """Let the gradient of the source come back to the source's own device."""
        tensor, *rest = args
        source = rest[0] if rest else kwargs["src"]
        return func(tensor, self._beside(tensor, source))

    def _set_item(self, func: Any, args: Arguments, kwargs: Keywords) -> Any:
        tensor, index, value = args
        if isinstance(value, Tensor):
            value = self._beside(tensor, value)
        return func(tensor, index, value)

    def _beside(self, tensor: Tensor, source: Tensor) -> Tensor:
        target = self._session.home(tensor)
        if not source.requires_grad or self._session.home(source) is target:
            return source
        return self._session.move(source, target)

    def _ctc_loss(self, func: Any, args: Arguments, kwargs: Keywords) -> Any:
        """Brings the targets' lengths, which PyTorch would move itself, beside the rest."""
        log_probabilities, targets, lengths, target_lengths, *rest = args
        target = self._session.home(log_probabilities)
        if isinstance(target_lengths, Tensor) and self._session.home(target_lengths) is not target:
            target_lengths = self._session.move(target_lengths, target)
        return func(log_probabilities, targets, lengths, target_lengths, *rest, **kwargs)

    def _dropout(self, func: Any, args: Arguments, kwargs: Keywords) -> Any:
        """Takes CUDA's operator, whose mask is of bytes."""
        tensor, p, train = (*args, *(kwargs[name] for name in ("p", "train")[len(args) - 1 :]))
        on_gpu = self._session.home(tensor).device.type == "cuda"
        if on_gpu and takes_native_dropout(tensor, p, train):
            return torch.native_dropout(tensor, p, True)[0]
        return func(tensor, p, train)

    def _numpy(self, func: Any, args: Arguments, kwargs: Keywords) -> Any:
        device = self._session.device(args[0])
        if device is not None and device.type != "cpu":
            if not kwargs.get("force"):
                raise TypeError(
                    f"can't convert {device} device type tensor to numpy. Use Tensor.cpu() to copy "
                    "the tensor to host memory first."
                )
            return self._session.copy(args[0].detach(), self._session.cpu).numpy(force=True)
        return func(*args, **kwargs)

    def _set_grad(self, func: Any, args: Arguments, kwargs: Keywords) -> Any:
        tensor, gradient = args
        if isinstance(gradient, Tensor):
            own, new = (self._session.home(each).device for each in (tensor, gradient))
            if own.type != new.type:
                raise RuntimeError(
                    f"attempting to assign a gradient with device type '{new.type}' to a tensor "
                    f"with device type '{own.type}'. Please ensure that the gradient and the "
                    "tensor are on the same device"
                )
            if own.index != new.index:
                raise RuntimeError(
                    f"attempting to assign a gradient located on device with index '{new.index}' "
                    f"to a tensor located on device with index '{own.index}'. Please ensure that "
                    "the gradient and the tensor are on the same device"
                )
        return func(*args)

    def _create(self, func: Any, args: Arguments, kwargs: Keywords) -> Any:
        device = kwargs.get("device")
        target = self._session.default() if device is None else self._session.resolve(device)
        return self._call(func, args, kwargs, target)

    def _normal(self, func: Any, args: Arguments, kwargs: Keywords) -> Any:
        """Only from two numbers is it a factory."""
        numbers = (*args[:2], kwargs.get("mean"), kwargs.get("std"))
        if any(isinstance(number, Tensor) for number in numbers):
            return func(*args, **kwargs)
        return self._create(func, args, kwargs)

    def _create_like(self, func: Any, args: Arguments, kwargs: Keywords) -> Any:
        """Where no device is given, the first tensor's counts."""
        if kwargs.get("device") is not None or not args or not isinstance(args[0], Tensor):
            return self._create(func, args, kwargs)
        options = {name: value for name, value in kwargs.items() if name != "pin_memory"}
        with self._session.requesting(self._session.home(args[0])):
            return func(*args, **options)

    def _from_data(self, func: Any, args: Arguments, kwargs: Keywords) -> Any:
        data = args[0] if args else kwargs.get("data", kwargs.get("obj"))
        if not isinstance(data, Tensor):
            return self._create(func, args, kwargs)
        source, device = self._session.home(data), kwargs.get("device")
        if device is None:
            device = torch.utils._device.CURRENT_DEVICE
        target = source if device is None else self._session.resolve(device)
        if target is None or target is source:
            return self._call(func, args, kwargs, target)
        if func is not torch.tensor:
            return self._move(data, target, kwargs.get("dtype"), None)
        result = self._call(func, args, kwargs, target)
        self._session.record(source, target, nbytes_of(result))
        return result

    def _call(self, func: Any, args: Arguments, kwargs: Keywords, target: VirtualGpu | None) -> Any:
        if target is None:
            return func(*args, **kwargs)
        options = {name: value for name, value in kwargs.items() if name != "pin_memory"}
        with self._session.requesting(target):
            return func(*args, **{**options, "device": CPU})


def _getter(name: str) -> Any:
    return vars(TensorBase)[name].__get__


def _destination(rest: Sequence[Any], kwargs: Keywords) -> tuple[object, torch.dtype | None, bool]:
    """Device (or the tensor to be like), dtype and copy of a call of `Tensor.to`."""
    first = rest[0] if rest else kwargs.get("tensor")
    if isinstance(first, Tensor):
        options = list(rest[1:])
        copy = options[1] if len(options) > 1 else kwargs.get("copy", False)
        return first, first.dtype, bool(copy)
    options = list(rest)
    device = kwargs.get("device")
    if options and not isinstance(options[0], torch.dtype):
        device = options.pop(0)
    dtype = options[0] if options else kwargs.get("dtype")
    copy = options[2] if len(options) > 2 else kwargs.get("copy", False)
    return device, dtype, bool(copy)
