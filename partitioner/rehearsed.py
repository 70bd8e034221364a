"""The integer programme proposes, the dry run disposes.

The programme's linear rows predict a device's peak within some percent; of tiny models on several
devices they may be half off, since every device holds a copy of what crosses to it as long as any
reader does. Only the dry run knows. ::

    rows too low    a plan passes a limit in its dry run: that device's limit shrinks, again
    rows too high   no assignment meets the rows: limits are widened, and shrink again from there
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from partitioner.dry_run import MeasuredMemory
from partitioner.errors import InfeasibleError, TimeLimitError
from partitioner.fit import REHEARSALS, any_fit, excess_nbytes, tightened, widened
from partitioner.priced import Priced
from partitioner.solve import Problem, Solution, Status, evaluate, never_fits, solve
from partitioner.spec import format_nbytes

WIDENED = (1.15, 1.4, 1.7)
"""Rows that are up to so many times the limits are tried where none are within them."""
WIDENED_REHEARSALS = 2
"""Of each of these."""
STATIC = ("parameters", "gradients", "optimizer")


@dataclass(frozen=True)
class Rehearsed:
    """A solution with what its dry run found.

    Attributes:
        solution: judged under the true limits.
        measured: by device; `None` where there can be no dry run and the rows stand.
        problem: whose limits the solution's rows meet.
        excess: by device, the bytes by which its dry run passes the true limits.
    """

    solution: Solution
    measured: dict[str, MeasuredMemory] | None
    problem: Problem
    excess: Mapping[str, int]


def solve_and_rehearse(subject: Priced) -> Rehearsed:
    """The best solution whose dry run stays within the limits.

    The bound is that of the first problem that was solved: with the true limits, or with widened
    ones, of placements whose rows are within them. Where no round ends well, any placement will do
    that fits.

    Raises:
        InfeasibleError: nothing fits, and by how much.
        TimeLimitError: the time limit passed before any plan was found.
    """
    original = subject.problem()
    try:
        found = _rounds(subject, original, REHEARSALS)
    except InfeasibleError as error:
        wider = _with_widened_limits(subject, original, error)
        if wider is None:
            raise
        return wider
    if not found.excess:
        return found
    subject.options.say("looking for any placement that fits")
    fit = any_fit(subject)
    if fit is not None:
        solution = replace(found.solution, assignment=fit.assignment)
        return Rehearsed(_judged(solution, original), fit.measured, original, {})
    raise InfeasibleError(
        "no placement was found whose rehearsed peak stays within the limits; the last one passes "
        "them by "
        + ", ".join(
            f"{format_nbytes(nbytes)} on '{name}'" for name, nbytes in found.excess.items()
        ),
        shortfall={**found.excess, "total": sum(found.excess.values())},
    )


def _rounds(subject: Priced, problem: Problem, rehearsals: int, unit: float = 1.0) -> Rehearsed:
    """Solve, rehearse, tighten by the excess, until a rehearsal has none; or else the last round.

    A search that is interrupted makes its round the last one.

    Args:
        subject: what is planned.
        problem: to begin with.
        rehearsals: at most.
        unit: what 1 of the problem's objective is in the true problem's.

    Raises:
        InfeasibleError: `problem` has no assignment.
    """
    original = subject.problem()
    solution = _solved(subject, problem)
    bound = unit * solution.bound
    while True:
        subject.options.say("rehearsing on fake tensors")
        measured = subject.rehearsed(solution.assignment)
        excess = excess_nbytes(subject, measured)
        rehearsals -= 1
        if excess and rehearsals and not solution.interrupted:
            tighter = tightened(problem, solution.assignment, excess)
            with suppress(InfeasibleError):
                solution, problem = _solved(subject, tighter), tighter
                continue
        judged = _judged(replace(solution, bound=bound), original)
        return Rehearsed(judged, measured, problem, excess)


def _with_widened_limits(
    subject: Priced, original: Problem, error: InfeasibleError
) -> Rehearsed | None:
    """A solution that fits though its rows do not; `None` if none was found.

    Rows are off by what crosses between devices: not on one device, nor where all devices together
    hold less than the model takes at its fullest point.
    """
    if len(original.devices) == 1 or never_fits(original):
        return None
    limits = [limit for limit in original.capacity_nbytes if limit is not None]
    limited = len(limits) == len(original.capacity_nbytes)
    if not error.shortfall or (limited and static_nbytes(subject) > sum(limits)):
        return None
    for factor in WIDENED:
        if error.shortfall["total"] > (factor - 1) * sum(limits):
            continue
        subject.options.say(f"trying rows of {factor:.0%} of the limits, for the dry run to judge")
        unit = factor if original.objective == "memory" and limited else 1.0
        with suppress(InfeasibleError, TimeLimitError):
            found = _rounds(subject, widened(original, factor), WIDENED_REHEARSALS, unit)
            if found.measured is None:
                return None
            if not found.excess:
                return found
    return None


def static_nbytes(subject: Priced) -> int:
    """Parameters, gradients and optimizer state, each counted once."""
    return sum(hold.nbytes for hold in subject.graph.holdings if hold.role in STATIC)


def _solved(subject: Priced, problem: Problem) -> Solution:
    options = subject.options
    options.say("solving")
    return solve(
        problem,
        time_limit=options.time_limit,
        seed=options.seed,
        progress=options.say,
        start=options.start,
    )


def _judged(solution: Solution, problem: Problem) -> Solution:
    """A solution found under other limits, judged under the true ones."""
    objective = evaluate(problem, solution.assignment).objective
    proven = solution.status is Status.OPTIMAL and solution.bound >= objective * (1 - 1e-7)
    status = Status.OPTIMAL if proven else Status.FEASIBLE
    bound = min(solution.bound, objective)
    return replace(solution, objective=objective, bound=bound, status=status)
