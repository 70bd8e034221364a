"""What is replaced in PyTorch for the time of a session, and how it comes back."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorConverter

from partitioner.virtual.cuda import cuda_patches
from partitioner.virtual.functions import FunctionMode
from partitioner.virtual.ledger import VirtualGpu, storages
from partitioner.virtual.session import Session

_MISSING = object()


@dataclass(slots=True)
class Patches:
    """Attributes and their replacements; `apply` and `undo` may alternate."""

    wanted: Sequence[tuple[Any, str, Any]]
    _kept: list[tuple[Any, str, Any]] = field(default_factory=list)

    def apply(self) -> None:
        """Put every replacement in place."""
        for owner, name, value in self.wanted:
            self._kept.append((owner, name, vars(owner).get(name, _MISSING)))
            setattr(owner, name, value)

    def undo(self) -> None:
        """Put back what was there, last replaced first."""
        while self._kept:
            owner, name, value = self._kept.pop()
            if value is _MISSING:
                delattr(owner, name)
            else:
                setattr(owner, name, value)


def patches_for(session: Session, function_mode: FunctionMode) -> Patches:
    """Everything that the two modes cannot catch themselves."""
    return Patches(
        [
            *cuda_patches(session),
            *_transparent_functions(function_mode),
            *_storage_patches(session),
            *_fake_tensor_patches(session),
            *_saved_tensor_patches(session, function_mode),
            *_optimizer_patches(),
            *_tensor_patches(),
            (torch, "compile", _compile),
        ]
    )


def _compile(model: Any = None, **options: Any) -> Any:
    """`torch.compile` without a compiler, which would not see the virtual devices."""
    return _torch_compile(model, backend="eager")


_torch_compile: Any = torch.compile


def _transparent_functions(function_mode: FunctionMode) -> Iterator[tuple[Any, str, Any]]:
    """Let PyTorch's functions that are written in Python run their bodies under the function mode.

    They hand themselves over to the mode at the top and would run without it, so that a
    `zeros(device=query.device)` inside attention would not be translated. For plain tensors under
    our mode they must not notice the mode at all.
    """
    plain: dict[type, bool] = {}

    def is_plain(kind: type) -> bool:
        known = plain.get(kind)
        if known is None:
            override = getattr(kind, "__torch_function__", None)
            own = kind in (Tensor, torch.nn.Parameter)
            known = own or override in (None, torch._C._disabled_torch_function_impl)
            plain[kind] = known
        return known

    def unary(original: Callable[..., bool]) -> Callable[..., bool]:
        def has_torch_function_unary(value: object, /) -> bool:
            if is_plain(type(value)) and function_mode.is_innermost():
                return False
            return original(value)

        return has_torch_function_unary

    def variadic(original: Callable[..., bool]) -> Callable[..., bool]:
        def has_torch_function_variadic(*values: object) -> bool:
            if function_mode.is_innermost() and all(is_plain(type(value)) for value in values):
                return False
            return original(*values)

        return has_torch_function_variadic

    def sequence(original: Callable[..., bool]) -> Callable[..., bool]:
        def has_torch_function(values: Sequence[object], /) -> bool:
            values = tuple(values)
            if function_mode.is_innermost() and all(is_plain(type(value)) for value in values):
                return False
            return original(values)

        return has_torch_function

    replaced = {
        "has_torch_function": sequence(torch.overrides.has_torch_function),
        "has_torch_function_unary": unary(torch.overrides.has_torch_function_unary),
        "has_torch_function_variadic": variadic(torch.overrides.has_torch_function_variadic),
    }
    originals = {name: getattr(torch.overrides, name) for name in replaced}
    for module_name, module in list(sys.modules.items()):
        if module_name.partition(".")[0] != "torch" or module is None:
            continue
        for name, original in originals.items():
            if vars(module).get(name) is original:
                yield module, name, replaced[name]


def _storage_patches(session: Session) -> Iterator[tuple[Any, str, Any]]:
    """Storages answer and move as tensors do; saving, loading and `deepcopy` ask them."""
    kind = torch.UntypedStorage
    device_of: Any = kind.device
    clone: Any = kind.clone
    to, resize = kind.to, kind.resize_

    def labelled(storage: torch.UntypedStorage) -> Any:
        return getattr(storage, session.label, None)

    def device(storage: torch.UntypedStorage) -> torch.device:
        block = labelled(storage)
        if block is not None and torch._C._is_torch_function_enabled():
            found: torch.device = block.gpu.device
            return found
        original: torch.device = device_of.__get__(storage)
        return original

    def cloned(storage: torch.UntypedStorage) -> Any:
        block = labelled(storage)
        return clone(storage) if block is None else _copied(storage, session, block.gpu)

    def moved(storage: torch.UntypedStorage, *, device: Any, non_blocking: bool = False) -> Any:
        target = session.resolve(device)
        if target is None:
            return to(storage, device=device, non_blocking=non_blocking)
        source = session.storage_home(storage)
        if source is target:
            return storage
        session.record(source, target, int(storage.nbytes()))
        return _copied(storage, session, target)

    def on_cpu(storage: torch.UntypedStorage) -> Any:
        return moved(storage, device="cpu")

    def resized(storage: torch.UntypedStorage, size: int) -> Any:
        result = resize(storage, size)
        session.recount(storage)
        return result

    yield kind, "device", property(device)
    yield kind, "clone", cloned
    yield kind, "to", moved
    yield kind, "cpu", on_cpu
    yield kind, "resize_", resized


def _copied(storage: torch.UntypedStorage, session: Session, gpu: VirtualGpu) -> Any:
    kind: Any = torch.UntypedStorage
    with torch._C.DisableTorchFunction():
        copy = kind(storage.nbytes(), device=storage.device)
    session.claim(copy, gpu)
    return copy.copy_(storage, False)


def _fake_tensor_patches(session: Session) -> Iterator[tuple[Any, str, Any]]:
    """Fake tensors carry labels too; their own machinery must go on seeing the CPU.

    A fake `cuda` tensor that requires gradients would abort a process without CUDA. `Module.to`
    swaps fake parameters with their moved copies, which fails where fake tensor modes hold weak
    references to them; only the first of the two is ever used again. A deep copy would carry a
    copy of its mode along, which no other fake tensor could meet.
    """
    device_of: Any = FakeTensor.device
    convert: Any = FakeTensorConverter.from_real_tensor

    def device(tensor: FakeTensor) -> torch.device:
        if torch._C._is_torch_function_enabled():
            found = session.device(tensor)
            if found is not None:
                return found
        original: torch.device = device_of.__get__(tensor)
        return original

    def from_real_tensor(
        converter: FakeTensorConverter, mode: Any, tensor: Tensor, *args: Any, **kwargs: Any
    ) -> FakeTensor:
        with torch._C.DisableTorchFunction():
            fake: FakeTensor = convert(converter, mode, tensor, *args, **kwargs)
            block = session.block(tensor)
            if block is not None:
                for storage in storages(fake):
                    session.claim(storage, block.gpu)
        return fake

    def swap_tensors(first: Tensor, second: Tensor) -> None:
        if isinstance(first, FakeTensor) and isinstance(second, FakeTensor):
            first.data = second.data
        else:
            swap(first, second)

    def deepcopy(tensor: Any, memo: dict[int, Any]) -> Any:
        if id(tensor) not in memo:
            copy = tensor.detach().clone().requires_grad_(tensor.requires_grad)
            if isinstance(tensor, torch.nn.Parameter):
                copy._is_param = True
            if tensor.grad is not None:
                copy.grad = deepcopy(tensor.grad, memo)
            memo[id(tensor)] = copy
        return memo[id(tensor)]

    swap: Any = torch.utils.swap_tensors
    yield torch.utils, "swap_tensors", swap_tensors
    yield FakeTensor, "device", property(device)
    yield FakeTensor, "__deepcopy__", deepcopy
    yield FakeTensorConverter, "from_real_tensor", from_real_tensor


def _saved_tensor_patches(
    session: Session, function_mode: FunctionMode
) -> Iterator[tuple[Any, str, Any]]:
    """Hooks on saved tensors run inside an operator, where the function mode is not entered."""
    autograd = torch._C._autograd
    push = autograd._push_saved_tensors_default_hooks

    def within_mode(hook: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def run(value: Any) -> Any:
            if not session.active or function_mode.is_entered():
                return hook(value)
            with function_mode:
                return hook(value)

        return run

    def push_hooks(pack: Callable[[Any], Any], unpack: Callable[[Any], Any]) -> None:
        push(within_mode(pack), within_mode(unpack))

    yield autograd, "_push_saved_tensors_default_hooks", push_hooks


def _optimizer_patches() -> Iterator[tuple[Any, str, Any]]:
    """Optimizers group tensors by labelled device, and treat fake ones like real ones."""

    def group(
        lists: Sequence[Sequence[Tensor | None]], with_indices: bool = False
    ) -> dict[tuple[torch.device, torch.dtype], tuple[list[list[Tensor | None]], list[int]]]:
        groups: dict[Any, tuple[list[list[Tensor | None]], list[int]]] = {}
        for i, first in enumerate(lists[0]):
            assert first is not None
            columns, indices = groups.setdefault(
                (first.device, first.dtype), ([[] for _ in lists], [])
            )
            for column, values in zip(columns, lists, strict=True):
                if values:
                    column.append(values[i])
            if with_indices:
                indices.append(i)
        return groups

    yield torch._C, "_group_tensors_by_device_and_dtype", group
    for name in ("torch.optim.optimizer", "torch.utils._foreach_utils"):
        module = import_module(name)
        known = module._foreach_supported_types
        yield module, "_foreach_supported_types", [*known, FakeTensor]


def _tensor_patches() -> Iterator[tuple[Any, str, Any]]:
    """Methods that cannot wait for a mode: loaders pin in threads of their own."""
    pinned = "_virtually_pinned"

    def pin_memory(tensor: Tensor, device: object = None) -> Tensor:
        if tensor.is_cuda:
            raise RuntimeError(f"cannot pin '{tensor.type()}' only dense CPU tensors can be pinned")
        copy = tensor.clone()
        setattr(copy, pinned, True)
        return copy

    def is_pinned(tensor: Tensor, device: object = None) -> bool:
        return bool(getattr(tensor, pinned, False))

    yield Tensor, "pin_memory", pin_memory
    yield Tensor, "is_pinned", is_pinned
    yield Tensor, "record_stream", lambda tensor, stream: None
