"""A start never makes the answer worse, whatever it is."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from partitioner.solve import Problem, evaluate, solve
from tests.strategies import brute_force, problems


@settings(max_examples=12, deadline=None)
@given(problems(), st.data())
def test_any_start_leads_to_the_optimum(problem: Problem, data: st.DataObject) -> None:
    best = brute_force(problem)
    if best is None:
        return
    device = st.sampled_from([*problem.devices, "elsewhere"])
    start = {node: data.draw(device) for node in problem.nodes}
    found = solve(problem, start=start)
    assert found.objective <= best[1].objective * (1 + 1e-7)


@settings(max_examples=8, deadline=None)
@given(problems())
def test_without_time_the_start_is_what_there_is(problem: Problem) -> None:
    best = brute_force(problem)
    if best is None:
        return
    start = dict(zip(problem.nodes, (problem.devices[d] for d in best[0]), strict=True))
    found = solve(problem, start=start, time_limit=1e-9)
    assert evaluate(problem, found.assignment).objective <= best[1].objective * (1 + 1e-7)
