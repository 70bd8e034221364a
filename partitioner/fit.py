"""Whether a model fits at all: any placement will do, if its rehearsal stays within the limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from partitioner.dry_run import MeasuredMemory
from partitioner.priced import Priced
from partitioner.solve import Problem, evaluate, least_lack, never_fits

REHEARSALS = 8
"""How often a placement that the dry run finds too large is sought anew with tighter limits."""

Measured = Mapping[str, MeasuredMemory] | None


@dataclass(frozen=True, slots=True)
class Fit:
    """A placement that fits.

    Attributes:
        assignment: device name by node name.
        measured: what its dry run found; `None` where there can be none.
    """

    assignment: dict[str, str]
    measured: dict[str, MeasuredMemory] | None


def any_fit(subject: Priced, rehearsals: int = REHEARSALS) -> Fit | None:
    """A placement within all limits and constraints, however slow; `None` if none was found."""
    problem = subject.problem()
    for _ in range(rehearsals):
        if never_fits(problem):
            return None
        lack = least_lack(problem, seed=subject.options.seed)
        if lack.placed is None or lack.nbytes is None or any(lack.nbytes):
            return None
        assignment = {
            node: problem.devices[device]
            for node, device in zip(problem.nodes, lack.placed, strict=True)
        }
        measured = subject.rehearsed(assignment)
        excess = excess_nbytes(subject, measured)
        if not excess:
            return Fit(assignment, measured)
        problem = tightened(problem, assignment, excess)
    return None


def excess_nbytes(subject: Priced, measured: Measured) -> dict[str, int]:
    """By device, the bytes by which a dry run passed its limit."""
    if measured is None:
        return {}
    return {
        device.name: measured[device.name].peak - device.memory
        for device in subject.cluster.devices
        if isinstance(device.memory, int) and measured[device.name].peak > device.memory
    }


def tightened(
    problem: Problem, assignment: Mapping[str, str], excess: Mapping[str, int]
) -> Problem:
    """The problem with limits under which the rows refuse what a dry run found too large.

    By what the rows are off there, a limit is off its device's true one from now on: below it where
    they promise too little, above it where they promise too much.
    """
    peaks = zip(problem.devices, evaluate(problem, assignment).peak_nbytes, strict=True)
    capacities = tuple(
        max(0, peak - excess[name]) if name in excess else capacity
        for (name, peak), capacity in zip(peaks, problem.capacity_nbytes, strict=True)
    )
    return replace(problem, capacity_nbytes=capacities)


def widened(problem: Problem, factor: float) -> Problem:
    """The problem with limits that are `factor` times as large."""
    capacities = tuple(
        None if capacity is None else int(factor * capacity) for capacity in problem.capacity_nbytes
    )
    return replace(problem, capacity_nbytes=capacities)
