"""Lower bounds of loads, against linear programmes and against all sets of company."""

from __future__ import annotations

from itertools import product
from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import linprog

from partitioner.solve import Problem
from partitioner.solve.bounds import group_table, shared_work_bound, work_bound
from partitioner.solve.company import applies, least_loads
from partitioner.solve.contract import contract
from partitioner.solve.evaluate import loads
from partitioner.solve.state import Tables
from tests.strategies import problems

seconds = st.one_of(st.integers(0, 9).map(float), st.just(inf))


def shared_out(table: NDArray[np.float64]) -> float:
    """The least largest load when every node may be in several places, by a linear programme."""
    size, devices = table.shape
    here = np.isfinite(table)
    if not here.any(axis=1).all():
        return inf
    costs = np.where(here, table, 0.0)
    loads_of = np.zeros((devices, size * devices + 1))
    for device in range(devices):
        loads_of[device, device : size * devices : devices] = costs[:, device]
    loads_of[:, -1] = -1
    once = np.zeros((size, size * devices + 1))
    for node in range(size):
        once[node, node * devices : (node + 1) * devices] = 1
    bounds = [*((0, 1 if open_to else 0) for open_to in here.ravel()), (0, None)]
    goal = np.zeros(size * devices + 1)
    goal[-1] = 1
    result = linprog(goal, loads_of, np.zeros(devices), once, np.ones(size), bounds)
    return float(result.fun)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(seconds, seconds), min_size=1, max_size=6),
    st.integers(1, 3),
    st.integers(1, 2),
)
def test_work_of_two_kinds_of_devices_is_shared_out_as_well_as_can_be(
    rows: list[tuple[float, float]], some: int, others: int
) -> None:
    table = np.array([[row[0]] * some + [row[1]] * others for row in rows])
    assert shared_work_bound(table) == pytest.approx(shared_out(table), rel=1e-6, abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(seconds, seconds, seconds), min_size=1, max_size=6))
def test_work_of_more_kinds_of_devices_is_never_bounded_too_high(
    rows: list[tuple[float, ...]],
) -> None:
    table = np.array(rows)
    assert shared_work_bound(table) <= shared_out(table) * (1 + 1e-6) + 1e-6


def test_work_keeps_off_devices_on_which_a_node_alone_takes_too_long() -> None:
    """Ten nodes of a second on two fast devices, or of ten seconds on a slow one: 5, not 4.76."""
    table = np.array([[1.0, 1.0, 10.0]] * 10)
    assert shared_work_bound(table) == pytest.approx(10 / 2.1)
    assert work_bound(table) == pytest.approx(5.0)


@settings(max_examples=40, deadline=None)
@given(problems(objective="throughput", most_nodes=5, roads=False))
def test_company_costs_what_the_best_of_all_sets_costs(problem: Problem) -> None:
    tables = Tables(contract(problem)[0])
    if not applies(tables):
        return
    alone = group_table(tables)
    least = least_loads(tables, alone, 0.0)
    best = np.full_like(least, inf)
    for placed in product(range(len(problem.devices)), repeat=len(tables.groups)):
        if all(np.isfinite(alone[group, device]) for group, device in enumerate(placed)):
            busy, _ = loads(tables.problem, placed)
            for group, device in enumerate(placed):
                best[group, device] = min(best[group, device], busy[device])
    assert (least <= best * (1 + 1e-9)).all()
    paid = [device for device in range(len(problem.devices)) if tables.problem.pays(device)]
    if len(problem.devices) > 1 and np.isfinite(alone).all():
        assert least[:, paid] == pytest.approx(best[:, paid], rel=1e-9)
