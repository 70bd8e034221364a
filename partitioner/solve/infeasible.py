"""Why nothing fits: how many bytes are missing, which constraints clash, and what would help.

- The shortfall is the smallest one: an elastic programme gives every device more memory than it
  has and minimises what it takes, all other constraints kept.
- The clash is irreducible: each constraint is left out in turn, and stays out if there is still no
  assignment; what remains cannot be met together (with the memory limits), any less of it can.
- Each suggestion was tried.
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
UNITS = 5e5
"""Effort of each descent."""


class Verdict(Enum):
    """Whether a problem has an assignment."""

    FITS = "fits"
    NEVER = "never"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Lack:
    """Bytes missing by device, with the assignment that lacks so little; `None` when no amount of
    memory helps.

    Attributes:
        proven: nothing lacks less in all.
    """

    nbytes: tuple[int, ...] | None
    proven: bool

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
    suggestions = list(_suggestions(problem, lack, clash, deadline, seed))
    return InfeasibleError(
        _message(problem, lack, clash, suggestions),
        shortfall=shortfall,
        conflicting=[demand.constraint for demand in clash],
        suggestions=suggestions,
    )


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
    least = None if start is None else sum(_missing(smaller, start, only) or ())
    if least == 0:
        return Lack((0,) * len(problem.devices), proven=True)
    limits = Limits(deadline=deadline, effort=EFFORT, seed=seed)
    programme = Programme(tables, Aim.EXCESS, limits, only=only)
    answer = programme.solve(start)
    found = [start] if start is not None else []
    if answer.placed is not None:
        found.append(list(answer.placed))
    if not found:
        return Lack(None, proven=answer.complete)
    lacks = [
        missing
        for placed in found
        if (missing := _missing(problem, contraction.expand(placed), only)) is not None
    ]
    if not lacks:
        return Lack(None, proven=answer.complete)
    best = min(lacks, key=lambda missing: (sum(missing), missing))
    return Lack(best, proven=answer.complete or sum(best) <= answer.bound * (1 + 1e-9))


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


def _suggestions(
    problem: Problem,
    lack: Lack,
    clash: Sequence[Demand],
    deadline: float | None,
    seed: int,
) -> list[str]:
    """What makes the problem feasible, each of them alone."""
    found = []
    if lack.nbytes is not None and sum(1 for missing in lack.nbytes if missing) > 1:
        parts = [
            f"{format_nbytes(missing)} more on '{name}'"
            for name, missing in zip(problem.devices, lack.nbytes, strict=True)
            if missing
        ]
        found.append(f"give the devices more memory: {', '.join(parts)}")
    for device, (name, capacity) in enumerate(
        zip(problem.devices, problem.capacity_nbytes, strict=True)
    ):
        if capacity is None or lack.nbytes is None:
            continue
        alone = least_lack(problem, deadline, seed, only=device)
        if alone.nbytes is not None and alone.nbytes[device]:
            needed = capacity + alone.nbytes[device]
            found.append(
                f"give '{name}' {format_nbytes(alone.nbytes[device])} more ({needed} bytes in all)"
            )
    twin = _largest_device(problem)
    if twin is not None:
        larger = _with_twin(problem, twin)
        if _verdict(larger, deadline, seed) is Verdict.FITS:
            found.append(f"add one more device like '{problem.devices[twin]}'")
    found += [
        f"drop {demand.constraint!r}" for demand in clash if _helps(problem, demand, deadline, seed)
    ]
    return found


def _helps(problem: Problem, demand: Demand, deadline: float | None, seed: int) -> bool:
    others = [other for other in problem.demands if other is not demand]
    return _verdict(with_demands(problem, others), deadline, seed) is Verdict.FITS


def _largest_device(problem: Problem) -> int | None:
    limited = [
        (capacity, -device)
        for device, capacity in enumerate(problem.capacity_nbytes)
        if capacity is not None
    ]
    return -max(limited)[1] if limited else None


def _with_twin(problem: Problem, twin: int) -> Problem:
    """One more device, as good as a given one in all things but the links' names."""

    def wider(row: Sequence[float]) -> tuple[float, ...]:
        return (*row, row[twin])

    def square(table: Sequence[Sequence[float]]) -> tuple[tuple[float, ...], ...]:
        return (*map(wider, table), wider(table[twin]))

    new = len(problem.devices)
    pinned = {node for demand in problem.demands for node, _ in demand.pinned}
    return replace(
        problem,
        devices=(*problem.devices, f"another '{problem.devices[twin]}'"),
        forward_seconds=tuple(map(wider, problem.forward_seconds)),
        backward_seconds=tuple(map(wider, problem.backward_seconds)),
        latency_seconds=square(problem.latency_seconds),
        seconds_per_byte=square(problem.seconds_per_byte),
        roads=(
            tuple((*row, row[twin]) for row in (*problem.roads, problem.roads[twin]))
            if problem.roads
            else ()
        ),
        capacity_nbytes=(*problem.capacity_nbytes, problem.capacity_nbytes[twin]),
        allowed=tuple(
            (*allowed, new) if node not in pinned else allowed
            for node, allowed in enumerate(problem.allowed)
        ),
        pays_endpoint=(
            (*problem.pays_endpoint, problem.pays_endpoint[twin]) if problem.pays_endpoint else ()
        ),
    )


def _message(
    problem: Problem, lack: Lack, clash: Sequence[Demand], suggestions: Sequence[str]
) -> str:
    parts = ["no placement satisfies every limit and constraint"]
    if lack.nbytes is not None and any(lack.nbytes):
        limited = [capacity for capacity in problem.capacity_nbytes if capacity is not None]
        parts = [
            f"no placement fits: the model takes {format_nbytes(everything_nbytes(problem))} at its"
            f" fullest point, the devices hold {format_nbytes(sum(limited))} together; at least "
            + ", ".join(
                f"{format_nbytes(missing)} are missing on '{name}'"
                for name, missing in zip(problem.devices, lack.nbytes, strict=True)
                if missing
            )
        ]
    if clash:
        parts.append("these clash: " + ", ".join(repr(demand.constraint) for demand in clash))
    if suggestions:
        parts.append("any of these helps: " + "; ".join(suggestions))
    return "; ".join(parts)
