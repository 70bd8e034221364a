"""Answers to questions about data, where they can be given without any."""

from __future__ import annotations

import operator
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy
import torch
from torch import Tensor, fx
from torch._subclasses import fake_tensor
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.overrides import TorchFunctionMode

from partitioner.capture.sizes import SYMBOLIC
from partitioner.capture.structure import Structure, dissect

DATA_DEPENDENT = (
    GuardOnDataDependentSymNode,
    fake_tensor.DataDependentOutputException,
    fake_tensor.DynamicOutputShapeException,
)
"""What fake tensors raise where data is asked for."""

STAND_INS: dict[Any, tuple[Any, Any]] = {
    Tensor.__bool__: (True, False),
    Tensor.item: (1, 0),
    Tensor.__int__: (1, 0),
    Tensor.__index__: (1, 0),
    Tensor.__float__: (1.0, 0.0),
}
"""What a module that is called as a whole is told of its data, to see what it returns.

It is told the first, and then in another call the second: what it returns must be alike.
"""

MOST_ANSWERS = 10_000
"""A module that asks for more is taken to ask for ever."""

MOST_ON_THE_WAY = 200
"""So is a model of which one way is sketched: each turn of its loops would be recorded."""

# By comparison of a number in [0, 1) with a limit: the answer for a limit of at most 0, at least 1.
_ALWAYS: dict[Any, tuple[bool, bool]] = {
    operator.lt: (False, True),
    operator.ge: (True, False),
}


class Answers:
    """Gives a module that is called as a whole its stand-ins for data.

    Args:
        other: whether to give the second ones.
        most: how many to give.

    Attributes:
        given: how many were given.
    """

    def __init__(self, *, other: bool = False, most: int = MOST_ANSWERS) -> None:
        self.other = other
        self.most = most
        self.given = 0

    def to(self, func: Any) -> Any:
        """Answer a function of `STAND_INS`.

        Raises:
            RuntimeError: it has asked for too many.
        """
        self.given += 1
        if self.given > self.most:
            raise RuntimeError("it asks for its data without end")
        return STAND_INS[func][self.other]


class Answering(TorchFunctionMode):
    """Gives fake tensors stand-ins for their data, where they are asked for it.

    Args:
        other: whether to give the second ones.
    """

    def __init__(self, *, other: bool = False) -> None:
        super().__init__()
        self._answers = Answers(other=other)

    @property
    def given(self) -> int:
        """How many were given."""
        return self._answers.given

    def go_on(self, *, other: bool) -> None:
        """Give the first or the second ones from now on."""
        self._answers.other = other

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        try:
            return func(*args, **(kwargs or {}))
        except DATA_DEPENDENT:
            if func not in STAND_INS:
                raise
            return self._answers.to(func)


def is_alike(one: Any, other: Any) -> bool:
    """Whether two results are built alike, whatever their tensors and varying numbers are."""
    structures = (dissect(value, lambda part: isinstance(part, _FREE))[0] for value in (one, other))
    return _is_same(*structures)


_FREE = (Tensor, *SYMBOLIC)


def _is_same(one: Structure, other: Structure) -> bool:
    if (one.kind, one.type, one.keys) != (other.kind, other.type, other.keys):
        return False
    if one.kind == "constant":
        return type(one.value) is type(other.value) and (
            not one.is_plain or bool(one.value == other.value)
        )
    return all(map(_is_same, one.items, other.items))


def drawn() -> Any:
    """The state of Python's and NumPy's random numbers: another one after each draw."""
    kind, keys, *rest = numpy.random.get_state(legacy=True)
    return random.getstate(), kind, numpy.asarray(keys).tobytes(), rest


@contextmanager
def undrawn() -> Iterator[None]:
    """Put Python's and NumPy's random numbers back as they were."""
    python, numeric = random.getstate(), numpy.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        numpy.random.set_state(numeric)


def known_truth(node: fx.Node | None) -> bool | None:
    """Whether `torch.rand([]) < p` holds, where `p` is so that it always does or never.

    Models drop whole layers so, with a probability that is mostly zero.
    """
    if node is None or len(node.args) != 2 or node.target not in _ALWAYS:
        return None
    drawn, limit = node.args
    if not isinstance(drawn, fx.Node) or drawn.target is not torch.rand:
        return None
    lowest, highest = _ALWAYS[node.target]
    if isinstance(limit, (int, float)):
        return lowest if limit <= 0 else highest if limit >= 1 else None
    return None
