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

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from torch import fx

from partitioner.capture.conditions import FUNCTIONS, Condition, Dimension, spelled
from partitioner.capture.groups import Group, Groups
from partitioner.capture.sizes import (
    DataDecidesError,
    Operation,
    Read,
    Real,
    Size,
    Varying,
    first_of,
    second_of,
)

MakeNode = Callable[[str, Any, tuple[Any, ...]], fx.Node]


class SizesFixedError(BaseException):
    """Some sizes turned out to be fixed: recording starts again.

    Not an `Exception`, so that no model swallows it.
    """


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
        """The groups that numbers are made of; where that is not known, any but first sizes."""
        found: dict[int, Group] = {}
        unseen = list(numbers)
        while unseen:
            number = unseen.pop()
            if isinstance(number, Varying) and isinstance(number.expression, Operation):
                unseen.extend(number.expression.operands)
            elif isinstance(number, Varying):
                behind = self.groups.behind(number.first, number.second)
                found.update({id(group): group for group in behind})
        return list(found.values()) or self.groups.inner()

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


def _key(number: Any) -> Any:
    """What tells numbers apart: of sizes, the two values; of computed numbers, the computation."""
    if number.data or isinstance(number.expression, Operation):
        return number.expression
    return (number.first, number.second)


_OPPOSITE = {"eq": "ne", "ne": "eq", "lt": "ge", "ge": "lt", "gt": "le", "le": "gt"}
