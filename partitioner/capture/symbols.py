"""Sizes that know where they come from, so that a recording holds for other sizes too.

A recording runs every call twice, side by side: on tensors of the example's sizes, and on *twins*
whose sizes are multiples (or fractions) of them, a different prime for each free size. A size that
is equal in both is a constant. One that differs is given to Python code as a `Size`, which can be
computed with; where it arrives in a call, a graph node that makes the same number stands in its
place. Where Python code decides by such a number, both sides must decide alike, and the decision
is a `Condition` that later calls must meet. Where the twin cannot follow (a layer wants just this
size, a loop runs that many times), that size is fixed, and recording starts again.

This does in about a tenth of the time what symbolic shapes do, which compute with expressions in
every operator.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, NoReturn

import torch
from torch import Tensor, fx

SYMBOLIC = (torch.SymInt, torch.SymFloat, torch.SymBool)
# Twins are so many times larger. No two are such that a size plus a small number becomes another
# size on both sides: `(p - 1) / (q - 1)` has a numerator and denominator far apart.
_PRIMES = (11, 37, 23, 71, 113, 59, 167, 83, 227, 131)
_SMALL_PRIMES = (2, 3, 5, 7, 11, 13)

MakeNode = Callable[[str, Any, tuple[Any, ...]], fx.Node]


class SizesFixedError(BaseException):
    """Some sizes turned out to be fixed: recording starts again.

    Not an `Exception`, so that no model swallows it.
    """


class DataDecidesError(BaseException):
    """Python code decides by a number that depends on data.

    Not an `Exception`, so that no model swallows it.
    """


@dataclass(frozen=True, slots=True)
class Dimension:
    """One size of one input: placeholder name and dimension."""

    name: str
    dimension: int


@dataclass(frozen=True, slots=True)
class Condition:
    """What the sizes of the inputs must meet for the recording to hold.

    Attributes:
        expression: nested tuples, `(operator name, operand, ...)` over `Dimension`s and numbers,
            such as `("eq", ("mod", Dimension("x", 2), 2), 0)`; the names are those of `FUNCTIONS`.
        text: the same for people: `x.shape[2] % 2 == 0`.
    """

    expression: Any
    text: str

    def holds(self, sizes: Callable[[str, int], int]) -> bool:
        """Whether inputs whose sizes are `sizes(placeholder name, dimension)` meet it."""
        return bool(_evaluated(self.expression, sizes))


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


@dataclass(slots=True)
class Group:
    """Sizes that vary together: equal sizes in the same dimension of several inputs.

    Attributes:
        size: the example's.
        dimension: where in its inputs.
        prime: what the twin's size is multiplied with if its way is up.
        is_token: all inputs that have it hold integers.
        way: `"up"`, `"down"` or `"fixed"`.
        members: the sizes themselves.
    """

    size: int
    dimension: int
    prime: int
    is_token: bool = True
    way: str = "up"
    members: list[Dimension] = field(default_factory=list)

    @property
    def factor(self) -> Fraction:
        """The twin's size over the example's."""
        return {
            "up": Fraction(self.prime),
            "down": Fraction(1, self.divisor),
            "fixed": Fraction(1),
        }[self.way]

    @property
    def divisor(self) -> int:
        """What the twin's size is divided by if its way is down."""
        return next((d for d in range(2, self.size) if self.size % d == 0), 1)

    def give_way(self) -> None:
        """Try a smaller twin for the length of a token sequence; otherwise fix the size."""
        smaller = self.is_token and self.divisor > 1
        self.way = "down" if self.way == "up" and smaller else "fixed"


class Groups:
    """Which sizes of the inputs vary together, and which have turned out to be fixed."""

    def __init__(self, inputs: Sequence[tuple[str, Tensor]], *, small: bool = False) -> None:
        """Group the sizes above one of all inputs, and a first size of one that all have.

        Args:
            inputs: placeholder names and examples.
            small: use small factors, since the model's time grows with its sizes even when it is
                recorded (recurrent layers).
        """
        primes = _SMALL_PRIMES if small else _PRIMES
        batch_of_one = all(tensor.shape[0] == 1 for _, tensor in inputs if tensor.dim())
        self.groups: dict[tuple[int, int], Group] = {}
        self.constant: list[tuple[Dimension, int]] = []
        for name, tensor in inputs:
            for dimension, size in enumerate(tensor.shape):
                if size > 1 or (size == 1 and dimension == 0 and batch_of_one):
                    key = (int(size), dimension)
                    group = self.groups.setdefault(key, Group(int(size), dimension, 1))
                    group.members.append(Dimension(name, dimension))
                    group.is_token &= not tensor.dtype.is_floating_point
                else:
                    self.constant.append((Dimension(name, dimension), int(size)))
        later_first = sorted(self.groups.values(), key=lambda group: group.dimension == 0)
        for index, group in enumerate(later_first):
            group.prime = primes[index] if index < len(primes) else 1
            if group.prime == 1:
                group.way = "fixed"

    def free(self) -> list[Group]:
        """The groups that are not fixed."""
        return [group for group in self.groups.values() if group.way != "fixed"]

    def fix_more(self) -> None:
        """Fix all sizes but first ones, or all if those are fixed already."""
        inner = [group for group in self.free() if group.dimension]
        for group in inner or self.free():
            group.way = "fixed"

    def twin_shape(self, tensor: Tensor) -> list[int]:
        """The sizes of an input's twin."""
        shape = []
        for dimension, size in enumerate(tensor.shape):
            group = self.groups.get((int(size), dimension))
            shape.append(int(size * group.factor) if group else int(size))
        return shape

    def behind(self, first: float, second: float) -> list[Group]:
        """Tell the groups that a number with these two values depends on."""
        if not first or not second or first == second:
            return []
        ratio = Fraction(second) / Fraction(first)
        return [
            group
            for group in self.free()
            if ratio.numerator % group.factor.numerator == 0
            and ratio.denominator % group.factor.denominator == 0
        ]

    def monomial(self, first: int, second: int) -> Any:
        """Write a number as a product of a constant and input sizes; `None` if it is none."""
        if not isinstance(first, int) or first <= 0 or second <= 0:
            return None
        factors: list[Dimension | int] = []
        ratio, rest = Fraction(second, first), first
        for group in self.behind(first, second):
            while ratio != 1 and rest % group.size == 0:
                remaining = ratio / group.factor
                if remaining.numerator * remaining.denominator >= (
                    ratio.numerator * ratio.denominator
                ):
                    break
                ratio, rest = remaining, rest // group.size
                factors.append(group.members[0])
        if ratio != 1 or not factors:
            return None
        if rest != 1:
            factors.append(rest)
        return factors[0] if len(factors) == 1 else ("mul", *factors)

    def specialised(self) -> tuple[tuple[str, int, int], ...]:
        """List `(input, dimension, size)` of all fixed sizes, in the order of the inputs."""
        fixed = list(self.constant)
        for group in self.groups.values():
            if group.way == "fixed":
                fixed.extend((member, group.size) for member in group.members)
        return tuple(sorted((d.name, d.dimension, size) for d, size in fixed))


class Symbols:
    """The varying numbers of one recording, and the nodes that make them.

    Scopes nest as module calls do, so that a size that is read inside one module is not used in
    another: each takes it from its own tensors, as its own code does.
    """

    def __init__(self, groups: Groups) -> None:
        self.groups = groups
        self.active = bool(groups.free())
        self.conditions: dict[str, Condition] = {}
        self._known: list[dict[Any, fx.Node]] = [{}]
        self._sources: list[dict[Any, Read]] = [{}]
        self._data: set[tuple[int, int]] = set()

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Open the scope of a module call."""
        self._known.append({})
        self._sources.append({})
        try:
            yield
        finally:
            self._known.pop()
            self._sources.pop()

    def size(self, first: int, second: int, read: Read | None) -> Any:
        """Give Python code a size: a plain number where both sides agree."""
        if first == second:
            return first
        if read is None:
            return first
        self._sources[-1][first, second] = read
        return Size(first, second, read, self, (first, second) in self._data)

    def result(self, first: float, second: float, node: fx.Node, *, data: bool = False) -> Any:
        """Give Python code a number that a node makes."""
        if first == second and not data:
            return first
        cls = Size if isinstance(first, int) else Real
        number = cls(first, second, node, self, data)
        self._known[-1][_key(number)] = node
        return number

    def data_sizes(self, count: int, first: int, second: int) -> tuple[int, int]:
        """Choose stand-ins for a size that depends on data, at most `first` and `second`."""
        taken = len(self._data) + count + 1
        pair = (max(first - taken, 1), max(second - taken, 1))
        self._data.add(pair)
        return pair

    def node_of(self, number: Any, make: MakeNode) -> Any:
        """Stand a node for a number, or a part of one."""
        if isinstance(number, fx.Node):
            return number
        if isinstance(number, Read):
            if number.dimension is None:
                return make("call_method", "numel", (number.node,))
            return make("call_method", "size", (number.node, number.dimension))
        if not isinstance(number, (Size, Real)):
            return number
        key = _key(number)
        for scope in reversed(self._known):
            if key in scope:
                return scope[key]
        for sources in reversed(self._sources):
            if key in sources:
                return self._kept(key, self.node_of(sources[key], make))
        if isinstance(number.expression, Operation):
            operands = tuple(self.node_of(each, make) for each in number.expression.operands)
            function = FUNCTIONS[number.expression.name]
            return self._kept(key, make("call_function", function, operands))
        return self._kept(key, self.node_of(number.expression, make))

    def combined(self, name: str, *operands: Any) -> Any:
        """Compute with numbers of which some vary."""
        function = FUNCTIONS[name]
        first = function(*(first_of(operand) for operand in operands))
        second = function(*(second_of(operand) for operand in operands))
        data = any(isinstance(each, (Size, Real)) and each.data for each in operands)
        cls = Real if isinstance(first, float) else Size
        return cls(first, second, Operation(name, operands), self, data)

    def decided(self, name: str, left: Any, right: Any) -> bool:
        """Decide by numbers of which some vary; both sides must agree."""
        if any(isinstance(each, (Size, Real)) and each.data for each in (left, right)):
            raise DataDecidesError("a decision by a number that depends on data")
        function = FUNCTIONS[name]
        first = bool(function(first_of(left), first_of(right)))
        second = bool(function(second_of(left), second_of(right)))
        if first != second:
            self.give_up(self._behind(left, right))
        sides = [self._nested(left), self._nested(right)]
        varies = any(isinstance(side, (tuple, Dimension)) for side in sides)
        if None not in sides and varies and sides[0] != sides[1]:
            nested = (name if first else _OPPOSITE[name], *sides)
            self.conditions.setdefault(spelled(nested), Condition(nested, spelled(nested)))
        return first

    def fix(self, number: Any) -> NoReturn:
        """Give up that a number varies.

        Raises:
            SizesFixedError: always; recording is to start again.
        """
        for group in self._behind(number):
            group.way = "fixed"
        raise SizesFixedError

    def give_up(self, groups: Iterable[Group]) -> NoReturn:
        """Give up sizes with which the twins fail, if smaller twins do not help.

        Raises:
            SizesFixedError: always; recording is to start again.
        """
        for group in groups:
            group.give_way()
        raise SizesFixedError

    def all_conditions(self) -> tuple[Condition, ...]:
        """What the sizes must meet: those that are fixed, and what Python code decided."""
        found: dict[str, Condition] = {}
        nested: tuple[Any, ...]
        for name, dimension, size in self.groups.specialised():
            nested = ("eq", Dimension(name, dimension), size)
            found[spelled(nested)] = Condition(nested, spelled(nested))
        for group in self.groups.free():
            for other in group.members[1:]:
                nested = ("eq", other, group.members[0])
                found[spelled(nested)] = Condition(nested, spelled(nested))
        return tuple({**found, **self.conditions}.values())

    def _behind(self, *numbers: Any) -> list[Group]:
        """The groups that numbers are made of; all free ones where that is not known."""
        found: dict[int, Group] = {}
        unseen = list(numbers)
        while unseen:
            number = unseen.pop()
            if isinstance(number, _Number) and isinstance(number.expression, Operation):
                unseen.extend(number.expression.operands)
            elif isinstance(number, _Number):
                behind = self.groups.behind(number.first, number.second)
                found.update({id(group): group for group in behind})
        return list(found.values()) or self.groups.free()

    def _kept(self, key: Any, node: Any) -> Any:
        self._known[-1][key] = node
        return node

    def _nested(self, number: Any) -> Any:
        """Write a number over the sizes of the inputs; `None` where that is not known."""
        if not isinstance(number, (Size, Real)):
            return number if isinstance(number, (int, float)) else None
        expression = number.expression
        if isinstance(expression, Operation):
            operands = [self._nested(operand) for operand in expression.operands]
            if expression.name == "sub" and operands[0] == operands[1]:
                return 0
            if None not in operands:
                return (expression.name, *operands)
        return self.groups.monomial(number.first, number.second)


class _Number:
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
        if not all(isinstance(operand, (int, float, _Number)) for operand in operands):
            return NotImplemented
        if len(operands) == 2:
            left, right = operands
            if type(right) is int and (name, right) in _NEUTRAL_RIGHT:
                return left
            if type(left) is int and (name, left) in _NEUTRAL_LEFT:
                return right
        return self.symbols.combined(name, *operands)

    def _decided(self, name: str, other: Any) -> Any:
        if not isinstance(other, (int, float, _Number)):
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


class Size(_Number, torch.SymInt):
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


class Real(_Number, torch.SymFloat):
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
    return replaced(value, lambda part: part.first if isinstance(part, _Number) else part)


def second_of(value: Any) -> Any:
    """Put the twin's numbers in the places of varying ones."""
    return replaced(value, lambda part: part.second if isinstance(part, _Number) else part)


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


def _key(number: Any) -> Any:
    """What tells numbers apart: of sizes, the two values; of computed numbers, the computation."""
    if number.data or isinstance(number.expression, Operation):
        return number.expression
    return (number.first, number.second)


def spelled(nested: Any) -> str:
    """Write a condition's expression for people."""
    if isinstance(nested, Dimension):
        return f"{nested.name}.shape[{nested.dimension}]"
    if not isinstance(nested, tuple):
        return str(nested)
    name, *operands = nested
    if name not in _INFIX:
        return f"{name}({', '.join(spelled(operand) for operand in operands)})"
    texts = [
        f"({spelled(operand)})"
        if isinstance(operand, tuple) and operand[0] in _INFIX
        else spelled(operand)
        for operand in operands
    ]
    return f" {_INFIX[name]} ".join(texts)


def _evaluated(nested: Any, sizes: Callable[[str, int], int]) -> Any:
    if isinstance(nested, Dimension):
        return sizes(nested.name, nested.dimension)
    if not isinstance(nested, tuple):
        return nested
    name, *operands = nested
    values = [_evaluated(operand, sizes) for operand in operands]
    if name == "mul":
        return math.prod(values)
    return FUNCTIONS[name](*values)


# By name: what computes it. `mul` in a condition takes any number of operands.
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "pow": operator.pow,
    "floordiv": operator.floordiv,
    "truediv": operator.truediv,
    "mod": operator.mod,
    "min": min,
    "max": max,
    "ceil": math.ceil,
    "floor": math.floor,
    "trunc": math.trunc,
    "round": round,
    "float": float,
    "abs": operator.abs,
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}

_NEUTRAL_LEFT = frozenset({("add", 0), ("mul", 1)})
_NEUTRAL_RIGHT = _NEUTRAL_LEFT | {("sub", 0), ("floordiv", 1), ("pow", 1)}

_OPPOSITE = {"eq": "ne", "ne": "eq", "lt": "ge", "ge": "lt", "gt": "le", "le": "gt"}

_INFIX = {
    "add": "+",
    "sub": "-",
    "mul": "*",
    "pow": "**",
    "floordiv": "//",
    "truediv": "/",
    "mod": "%",
    "eq": "==",
    "ne": "!=",
    "lt": "<",
    "le": "<=",
    "gt": ">",
    "ge": ">=",
}
