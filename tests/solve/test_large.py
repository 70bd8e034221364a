"""Coarsening of large problems, against brute force where that is possible."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.scale import Case, generate
from partitioner.solve import Problem, evaluate, solve
from partitioner.solve.evaluate import count
from partitioner.solve.large import coarsened, is_large
from tests.strategies import brute_force, problems

few = settings(max_examples=30, deadline=None)


@few
@given(problems(objective="throughput") | problems(objective="memory"))
def test_bound_and_start_of_the_smaller_problem_enclose_the_optimum(problem: Problem) -> None:
    best = brute_force(problem)
    if best is None or not all(problem.allowed):
        return
    coarse = coarsened(problem)
    assert coarse.bound <= best[1].objective * (1 + 1e-9)
    if coarse.placed is not None:
        recount = count(problem, coarse.contraction.expand(coarse.placed))
        assert recount.feasible
        assert recount.objective >= best[1].objective * (1 - 1e-9)


@few
@given(problems(objective="throughput"), st.data())
def test_what_fits_the_smaller_problem_fits_the_large_one(
    problem: Problem, data: st.DataObject
) -> None:
    coarse = coarsened(problem)
    device = st.sampled_from(range(len(problem.devices)))
    placed = [data.draw(device) for _ in coarse.problem.nodes]
    small, large = count(coarse.problem, placed), count(problem, coarse.contraction.expand(placed))
    assert small.objective == pytest.approx(large.objective, rel=1e-9, abs=1e-15)
    assert not small.feasible or large.feasible


@pytest.mark.parametrize(
    ("family", "objective", "ordered"),
    [("residual_chain", "throughput", True), ("mixture_of_experts", "memory", False)],
)
def test_large_problems_come_close_to_their_bound(
    family: str, objective: str, ordered: bool
) -> None:
    problem = generate(Case(family, 5_100, 4, objective, ordered))
    assert is_large(problem)
    solution = solve(problem)
    recount = evaluate(problem, solution.assignment)
    assert recount.feasible
    assert recount.objective == solution.objective
    assert solution.bound <= solution.objective
    assert solution.gap < 0.02


def test_unequal_devices_that_lack_operators() -> None:
    problem = generate(Case("branches", 3_000, 8, "throughput", ordered=False))
    seconds = tuple(
        tuple(
            float("inf") if device == 7 and node % 5 == 0 else second * (1 + device % 3)
            for device, second in enumerate(row)
        )
        for node, row in enumerate(problem.forward_seconds)
    )
    unequal = replace(problem, forward_seconds=seconds, capacity_nbytes=(None,) * 8)
    solution = solve(unequal)
    assert evaluate(unequal, solution.assignment).feasible
    assert solution.bound > sum(map(min, seconds)) / 8
