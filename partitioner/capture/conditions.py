"""What the sizes of inputs must meet, and how numbers are computed from numbers."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


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
