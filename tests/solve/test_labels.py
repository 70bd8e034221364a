"""Labels, followers and the walk along the chain against all assignments of small problems."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partitioner.solve import Problem
from partitioner.solve.effort import Effort
from partitioner.solve.evaluate import count
from partitioner.solve.followers import follow
from partitioner.solve.labels import applies, best_in_order
from partitioner.solve.state import Tables
from partitioner.solve.waists import cheapest_walk
from tests.strategies import brute_force, problems

few = settings(max_examples=25, deadline=None)
ENOUGH = 1_000_000.0


@st.composite
def schedules(draw: st.DrawFn, *, roads: bool | None = None) -> Problem:
    """Latency problems in which some nodes take no time, as views do."""
    problem = draw(problems(objective="latency", most_nodes=7, most_devices=2, roads=roads))
    still = draw(st.sets(st.sampled_from(range(len(problem.nodes)))))
    nothing = (0.0,) * len(problem.devices)
    return replace(
        problem,
        forward_seconds=tuple(
            nothing if node in still else row for node, row in enumerate(problem.forward_seconds)
        ),
        backward_seconds=tuple(
            nothing if node in still else row for node, row in enumerate(problem.backward_seconds)
        ),
        separated=(),
        contiguous=False,
    )


def _best(problem: Problem) -> float:
    best = brute_force(problem)
    return inf if best is None else best[1].objective


@few
@given(schedules())
def test_followers_bring_all_or_nothing_of_their_memory(problem: Problem) -> None:
    followed = follow(problem)
    assert _best(followed.relaxed) <= _best(problem) * (1 + 1e-9)
    assert _best(problem) <= _best(followed.problem) * (1 + 1e-9)


@few
@given(schedules(), st.data())
def test_followers_change_no_schedule(problem: Problem, data: st.DataObject) -> None:
    followed = follow(problem)
    device = st.sampled_from(range(len(problem.devices)))
    placed = [data.draw(device) for _ in followed.problem.nodes]
    there, here = (
        count(problem, followed.contraction.expand(placed)),
        count(followed.problem, placed),
    )
    assert here.objective == pytest.approx(there.objective, rel=1e-9, abs=1e-15)
    assert here.peak_nbytes == there.peak_nbytes


@few
@given(schedules(roads=False))
def test_many_labels_find_the_best(problem: Problem) -> None:
    tables = Tables(problem)
    if not all(tables.choices):
        return
    found = best_in_order(tables, cheapest_walk(tables), inf, 10_000, Effort(ENOUGH))
    assert found.complete
    assert found.bound == pytest.approx(_best(problem), rel=1e-9)
    if found.placed is not None:
        recount = count(problem, found.placed)
        assert recount.feasible
        assert recount.objective == pytest.approx(found.bound, rel=1e-9)


@few
@given(schedules(roads=True))
def test_labels_on_shared_roads_give_a_bound(problem: Problem) -> None:
    """Labels let transfers pass each other, so an optimum of theirs may be below any plan."""
    tables = Tables(problem)
    if not all(tables.choices):
        return
    found = best_in_order(tables, cheapest_walk(tables), inf, 10_000, Effort(ENOUGH))
    assert found.bound <= _best(problem) * (1 + 1e-9)
    if found.placed is not None:
        recount = count(problem, found.placed)
        assert recount.feasible
        assert recount.objective >= found.bound * (1 - 1e-9)


@few
@given(schedules(), st.integers(1, 4), st.sampled_from([1.0, 1.2, inf]))
def test_bound_of_few_labels_holds(problem: Problem, width: int, above: float) -> None:
    tables = Tables(problem)
    if not all(tables.choices):
        return
    best = _best(problem)
    known = inf if above == inf or best == inf else best * above
    walk = cheapest_walk(tables)
    found = best_in_order(tables, walk, known, width, Effort(ENOUGH))
    assert walk.seconds <= best * (1 + 1e-9)
    assert min(found.bound, known) <= best * (1 + 1e-9)
    if found.placed is not None and count(problem, found.placed).feasible:
        assert count(problem, found.placed).objective >= best * (1 - 1e-9)


@few
@given(schedules())
def test_effort_cuts_labels_short_with_a_bound(problem: Problem) -> None:
    tables = Tables(problem)
    if not all(tables.choices):
        return
    found = best_in_order(tables, cheapest_walk(tables), inf, 100, Effort(1.0))
    assert found.bound <= _best(problem) * (1 + 1e-9)


def test_labels_leave_ordered_devices_to_others() -> None:
    problem = Problem(
        objective="latency",
        nodes=("n",),
        devices=("d",),
        forward_seconds=((1.0,),),
        backward_seconds=((0.0,),),
        flows=(),
        latency_seconds=((0.0,),),
        seconds_per_byte=((0.0,),),
        holds=(),
        points=1,
        capacity_nbytes=(None,),
        allowed=((0,),),
    )
    assert applies(Tables(problem))
    assert not applies(Tables(replace(problem, contiguous=True)))
    assert not applies(Tables(replace(problem, objective="memory")))
