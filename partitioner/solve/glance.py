"""A quick look at a problem: how good a placement is at hand, and how good any could be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from partitioner.solve.bounds import lower_bound
from partitioner.solve.contract import contract
from partitioner.solve.effort import Effort
from partitioner.solve.evaluate import count
from partitioner.solve.improve import descend
from partitioner.solve.intervals import splits
from partitioner.solve.problem import Problem
from partitioner.solve.state import State, Tables
from partitioner.solve.waists import cheapest_walk

UNITS = 3e5
"""Effort of the descents: a fraction of a second."""
DESCENTS = 2
"""Of the best placements at hand."""


@dataclass(frozen=True, slots=True)
class Glance:
    """What a quick look found.

    Attributes:
        objective: of the best placement that was seen.
        bound: no placement can have a smaller objective.
    """

    objective: float
    bound: float


def glance(problem: Problem, start: Mapping[str, str]) -> Glance:
    """Look for a better placement than `start`, with little effort and no integer programme.

    Args:
        problem: what to assign.
        start: device name by node name; feasible.
    """
    smaller, contraction = contract(problem)
    tables = Tables(smaller)
    index = {device: place for place, device in enumerate(problem.devices)}
    walk = cheapest_walk(tables) if problem.objective == "latency" else None
    seen = [
        contraction.shrink([index[start[node]] for node in problem.nodes]),
        *([list(walk.placed)] if walk is not None and walk.placed is not None else []),
        *splits(tables),
    ]

    def worth(placed: list[int]) -> float:
        recount = count(smaller, placed)
        return recount.objective if recount.feasible else float("inf")

    effort = Effort(UNITS)
    for placed in sorted(seen, key=worth)[:DESCENTS]:
        state = State(tables, placed)
        descend(state, effort.part(1 / DESCENTS))
        seen.append(list(state.placed))
    best = min(map(worth, seen))
    return Glance(best, min(best, lower_bound(tables, walk)))
