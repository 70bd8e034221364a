"""What no assignment can beat, found without a solver.

- memory: at any program point everything that is held is held somewhere, so the devices are at
  least as full, all together, as the fullest point.
- throughput: the work of all nodes, shared out by fractions; and the largest single node.
- latency: the longest path, every node on the device that suits the path best and every transfer
  on the way counted. `waists.py` sharpens this for deep models.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import numpy as np
from numpy.typing import NDArray

from partitioner.solve.evaluate import everything_nbytes
from partitioner.solve.problem import Problem
from partitioner.solve.state import Matrix, Tables
from partitioner.solve.waists import Walk, cheapest_walk

WEIGHINGS = 60
"""Of devices, for the bound of shared work."""


def lower_bound(tables: Tables, walk: Walk | None = None) -> float:
    """A value that the objective of no feasible assignment is below.

    `walk` saves the work of finding it again.
    """
    match tables.problem.objective:
        case "latency":
            walk = walk or cheapest_walk(tables)
            return max(path_bound(tables), walk.seconds, single_group_bound(tables))
        case "throughput":
            return max(work_bound(tables), single_group_bound(tables))
        case _:
            return memory_bound(tables.problem)


def memory_bound(problem: Problem) -> float:
    """The share in use when everything is spread evenly; 0 if some device has no limit."""
    if any(capacity is None for capacity in problem.capacity_nbytes):
        return 0.0
    total = sum(capacity for capacity in problem.capacity_nbytes if capacity is not None)
    peak = everything_nbytes(problem)
    if total == 0:
        return inf if peak else 0.0
    return peak / total


def work_bound(tables: Tables) -> float:
    """The work of all groups, shared out by fractions."""
    devices = range(len(tables.problem.devices))
    return shared_work_bound(
        np.array(
            [
                [
                    sum(tables.seconds[node][device] for node in group)
                    if device in choices
                    else inf
                    for device in devices
                ]
                for group, choices in zip(tables.groups, tables.choices, strict=True)
            ]
        )
    )


def shared_work_bound(seconds: NDArray[np.float64]) -> float:
    """The largest load when work (`[node][device]`, `inf` where barred) may be shared out freely.

    Weights of the devices that sum to 1 give a bound: every node does its weighted work somewhere,
    so `sum_i min_d weight[d] seconds[i][d] <= max load`. They start even and grow where nodes
    would crowd.
    """
    size, devices = seconds.shape
    if not size:
        return 0.0
    weights = np.full(devices, 1.0 / devices)
    best: float = float(seconds.min(axis=1).sum()) / devices
    if devices == 1 or best in (0.0, inf) or bool((seconds == seconds[:, :1]).all()):
        return best
    finite = np.where(np.isfinite(seconds), seconds, 1e300)
    for turn in range(WEIGHINGS):
        priced = finite * weights
        chosen = priced.argmin(axis=1)
        rows = np.arange(size)
        best = max(best, float(priced[rows, chosen].sum()))
        load = np.bincount(chosen, weights=finite[rows, chosen], minlength=devices)
        weights = weights * np.exp((load / load.max() - 0.5) / (1 + turn))
        weights /= weights.sum()
    return float(best * (1 - 1e-12))


def single_group_bound(tables: Tables) -> float:
    """The longest that one group takes on its fastest device."""
    return max(group_seconds(tables), default=0.0)


def group_seconds(tables: Tables) -> list[float]:
    """By group, its work on the device that does it fastest."""
    return [
        min(
            (sum(tables.seconds[node][device] for node in group) for device in choices),
            default=inf,
        )
        for group, choices in zip(tables.groups, tables.choices, strict=True)
    ]


def path_bound(tables: Tables) -> float:
    """The longest path of the forward plus that of the backward."""
    problem = tables.problem
    forward = earliest(tables, problem.forward_seconds, tables.incoming, range(len(problem.nodes)))
    bound = max((min(row) for row in forward), default=0.0)
    if tables.trains:
        backward = earliest(
            tables,
            problem.backward_seconds,
            tables.gradients,
            range(len(problem.nodes) - 1, -1, -1),
        )
        bound += max((min(row) for row in backward), default=0.0)
    return bound


def earliest(
    tables: Tables,
    seconds: Matrix,
    arrivals: Sequence[Sequence[tuple[int, Matrix]]],
    order: Sequence[int],
) -> list[list[float]]:
    """By node and device: no schedule finishes the node there sooner."""
    devices = range(len(tables.problem.devices))
    finish: list[list[float]] = [[] for _ in order]
    for node in order:
        choices = tables.choices[tables.group_of[node]]
        row = []
        for device in devices:
            if device not in choices:
                row.append(inf)
                continue
            start = 0.0
            for source, travel in arrivals[node]:
                known = finish[source]
                start = max(start, min(known[other] + travel[other][device] for other in devices))
            row.append(start + seconds[node][device])
        finish[node] = row
    return finish
