"""Numbers that vary with the sizes of the inputs, for Python code to compute with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

if TYPE_CHECKING:
    from partitioner.capture.symbols import Symbols

SYMBOLIC = (torch.SymInt, torch.SymFloat, torch.SymBool)
"""PyTorch's classes of numbers that are no plain ones; ours are derived from them."""


class DataDecidesError(BaseException):
    """Python code decides by a number that depends on data.

    Not an `Exception`, so that no model swallows it.
    """


@dataclass(frozen=True, slots=True)
class Read:
    """A size, read from the tensor of a node: a dimension of it, or all elements for `None`."""

    node: fx.Node
    dimension: int | None


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """A number computed from others, by a name of `FUNCTIONS`."""

    name: str
    operands: tuple[Any, ...]


class Varying:
    """What `Size` and `Real` share: two values, and where they come from."""

    def __init__(
        self, first: Any, second: Any, expression: Any, symbols: Symbols, data: bool
    ) -> None:
        self.first = first
        self.second = second
        self.expression = expression
        self.symbols = symbols
        self.data = data

    @property
    def node(self) -> Any:
        """What PyTorch's own symbolic numbers have: asked for where a plain number is needed."""
        return self._value()

    def _value(self) -> Any:
        if self.data:
            raise DataDecidesError("a number that depends on data is needed at once")
        self.symbols.fix(self)

    def _with(self, name: str, *operands: Any) -> Any:
        if not all(isinstance(operand, (int, float, Varying)) for operand in operands):
            return NotImplemented
        if len(operands) == 2:
            left, right = operands
            if type(right) is int and (name, right) in _NEUTRAL_RIGHT:
                return left
            if type(left) is int and (name, left) in _NEUTRAL_LEFT:
                return right
        return self.symbols.combined(name, *operands)

    def _decided(self, name: str, other: Any) -> Any:
        if not isinstance(other, (int, float, Varying)):
            return NotImplemented
        return self.symbols.decided(name, self, other)

    def __repr__(self) -> str:
        return repr(self.first)

    def __format__(self, spec: str) -> str:
        return format(self.first, spec)

    def __bool__(self) -> bool:
        return bool(self._decided("ne", 0))

    def __hash__(self) -> int:
        return hash(self._value())

    def __eq__(self, other: object) -> Any:
        return self._decided("eq", other)

    def __ne__(self, other: object) -> Any:
        return self._decided("ne", other)

    def __lt__(self, other: Any) -> Any:
        return self._decided("lt", other)

    def __le__(self, other: Any) -> Any:
        return self._decided("le", other)

    def __gt__(self, other: Any) -> Any:
        return self._decided("gt", other)

    def __ge__(self, other: Any) -> Any:
        return self._decided("ge", other)

    def __add__(self, other: Any) -> Any:
        return self._with("add", self, other)

    def __radd__(self, other: Any) -> Any:
        return self._with("add", other, self)

    def __sub__(self, other: Any) -> Any:
        return self._with("sub", self, other)

    def __rsub__(self, other: Any) -> Any:
        return self._with("sub", other, self)

    def __mul__(self, other: Any) -> Any:
        return self._with("mul", self, other)

    def __rmul__(self, other: Any) -> Any:
        return self._with("mul", other, self)

    def __truediv__(self, other: Any) -> Any:
        return self._with("truediv", self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return self._with("truediv", other, self)

    def __floordiv__(self, other: Any) -> Any:
        return self._with("floordiv", self, other)

    def __rfloordiv__(self, other: Any) -> Any:
        return self._with("floordiv", other, self)

    def __mod__(self, other: Any) -> Any:
        return self._with("mod", self, other)

    def __rmod__(self, other: Any) -> Any:
        return self._with("mod", other, self)

    def __divmod__(self, other: Any) -> Any:
        return self._with("floordiv", self, other), self._with("mod", self, other)

    def __pow__(self, other: Any) -> Any:
        return self._with("pow", self, other)

    def __rpow__(self, other: Any) -> Any:
        return self._with("pow", other, self)

    def __neg__(self) -> Any:
        return self._with("mul", self, -1)

    def __pos__(self) -> Any:
        return self

    def __abs__(self) -> Any:
        return self._with("abs", self)

    def __sym_float__(self) -> Any:
        return self._with("float", self)

    def __sym_max__(self, other: Any) -> Any:
        return self._with("max", self, other)

    def __sym_min__(self, other: Any) -> Any:
        return self._with("min", self, other)


class Size(Varying, torch.SymInt):
    """A whole number that varies with the sizes of the inputs, for Python code to compute with."""

    def __int__(self) -> int:
        return int(self._value())

    def __index__(self) -> int:
        return int(self._value())

    def __float__(self) -> float:
        return float(self._value())

    def __round__(self, ndigits: int | None = None) -> Any:
        return self

    def __ceil__(self) -> Any:
        return self

    def __floor__(self) -> Any:
        return self

    def __trunc__(self) -> Any:
        return self


class Real(Varying, torch.SymFloat):
    """A real number that varies with the sizes of the inputs."""

    def __int__(self) -> int:
        return int(self._value())

    def __float__(self) -> float:
        return float(self._value())

    def __round__(self, ndigits: int | None = None) -> Any:
        return self._with("round", self, *(() if ndigits is None else (ndigits,)))

    def __ceil__(self) -> Any:
        return self._with("ceil", self)

    def __floor__(self) -> Any:
        return self._with("floor", self)

    def __trunc__(self) -> Any:
        return self._with("trunc", self)


NUMBERS = (Size, Real)
"""The classes of numbers that vary."""


def first_of(value: Any) -> Any:
    """Put the example's numbers, nested in lists and the like, in the places of varying ones."""
    return replaced(value, lambda part: part.first if isinstance(part, Varying) else part)


def second_of(value: Any) -> Any:
    """Put the twin's numbers in the places of varying ones."""
    return replaced(value, lambda part: part.second if isinstance(part, Varying) else part)


def holds_data(value: Any) -> bool:
    """Whether a number that depends on data is among the parts of a value."""
    found: list[Varying] = []
    replaced(value, lambda part: found.append(part) if isinstance(part, Varying) else part)
    return any(number.data for number in found)


def other_data(value: Any) -> Any:
    """Put 0 in the places of numbers that depend on data, for which 1 stands otherwise."""
    return replaced(value, lambda part: 0 if isinstance(part, Varying) and part.data else part)


def replaced(value: Any, change: Callable[[Any], Any]) -> Any:
    """Change each part of a value that is no tuple, list, dict or slice."""
    if isinstance(value, tuple):
        items = [replaced(item, change) for item in value]
        if all(one is other for one, other in zip(items, value, strict=True)):
            return value
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if isinstance(value, list):
        return [replaced(item, change) for item in value]
    if isinstance(value, slice):
        parts = (value.start, value.stop, value.step)
        return slice(*(replaced(part, change) for part in parts))
    if type(value) is dict:
        return {key: replaced(item, change) for key, item in value.items()}
    return change(value)


_NEUTRAL_LEFT = frozenset({("add", 0), ("mul", 1)})
_NEUTRAL_RIGHT = _NEUTRAL_LEFT | {("sub", 0), ("floordiv", 1), ("pow", 1)}
