"""Why nothing fits: how many bytes are missing, and which constraints clash.

- The shortfall is the smallest one: an elastic programme gives every device more memory than it
  has and minimises what it takes, all other constraints kept.
- The clash is irreducible: each constraint is left out in turn, and stays out if there is still no
  assignment; what remains cannot be met together (with the memory limits), any less of it can.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

from partitioner.errors import InfeasibleError
from partitioner.solve.contract import contract
from partitioner.solve.effort import Effort
from partitioner.solve.evaluate import count, everything_nbytes
from partitioner.solve.formulate import with_demands
from partitioner.solve.improve import descend
from partitioner.solve.intervals import splits
from partitioner.solve.problem import Demand, Problem
from partitioner.solve.programme import Aim, Limits, Programme
from partitioner.solve.state import State, Tables
from partitioner.spec import format_nbytes

EFFORT = 600
"""Of each programme."""
MOST_ENTRIES = 120_000
"""A programme with about this many non-zero entries is not started."""
UNITS = 5e5
"""Effort of each descent."""


class Verdict(Enum):
    """Whether a problem has an assignment."""

    FITS = "fits"
    NEVER = "never"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Lack:
    """What is missing for an assignment.

    Attributes:
        nbytes: by device; `None` when no amount of memory is known to help.
        proven: nothing lacks less in all.
        placed: an assignment that lacks so little, as device indices.
    """

    nbytes: tuple[int, ...] | None
    proven: bool
    placed: tuple[int, ...] | None = None

    @property
    def verdict(self) -> Verdict:
        """What that says of the problem."""
        if self.nbytes is not None and not any(self.nbytes):
            return Verdict.FITS
        return Verdict.NEVER if self.proven else Verdict.UNKNOWN


def explain(problem: Problem, deadline: float | None = None, seed: int = 0) -> InfeasibleError:
    """The error for a problem that has no assignment."""
    lack = least_lack(problem, deadline, seed)
    clash = conflicting(problem, deadline, seed)
    shortfall = {}
    if lack.nbytes is not None:
        shortfall = {
            name: missing
            for name, missing in zip(problem.devices, lack.nbytes, strict=True)
            if missing
        }
        shortfall["total"] = sum(lack.nbytes)
    return InfeasibleError(
        _message(problem, lack, clash),
        shortfall=shortfall,
        conflicting=[demand.constraint for demand in clash],
    )


def never_fits(problem: Problem) -> bool:
    """Whether the fullest point alone takes more than all devices together have."""
    limits = [capacity for capacity in problem.capacity_nbytes if capacity is not None]
    every = len(limits) == len(problem.capacity_nbytes)
    return every and everything_nbytes(problem) > sum(limits)


def least_lack(
    problem: Problem,
    deadline: float | None = None,
    seed: int = 0,
    only: int | None = None,
) -> Lack:
    """The fewest bytes that the devices, or `only` one of them, need beyond what they have."""
    memory = replace(problem, objective="memory")
    smaller, contraction = contract(memory)
    tables = Tables(smaller)
    if not all(tables.choices):
        return Lack(None, proven=True)
    start = _least_by_search(tables, only, deadline)
    found = [start] if start is not None else []
    bound, complete = _least_possible(problem), False
    least = None if start is None else sum(_missing(smaller, start, only) or ())
    if (least is None or least > bound) and _entries(tables) <= MOST_ENTRIES:
        limits = Limits(deadline=deadline, effort=EFFORT, seed=seed)
        answer = Programme(tables, Aim.EXCESS, limits, only=only).solve(start)
        bound, complete = max(bound, answer.bound), answer.complete
        if answer.placed is not None:
            found.append(list(answer.placed))
    lacks = [
        (sum(missing), missing, placed)
        for placed in map(contraction.expand, found)
        if (missing := _missing(problem, placed, only)) is not None
    ]
    if not lacks:
        return Lack(None, proven=complete)
    total, missing, best = min(lacks)
    return Lack(missing, complete or total <= bound * (1 + 1e-9), tuple(best))


def _least_possible(problem: Problem) -> float:
    """Bytes that any assignment lacks in all."""
    if any(capacity is None for capacity in problem.capacity_nbytes):
        return 0.0
    limits = sum(capacity for capacity in problem.capacity_nbytes if capacity is not None)
    return max(0.0, everything_nbytes(problem) - limits)


def _entries(tables: Tables) -> int:
    """About how many non-zero entries the elastic programme has."""
    devices = len(tables.problem.devices)
    return (4 * len(tables.groups) + 24 * len(tables.problem.holds)) * devices


def _missing(problem: Problem, placed: Sequence[int], only: int | None) -> tuple[int, ...] | None:
    """Bytes beyond each device's memory; `None` if anything else is broken as well."""
    unlimited = replace(
        problem,
        capacity_nbytes=tuple(
            None if only is None or device == only else capacity
            for device, capacity in enumerate(problem.capacity_nbytes)
        ),
    )
    recount = count(unlimited, placed)
    if not recount.feasible:
        return None
    return tuple(
        max(0, peak - capacity) if capacity is not None else 0
        for peak, capacity in zip(recount.peak_nbytes, problem.capacity_nbytes, strict=True)
    )


def _least_by_search(tables: Tables, only: int | None, deadline: float | None) -> list[int] | None:
    """A good assignment for the programme to start from."""
    best: tuple[int, list[int]] | None = None
    effort = Effort(UNITS, deadline)
    for placed in splits(tables):
        state = State(tables, placed)
        descend(state, effort)
        missing = _missing(tables.problem, state.placed, only)
        if missing is not None and (best is None or sum(missing) < best[0]):
            best = (sum(missing), list(state.placed))
        if best is not None and best[0] == 0:
            break
    return None if best is None else best[1]


def conflicting(
    problem: Problem, deadline: float | None = None, seed: int = 0
) -> tuple[Demand, ...]:
    """Constraints that cannot be met together, though any of them left out would do.

    Empty when nothing fits even without constraints.
    """
    kept = list(problem.demands)
    if not kept or _verdict(with_demands(problem, ()), deadline, seed) is not Verdict.FITS:
        return ()
    for demand in problem.demands:
        others = [other for other in kept if other is not demand]
        if _verdict(with_demands(problem, others), deadline, seed) is Verdict.NEVER:
            kept = others
    return tuple(kept)


def _verdict(problem: Problem, deadline: float | None, seed: int) -> Verdict:
    return least_lack(problem, deadline, seed).verdict


def _message(problem: Problem, lack: Lack, clash: Sequence[Demand]) -> str:
    proven = lack.proven or clash or never_fits(problem)
    found = "no placement fits" if proven else "no placement was found that fits"
    if lack.nbytes is None or not any(lack.nbytes):
        parts = [f"{found}: no assignment satisfies every limit and constraint"]
    else:
        limited = [capacity for capacity in problem.capacity_nbytes if capacity is not None]
        least = "at least " if lack.proven else "for the best one found, "
        several = sum(1 for missing in lack.nbytes if missing) > 1
        parts = [
            f"{found}: the model takes {format_nbytes(everything_nbytes(problem))} at its"
            f" fullest point, the devices hold {format_nbytes(sum(limited))} together; {least}"
            + ", ".join(
                f"{format_nbytes(missing)} are missing on '{name}'"
                for name, missing in zip(problem.devices, lack.nbytes, strict=True)
                if missing
            )
            + (f", {format_nbytes(sum(lack.nbytes))} in all" if several else "")
        ]
    if clash:
        parts.append("these clash: " + ", ".join(repr(demand.constraint) for demand in clash))
    return "; ".join(parts)
