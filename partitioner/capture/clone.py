"""Copies of a model without its data: the module tree is copied, each tensor replaced."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

# What `nn.Module` itself keeps in `__dict__` beside the attributes of its user.
_BOOKKEEPING = frozenset(vars(nn.Module()))


@dataclass(frozen=True, slots=True)
class NamedTensor:
    """A tensor that a module tree holds.

    Attributes:
        tensor: the tensor itself.
        role: `"parameter"`, `"buffer"` or `"constant"` (an attribute that is not registered).
        names: every qualified name, the canonical one first. A constant inside a list or dict has
            the index or key in its name, as in `shifts.0`.
    """

    tensor: Tensor
    role: str
    names: tuple[str, ...]


def named_tensors(model: nn.Module) -> tuple[NamedTensor, ...]:
    """List every tensor that the module tree holds, in order of registration, each once."""
    found: dict[int, tuple[Tensor, str, list[str]]] = {}

    def add(tensor: Tensor | None, role: str, name: str) -> None:
        if tensor is not None:
            found.setdefault(id(tensor), (tensor, role, []))[2].append(name)

    for path, module in model.named_modules(remove_duplicate=False):
        for name, parameter in module._parameters.items():
            add(parameter, "parameter", joined(path, name))
        for name, buffer in module._buffers.items():
            add(buffer, "buffer", joined(path, name))
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if name not in _BOOKKEEPING:
                for inner, tensor in _tensors_within(value, joined(path, name), set()):
                    add(tensor, "constant", inner)
    return tuple(NamedTensor(tensor, role, tuple(names)) for tensor, role, names in found.values())


def joined(path: str, name: str) -> str:
    """Join a module path and a name with a dot; the root's path is empty."""
    return f"{path}.{name}" if path else name


def fetch(model: nn.Module, name: str) -> Any:
    """Read what a qualified name stands for: attributes, and indices or keys of containers.

    Raises:
        KeyError: nothing is there.
    """
    value: Any = model
    for step in name.split(".") if name else ():
        if isinstance(value, nn.Module) or hasattr(value, step):
            if not hasattr(value, step):
                raise KeyError(f"{type(model).__name__} has no {name!r}")
            value = getattr(value, step)
        elif isinstance(value, (list, tuple)) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        elif isinstance(value, dict) and step in value:
            value = value[step]
        elif isinstance(value, dict) and step.isdigit() and int(step) in value:
            value = value[int(step)]
        else:
            raise KeyError(f"{type(model).__name__} has no {name!r}")
    return value


def clone(model: nn.Module, replace: Callable[[Tensor, str], Tensor]) -> nn.Module:
    """Copy the module tree, each tensor replaced by `replace(tensor, canonical_name)`.

    Ties stay ties, the original is untouched, and no tensor's data is copied by this function.
    Attributes that cannot be copied (locks, open files) are shared with the original.
    """
    memo = _empty_containers(model)
    for held in named_tensors(model):
        memo[id(held.tensor)] = replace(held.tensor, held.names[0])
    with _ReplaceUnnamed(replace):
        try:
            return copy.deepcopy(model, dict(memo))
        except (TypeError, RuntimeError, NotImplementedError):
            memo.update(_uncopyable(model, memo))
            return copy.deepcopy(model, memo)


def fake_clone(model: nn.Module, mode: FakeTensorMode) -> nn.Module:
    """Copy the module tree with fake tensors of `mode`, all on the CPU whatever the original's."""
    return clone(model, lambda tensor, _: fake_like(tensor, mode))


def in_mode(module: nn.Module, training: bool) -> nn.Module:
    """The module in train or eval mode.

    Where the whole is in that mode already, its submodules keep their own: a frozen batch norm
    inside a model in training stays frozen, as it does when its user calls the model.
    """
    return module if module.training == training else module.train(training)


def fake_like(tensor: Tensor, mode: FakeTensorMode) -> Tensor:
    """Make a fake CPU tensor (a parameter for a parameter) with the sizes of `tensor`."""
    with mode, torch.no_grad():
        if tensor.layout is torch.strided:
            fake = torch.empty_strided(
                tuple(tensor.shape), tensor.stride(), dtype=tensor.dtype, device="cpu"
            )
        else:
            fake = torch.empty(tuple(tensor.shape), dtype=tensor.dtype, device="cpu")
        if isinstance(tensor, nn.Parameter):
            return nn.Parameter(fake, requires_grad=tensor.requires_grad)
        return fake.requires_grad_(tensor.requires_grad)


class _ReplaceUnnamed(TorchFunctionMode):
    """Replaces tensors that only the copying finds, deep inside unknown objects."""

    def __init__(self, replace: Callable[[Tensor, str], Tensor]) -> None:
        super().__init__()
        self._replace = replace
        self._count = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is Tensor.__deepcopy__:
            tensor, memo = args
            if id(tensor) not in memo:
                memo[id(tensor)] = self._replace(tensor, f"_unnamed_{self._count}")
                self._count += 1
            return memo[id(tensor)]
        return func(*args, **(kwargs or {}))


def _empty_containers(model: nn.Module) -> dict[int, Any]:
    """Copies of the empty containers that every module keeps: `deepcopy` takes long for each."""
    return {
        id(value): type(value)()
        for module in model.modules()
        for name, value in vars(module).items()
        if name in _BOOKKEEPING and type(value) in (dict, set, OrderedDict) and not value
    }


def _uncopyable(model: nn.Module, memo: dict[int, Any]) -> dict[int, Any]:
    shared: dict[int, Any] = {}
    for module in model.modules():
        for name, value in vars(module).items():
            if name in _BOOKKEEPING:
                continue
            try:
                copy.deepcopy(value, {**memo, **{id(each): each for each in model.modules()}})
            except Exception:
                shared[id(value)] = value
    return shared


def _tensors_within(value: Any, name: str, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
        return
    if not isinstance(value, (list, tuple, dict, nn.Module)) or id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, nn.Module):
        for inner, tensor in (*value.named_parameters(), *value.named_buffers()):
            yield f"{name}.{inner}", tensor
        return
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in entries:
        yield from _tensors_within(item, f"{name}.{key}", seen)
