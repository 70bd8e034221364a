"""Problems without dominated nodes have the same optimum, and its ties."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partitioner.solve import Flow, Problem
from partitioner.solve.contract import contract
from partitioner.solve.dominated import without_dominated
from partitioner.solve.evaluate import count
from tests.strategies import brute_force, problems


@st.composite
def published(draw: st.DrawFn) -> Problem:
    """Links are free, devices pay; some nodes are free as well, and some prices high."""
    problem = draw(problems(objective="throughput", most_nodes=6, roads=False))
    free = tuple((0.0,) * len(problem.devices) for _ in problem.devices)
    prices = st.sampled_from([0.0, 1.0, 5.0, 40.0])
    scale = draw(st.sampled_from([1e-6, 1.0]))
    return replace(
        problem,
        latency_seconds=free,
        seconds_per_byte=free,
        forward_seconds=tuple(
            tuple(0.0 for _ in row) if draw(st.booleans()) else row
            for row in problem.forward_seconds
        ),
        backward_seconds=tuple((0.0,) * len(problem.devices) for _ in problem.nodes),
        flows=tuple(
            replace(flow, nbytes=int(price), gradient_nbytes=0, endpoint_seconds=price * scale)
            for flow in problem.flows
            for price in [draw(prices)]
        ),
    )


@settings(max_examples=60, deadline=None)
@given(published())
def test_the_best_of_all_assignments_stays(problem: Problem) -> None:
    smaller, contraction = without_dominated(*contract(problem))
    there, here = brute_force(problem), brute_force(smaller)
    assert (there is None) == (here is None)
    if there is not None and here is not None:
        placed, best = here
        recount = count(problem, contraction.expand(placed))
        assert recount.feasible
        assert recount.objective == pytest.approx(best.objective, rel=1e-9, abs=1e-15)
        assert recount.objective == pytest.approx(there[1].objective, rel=1e-9, abs=1e-15)
        assert recount.moved_nbytes == there[1].moved_nbytes
        assert contraction.shrink(contraction.expand(placed)) == placed


def test_what_is_cheaper_to_join_than_to_cut_off_is_joined() -> None:
    """A chain 0 -> 1 -> 2 with a free reader of 0; only 1 costs less than its way to 2."""
    problem = Problem(
        objective="throughput",
        nodes=("big", "small", "large", "free"),
        devices=("d0", "d1"),
        forward_seconds=((9.0, 9.0), (1.0, 1.0), (8.0, 8.0), (0.0, 0.0)),
        backward_seconds=((0.0, 0.0),) * 4,
        flows=(
            Flow(0, (1, 3), nbytes=2, endpoint_seconds=2.0),
            Flow(1, (2,), nbytes=3, endpoint_seconds=3.0),
        ),
        latency_seconds=((0.0, 0.0),) * 2,
        seconds_per_byte=((0.0, 0.0),) * 2,
        holds=(),
        points=1,
        capacity_nbytes=(None, None),
        allowed=((0, 1),) * 4,
        pays_endpoint=(True, True),
    )
    smaller, contraction = without_dominated(*contract(problem))
    assert smaller.nodes == ("big", "large")
    assert contraction.groups == ((0, 3), (2, 1))
    unpaid, _ = without_dominated(*contract(replace(problem, pays_endpoint=(True, False))))
    assert unpaid.nodes == ("big", "small", "large")
