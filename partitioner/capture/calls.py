"""How an intercepted torch call is written as a node of a graph."""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable
from typing import Any

from torch import Tensor

# Methods of two tensors (or a tensor and a number) with an operator of their own.
_OPERATORS: dict[str, Callable[..., Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "subtract": operator.sub,
    "mul": operator.mul,
    "multiply": operator.mul,
    "div": operator.truediv,
    "true_divide": operator.truediv,
    "floor_divide": operator.floordiv,
    "__floordiv__": operator.floordiv,
    "remainder": operator.mod,
    "matmul": operator.matmul,
    "pow": operator.pow,
    "__pow__": operator.pow,
    "__and__": operator.and_,
    "__or__": operator.or_,
    "__xor__": operator.xor,
    "__lshift__": operator.lshift,
    "__rshift__": operator.rshift,
    "bitwise_and": operator.and_,
    "bitwise_or": operator.or_,
    "bitwise_xor": operator.xor,
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "__eq__": operator.eq,
    "__ne__": operator.ne,
    "__lt__": operator.lt,
    "__le__": operator.le,
    "__gt__": operator.gt,
    "__ge__": operator.ge,
    "__getitem__": operator.getitem,
}

_REVERSED: dict[str, Callable[..., Any]] = {
    "__rsub__": operator.sub,
    "__rdiv__": operator.truediv,
    "__rtruediv__": operator.truediv,
    "__rfloordiv__": operator.floordiv,
    "__rpow__": operator.pow,
    "__rmod__": operator.mod,
    "__rmatmul__": operator.matmul,
    "__rlshift__": operator.lshift,
    "__rrshift__": operator.rshift,
    "__rand__": operator.and_,
    "__ror__": operator.or_,
    "__rxor__": operator.xor,
}

_UNARY: dict[str, Callable[..., Any]] = {
    "neg": operator.neg,
    "__neg__": operator.neg,
    "__invert__": operator.invert,
    "bitwise_not": operator.invert,
}

Written = tuple[str, Any, tuple[Any, ...], dict[str, Any]]


def is_getter(func: Any) -> bool:
    """Whether a torch function reads an attribute, as in `x.shape`."""
    return getattr(func, "__name__", "") == "__get__"


def is_method(func: Any) -> bool:
    """Whether a torch function is a method of tensors."""
    name = getattr(func, "__name__", "")
    return bool(name) and getattr(Tensor, name, None) == func


def written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Written:
    """Write a call as `(op, target, args, kwargs)` of a graph node.

    Operators are spelled as operators, methods as methods, attributes as `getattr`.
    """
    name = getattr(func, "__name__", "")
    if is_getter(func):
        return "call_function", getattr, (args[0], func.__self__.__name__), {}
    if name == "__setitem__":
        return "call_function", operator.setitem, args, kwargs
    kwargs = _told(func, kwargs)
    method = is_method(func)
    if method or name in _REVERSED:
        if len(args) == 2 and not kwargs:
            if name in _OPERATORS:
                return "call_function", _OPERATORS[name], args, kwargs
            if name in _REVERSED:
                return "call_function", _REVERSED[name], (args[1], args[0]), kwargs
        if len(args) == 1 and not kwargs and name in _UNARY:
            return "call_function", _UNARY[name], args, kwargs
    if method:
        return "call_method", name, args, kwargs
    return "call_function", func, args, kwargs


def _told(func: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Leave out keywords that say what is the default anyway, and private ones.

    `training` stays: whether it follows the mode is seen later.
    """
    if not kwargs:
        return kwargs
    defaults = _defaults(func)
    return {
        name: value
        for name, value in kwargs.items()
        if not name.startswith("_")
        and not (
            name in defaults
            and name not in ("training", "train")
            and type(value) is type(defaults[name])
            and isinstance(value, (bool, int, float, str, type(None)))
            and value == defaults[name]
        )
    }


@functools.cache
def _defaults(func: Any) -> dict[str, Any]:
    try:
        parameters = inspect.signature(func).parameters
    except (TypeError, ValueError):
        return {}
    return {name: parameter.default for name, parameter in parameters.items()}
