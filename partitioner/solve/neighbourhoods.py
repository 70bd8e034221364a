"""Improvement by small integer programmes: two or three devices at a time share out what they hold.

The device with the largest load is always among them. Everything elsewhere stays, so that all
groups of another device are one, and the programme is small.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations

from partitioner.solve.contract import contract
from partitioner.solve.evaluate import count, loads
from partitioner.solve.problem import Problem
from partitioner.solve.programme import Aim, Limits, Programme, programme_entries
from partitioner.solve.state import Tables

EFFORT = 60
"""Of one programme."""
MOST_PROGRAMMES = 40
"""Of one improvement."""
MOST_GROUPS = 400
"""Groups that are free at a time."""
MOST_ENTRIES = 30_000
"""A programme with about so many non-zero entries is not small."""


def shared_out_anew(
    problem: Problem,
    placed: Sequence[int],
    floor: float,
    *,
    deadline: float | None,
    seed: int,
) -> list[int]:
    """The assignment, or one with a smaller largest load. The problem has no colocated groups.

    Values down to `floor` are looked for, no better ones.
    """
    best = list(placed)
    value = count(problem, best).objective
    left = MOST_PROGRAMMES
    improved = True
    while improved:
        improved = False
        for devices in _choices(problem, best):
            late = deadline is not None and time.monotonic() >= deadline
            if left == 0 or late or value <= floor * (1 + 1e-9):
                return best
            left -= 1
            found = _share_out(problem, best, devices, value, deadline, seed)
            if found is not None:
                recount = count(problem, found)
                if recount.feasible and recount.objective < value * (1 - 1e-9):
                    best, value, improved = found, recount.objective, True
                    break
    return best


def _choices(problem: Problem, placed: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """The busiest device with one and then with two others, the least busy first."""
    busy, _ = loads(problem, placed)
    ranked = sorted(range(len(busy)), key=lambda device: (busy[device], device))
    hottest = ranked.pop()
    for size in (1, 2):
        for others in combinations(ranked, size):
            yield (hottest, *others)


def _share_out(
    problem: Problem,
    placed: Sequence[int],
    devices: Sequence[int],
    value: float,
    deadline: float | None,
    seed: int,
) -> list[int] | None:
    free = [node for node, device in enumerate(placed) if device in devices]
    if not 1 < len(free) <= MOST_GROUPS:
        return None
    fixed: dict[int, list[int]] = {}
    for node, device in enumerate(placed):
        if device not in devices:
            fixed.setdefault(device, []).append(node)
    smaller, contraction = contract(
        replace(
            problem,
            allowed=tuple(
                tuple(d for d in allowed if d in devices) if device in devices else (device,)
                for allowed, device in zip(problem.allowed, placed, strict=True)
            ),
            colocated=tuple(tuple(nodes) for nodes in fixed.values()),
        )
    )
    tables = Tables(smaller)
    if not all(tables.choices) or programme_entries(tables) > MOST_ENTRIES:
        return None
    limits = Limits(deadline, EFFORT, seed, known=value)
    answer = Programme(tables, Aim.OBJECTIVE, limits).solve(
        tables.canonical(contraction.shrink(placed), tables.heaviest)
        if not problem.contiguous
        else contraction.shrink(placed)
    )
    return None if answer.placed is None else contraction.expand(answer.placed)
