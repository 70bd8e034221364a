"""Bounds of covers by whole shares, and the shares, against all assignments and all sets."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partitioner.solve import Flow, Problem, solve
from partitioner.solve.bounds import group_table, lower_bound
from partitioner.solve.company import applies
from partitioner.solve.configurations import configuration_bound
from partitioner.solve.contract import contract
from partitioner.solve.effort import Effort
from partitioner.solve.evaluate import count
from partitioner.solve.narrow import narrow_line
from partitioner.solve.shares import Shares
from partitioner.solve.state import Tables
from tests.strategies import problems


def paying(problem: Problem, price: float = 1.0) -> Problem:
    """The problem with borders that cost all devices but the last one, and free links."""
    devices = len(problem.devices)
    free = ((0.0,) * devices,) * devices
    seconds = [second for row in problem.forward_seconds for second in row if second < inf]
    unit = price * max(seconds, default=1.0) / 4
    return replace(
        problem,
        latency_seconds=free,
        seconds_per_byte=free,
        flows=tuple(
            replace(flow, endpoint_seconds=(1 + index % 3) * unit)
            for index, flow in enumerate(problem.flows)
        ),
        pays_endpoint=(True,) * (devices - 1) + (devices < 3,),
    )


small = problems(objective="throughput", most_nodes=5, roads=False)


@settings(max_examples=30, deadline=None)
@given(small.map(paying))
def test_no_assignment_is_below_the_bound(problem: Problem) -> None:
    tables = Tables(contract(problem)[0])
    counts = [
        count(tables.problem, placed)
        for placed in product(range(len(problem.devices)), repeat=len(tables.problem.nodes))
    ]
    best = min((one.objective for one in counts if one.feasible), default=inf)
    if not applies(tables) or not 0 < best < inf:
        return
    for known in (best, 2 * best):
        assert configuration_bound(tables, known, 0.0, Effort(1e7)) <= best * (1 + 1e-9)


@settings(max_examples=30, deadline=None)
@given(small.map(paying), st.lists(st.integers(0, 5), min_size=5, max_size=5), st.integers(1, 9))
def test_the_best_shares_are_those_of_all_sets(
    problem: Problem, worths: list[int], sixths: int
) -> None:
    """With more buckets than there are loads, no share is confused with another one."""
    problem = replace(problem, contiguous=False)
    tables = Tables(contract(problem)[0])
    seconds = group_table(tables)[:, 0]
    size = len(tables.groups)
    limit = sixths / 6 * float(sum(second for second in seconds if second < inf)) or 1.0
    line = narrow_line(tables, limit, pays=tables.problem.pays(0))
    assert line is not None
    shares = Shares(line, seconds, np.array(worths[:size], dtype=float), limit, 2_000)
    elsewhere = len(problem.devices)
    best = 0.0
    for chosen in product((0, elsewhere), repeat=size):
        load = 0.0
        for group, device in enumerate(chosen):
            load += float(seconds[group]) if device == 0 else 0.0
        for flow in tables.problem.flows if tables.problem.pays(0) else ():
            sides = {chosen[tables.group_of[node]] for node in (flow.source, *flow.targets)}
            load += flow.endpoint_seconds * (len(sides) - 1)
        if load <= limit * (1 - 1e-9):
            best = max(best, sum(w for w, d in zip(worths, chosen, strict=False) if d == 0))
    assert shares.worths[-1] >= best
    found, load = shares.within(limit)
    assert sum(worths[group] for group in found) == shares.worths[-1]
    assert load <= limit


def chain_of_blocks(blocks: int, devices: int) -> Problem:
    """Blocks of three nodes whose inner flows are dear, on equal devices."""
    nodes = 3 * blocks
    free = ((0.0,) * devices,) * devices
    return Problem(
        objective="throughput",
        nodes=tuple(f"n{node}" for node in range(nodes)),
        devices=tuple(f"d{device}" for device in range(devices)),
        forward_seconds=((4.0,) * devices,) * nodes,
        backward_seconds=((0.0,) * devices,) * nodes,
        flows=tuple(
            Flow(node, (node + 1,), 1, endpoint_seconds=1.0 if node % 3 == 2 else 9.0)
            for node in range(nodes - 1)
        ),
        latency_seconds=free,
        seconds_per_byte=free,
        holds=(),
        points=1,
        capacity_nbytes=(None,) * devices,
        allowed=(tuple(range(devices)),) * nodes,
        pays_endpoint=(True,) * devices,
    )


def test_blocks_that_are_dear_to_part_are_packed_whole() -> None:
    """Seven blocks of 12 s on three devices: one has three, though work alone is shared by 28 s."""
    problem = chain_of_blocks(7, 3)
    tables = Tables(problem)
    assert lower_bound(tables) == pytest.approx(28.0)
    assert configuration_bound(tables, 40.0, 0.0, Effort(1e7)) == pytest.approx(37.0)
    assert solve(problem).objective == pytest.approx(37.0)


def test_a_graph_that_is_too_wide_keeps_its_bound() -> None:
    rows = 14
    nodes = tuple(f"n{node}" for node in range(2 * rows))
    wide = replace(
        chain_of_blocks(1, 2),
        nodes=nodes,
        forward_seconds=((1.0, 1.0),) * len(nodes),
        backward_seconds=((0.0, 0.0),) * len(nodes),
        flows=tuple(
            Flow(node, tuple(range(rows, 2 * rows)), 1, endpoint_seconds=9.0)
            for node in range(rows)
        ),
        allowed=((0, 1),) * len(nodes),
    )
    assert narrow_line(Tables(wide), 28.0, pays=True) is None
    assert configuration_bound(Tables(wide), 28.0, 14.0, Effort(1e6)) == 14.0
