"""What no assignment can beat, found without a solver.

- memory: at any program point everything that is held is held somewhere, so the devices are at
  least as full, all together, as the fullest point.
- throughput: the work of all nodes, shared out by fractions, none of it where a node takes longer
  by itself. `company.py` sharpens this where devices pay for what crosses their border, and so
  does `configurations.py` once a plan is known.
- latency: the longest path, every node on the device that suits the path best and every transfer
  on the way counted. `waists.py` sharpens this for deep models.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import numpy as np
from numpy.typing import NDArray

from partitioner.solve import company
from partitioner.solve.evaluate import everything_nbytes
from partitioner.solve.problem import Problem
from partitioner.solve.state import Matrix, Tables
from partitioner.solve.waists import Walk, cheapest_walk

Floats = NDArray[np.float64]

WEIGHINGS = 20
"""Of devices of more than two kinds, for the bound of shared work."""
NOTHING = 1e-9
"""A weight beside one of 1 that is as good as none."""
HALVINGS = 50
"""Of the range of a bound: what is left is rounding."""


def lower_bound(tables: Tables, walk: Walk | None = None) -> float:
    """A value that the objective of no feasible assignment is below.

    `walk` saves the work of finding it again.
    """
    match tables.problem.objective:
        case "latency":
            walk = walk or cheapest_walk(tables)
            return max(path_bound(tables), walk.seconds, single_group_bound(tables))
        case "throughput":
            seconds = group_table(tables)
            known = work_bound(seconds)
            if not company.applies(tables):
                return known
            return max(known, work_bound(seconds, company.least_loads(tables, seconds, known)))
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


def group_table(tables: Tables) -> Floats:
    """Seconds by `[group][device]`, `inf` where it may not be."""
    devices = range(len(tables.problem.devices))
    return np.array(
        [
            [
                sum(tables.seconds[node][device] for node in group) if device in choices else inf
                for device in devices
            ]
            for group, choices in zip(tables.groups, tables.choices, strict=True)
        ]
    ).reshape(len(tables.groups), len(devices))


def work_bound(seconds: Floats, least: Floats | None = None) -> float:
    """The least `T` for which all work can be shared out by fractions, none of it where it is not.

    Within `T`, a group cannot be on a device on which the load that it brings, `least`
    (`[group][device]`, by default its own seconds), is longer than that.
    """
    least = seconds if least is None else least

    def impossible(limit: float) -> bool:
        return shared_work_bound(np.where(least > limit, inf, seconds)) > limit

    low = shared_work_bound(seconds)
    if low == inf or not impossible(low):
        return low
    high = 2 * low
    while impossible(high):
        low, high = high, 2 * high
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if impossible(middle) else (low, middle)
    return low


def shared_work_bound(seconds: Floats) -> float:
    """The largest load when work (`[node][device]`, `inf` where barred) may be shared out freely.

    Weights of the devices that sum to 1 give a bound: every node does its weighted work somewhere,
    so `sum_i min_d weight[d] seconds[i][d] <= max load`. Equal devices have equal weights; with two
    kinds of devices the best weights are found, with more they are only good ones.
    """
    columns: dict[bytes, list[int]] = {}
    for device, column in enumerate(np.ascontiguousarray(seconds.T)):
        columns.setdefault(column.tobytes(), []).append(device)
    numbers = np.array([len(alike) for alike in columns.values()], dtype=float)
    kinds = seconds[:, [alike[0] for alike in columns.values()]]
    if not len(kinds):
        return 0.0
    if bool(np.isinf(kinds).all(axis=1).any()):
        return inf
    weights = np.ones(len(numbers))
    best = _weighted(kinds, numbers, weights)
    for _ in range(WEIGHINGS if len(numbers) > 2 else len(numbers) - 1):
        before = best
        for kind in range(len(numbers)):
            weights[kind] = _best_weight(kinds, numbers, weights, kind)
            best = max(best, _weighted(kinds, numbers, weights))
        if best <= before * (1 + 1e-9):
            break
    return float(best * (1 - 1e-12))


def _weighted(kinds: Floats, numbers: Floats, weights: Floats) -> float:
    """The bound that weights of the kinds give; there is a number of devices of each."""
    with np.errstate(invalid="ignore"):
        priced = np.where(np.isinf(kinds), inf, kinds * weights)
    return float(priced.min(axis=1).sum() / (numbers @ weights))


def _best_weight(kinds: Floats, numbers: Floats, weights: Floats, kind: int) -> float:
    """The weight of one kind that gives the best bound, the others as they are.

    The bound is `sum_i min(w a_i, b_i) / (c + n w)`: it is best where some `w a_i` meets its `b_i`,
    or with a weight beside which the others vanish, or that itself vanishes.
    """
    rest = np.where(np.isinf(kinds), inf, kinds * weights)
    rest[:, kind] = inf
    b, a = rest.min(axis=1), kinds[:, kind]
    barred, alone = np.isinf(a), np.isinf(b)
    some = ~barred & ~alone & (a > 0) & (b > 0)
    order = np.argsort(b[some] / a[some], kind="stable")
    met, open_ended = b[some][order], a[some][order]
    meets = met / open_ended
    least, most = (meets[0], meets[-1]) if len(meets) else (1.0, 1.0)
    tried = np.concatenate([[least * NOTHING], meets, [most / NOTHING]])
    held = np.concatenate([[0.0], met.cumsum(), [met.sum()]]) + b[barred].sum()
    growing = np.concatenate([[open_ended.sum()], open_ended.sum() - open_ended.cumsum(), [0.0]])
    growing += a[alone].sum()
    others = float(numbers @ weights - numbers[kind] * weights[kind])
    value = (held + tried * growing) / (others + numbers[kind] * tried)
    return float(tried[np.argmax(value)])


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
