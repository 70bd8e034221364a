"""A quick look promises nothing that is not there."""

from __future__ import annotations

from itertools import product

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from partitioner.solve import Problem, glance
from partitioner.solve.evaluate import count
from tests.strategies import problems


@settings(max_examples=60, deadline=None)
@given(problems(most_nodes=5), st.randoms(use_true_random=False))
def test_the_best_lies_between_what_is_seen_and_the_bound(problem: Problem, random: object) -> None:
    worth = {
        placed: recount.objective
        for placed in product(range(len(problem.devices)), repeat=len(problem.nodes))
        if (recount := count(problem, placed)).feasible
    }
    assume(worth)
    start = sorted(worth)[random.randrange(len(worth))]  # type: ignore[attr-defined]
    named = {
        node: problem.devices[device] for node, device in zip(problem.nodes, start, strict=True)
    }
    seen = glance(problem, named)
    least = min(worth.values())
    assert seen.bound <= least * (1 + 1e-9)
    assert least * (1 - 1e-9) <= seen.objective <= worth[start] * (1 + 1e-9)
