"""Which sizes of the inputs vary together, and by how much the twins differ from the example."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from torch import Tensor

from partitioner.capture.conditions import Dimension

# Twins are so many times larger. No two are such that a size plus a small number becomes another
# size on both sides: `(p - 1) / (q - 1)` has a numerator and denominator far apart.
_PRIMES = (11, 37, 23, 71, 113, 59, 167, 83, 227, 131)
_SMALL_PRIMES = (2, 3, 5, 7, 11, 13)
_FEW = 3  # not one of `_PRIMES`


@dataclass(slots=True)
class Group:
    """Sizes that vary together: equal sizes in the same dimension of several inputs.

    Attributes:
        size: the example's.
        dimension: where in its inputs.
        prime: what the twin's size is multiplied with if its way is up.
        is_token: all inputs that have it hold integers.
        way: `"up"`, `"few"`, `"down"` or `"fixed"`.
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
            "few": Fraction(_FEW),
            "down": Fraction(1, self.divisor),
            "fixed": Fraction(1),
        }[self.way]

    @property
    def divisor(self) -> int:
        """What the twin's size is divided by if its way is down."""
        return next((d for d in range(2, self.size) if self.size % d == 0), 1)

    def give_way(self) -> None:
        """Try a smaller twin for the length of a token sequence, or a batch; then fix the size.

        Models look at batches for their size: some kernels were once wrong for 64 and more.
        """
        if self.way == "up" and self.is_token and self.divisor > 1:
            self.way = "down"
        elif self.way == "up" and self.dimension == 0 and self.prime in _PRIMES:
            self.way = "few"
        else:
            self.way = "fixed"


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

    def inner(self) -> list[Group]:
        """The free groups but those of first sizes, or else those: batches are fixed last."""
        return [group for group in self.free() if group.dimension] or self.free()

    def fix_more(self) -> None:
        """Fix all inner sizes."""
        for group in self.inner():
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
