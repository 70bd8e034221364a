"""Functions by name and back, from an allow-list: nothing else is ever looked up."""

from __future__ import annotations

import builtins
import functools
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import get_overridable_functions

from partitioner.errors import PlanError


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_OPERATORS = _words(
    "abs add and_ eq floordiv ge getitem gt iadd iand ifloordiv imod imul index invert ior ipow "
    "isub itruediv ixor le lshift lt matmul mod mul ne neg not_ or_ pos pow rshift setitem sub "
    "truediv xor"
)
_DUNDERS = ("__len__", "__and__", "__or__", "__xor__", "__invert__")
_MATHS = _words("ceil floor trunc sqrt log log2 exp prod")
_BUILTINS = _words("abs bool float getattr int len max min round sum")

# Functions of tensors with a name that begins with an underscore: checks of data, and products of
# matrices.
_UNDERSCORED = _words("_assert_async _grouped_mm _scaled_mm _scaled_grouped_mm")

# Namespaces whose functions a recording may hold, in the order in which names are preferred.
_SPACES: tuple[tuple[str, Any], ...] = (
    ("torch.nn.functional", torch.nn.functional),
    ("torch", torch),
    ("torch.special", torch.special),
    ("torch.linalg", torch.linalg),
    ("torch.fft", torch.fft),
    ("torch.Tensor", Tensor),
    ("torch._C._nn", torch._C._nn),
    ("torch._C._VariableFunctions", torch._C._VariableFunctions),
)

# Known to PyTorch as functions of tensors, but they reach outside of them or call other functions.
_DENIED = _words(
    "apply_ backward from_file load map2_ map_ module_load record_stream register_hook "
    "register_post_accumulate_grad_hook save set_ share_memory_ storage untyped_storage"
)


def name_of(function: Callable[..., Any]) -> str:
    """Name a function that a graph calls.

    Raises:
        PlanError: it is none of PyTorch's or Python's.
    """
    name = _names().get(id(function))
    if name is None:
        shown = getattr(function, "__qualname__", repr(function))
        where = getattr(function, "__module__", None) or "an unknown module"
        raise PlanError(
            f"a plan cannot hold a call of {shown} (of {where}): it is none of PyTorch's"
        )
    return name


def function_of(name: str) -> Callable[..., Any]:
    """Look a function up by its name.

    Raises:
        PlanError: the name is not on the allow-list.
    """
    found = _functions().get(name)
    if found is None:
        raise PlanError(f"a plan cannot call {name!r}: it is no known function of tensors")
    return found


def is_method(name: str) -> bool:
    """Whether a graph may call this method of tensors."""
    return name in _methods()


def is_attribute(name: str) -> bool:
    """Whether a graph may read this attribute of tensors."""
    return name in ("T", "H", "mT", "mH", "data", "real", "imag", "grad", "shape", "dtype")


@functools.cache
def _functions() -> Mapping[str, Callable[..., Any]]:
    """By name; a function with several names has them all."""
    found: dict[str, Callable[..., Any]] = {}
    for space, names in ((operator, _OPERATORS), (math, _MATHS), (builtins, _BUILTINS)):
        for name in names:
            found[f"{space.__name__}.{name}"] = getattr(space, name)
    known = {id(function) for group in get_overridable_functions().values() for function in group}
    native = dir(torch._C._VariableFunctions)
    known |= {id(getattr(torch, name, None)) for name in native if not name.startswith("_")}
    known |= {id(getattr(torch, name, None)) for name in _UNDERSCORED}
    for prefix, space in _SPACES:
        for name in sorted(dir(space)):
            value = getattr(space, name, None)
            if name not in _DENIED and callable(value) and id(value) in known:
                found[f"{prefix}.{name}"] = value
    return found


@functools.cache
def _names() -> Mapping[int, str]:
    """By identity of the function, its preferred name."""
    names: dict[int, str] = {}
    for name, function in _functions().items():
        names.setdefault(id(function), name)
    return names


@functools.cache
def _methods() -> frozenset[str]:
    overridable = {id(each) for group in get_overridable_functions().values() for each in group}
    native = vars(torch._C.TensorBase)
    return frozenset(
        name
        for name in dir(Tensor)
        if name not in _DENIED
        and callable(getattr(Tensor, name))
        and (id(getattr(Tensor, name)) in overridable or name in native)
        and (not name.startswith("_") or name in _DUNDERS)
    )
