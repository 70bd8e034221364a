"""Published latency against all assignments of small problems."""

from __future__ import annotations

from itertools import product
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.published_latency import Pieces, solve_latency
from benchmarks.published_pieces import Sequences, best_sequence, sequence_bound
from partitioner.solve import Flow, Hold, Problem, Solution
from partitioner.solve.evaluate import count


@st.composite
def published(draw: st.DrawFn) -> Problem:
    """Chains with a few shortcuts, two accelerators that pay for their borders, one CPU."""
    size = draw(st.integers(1, 7))
    small = st.integers(0, 5).map(float)
    flows = []
    for node in range(size - 1):
        further = draw(st.lists(st.integers(node + 1, size - 1), max_size=1))
        targets = {node + 1, *further} if draw(st.integers(0, 4)) else set(further)
        if targets:
            flows.append(Flow(node, tuple(sorted(targets)), 1, endpoint_seconds=draw(small)))
    seconds = [draw(small) for _ in range(size)]
    free = ((0.0,) * 3,) * 3
    room = draw(st.integers(1, 8))
    return Problem(
        objective="throughput",
        nodes=tuple(f"n{node}" for node in range(size)),
        devices=("acc0", "acc1", "cpu0"),
        forward_seconds=tuple((s, s, draw(st.sampled_from([2.0, 10.0])) * s) for s in seconds),
        backward_seconds=((0.0,) * 3,) * size,
        flows=tuple(flows),
        latency_seconds=free,
        seconds_per_byte=free,
        holds=tuple(Hold((node,), draw(st.integers(0, 4)), 0, 0) for node in range(size)),
        points=1,
        capacity_nbytes=(room, room, None),
        allowed=((0, 1, 2),) * size,
        pays_endpoint=(True, True, False),
    )


@settings(max_examples=15, deadline=None)
@given(published())
def test_bound_and_sequence_enclose_the_best_of_all_assignments(problem: Problem) -> None:
    pieces = Pieces(problem)
    best = inf
    for placed in product(range(3), repeat=len(problem.nodes)):
        value = pieces.latency(placed)
        if value < best and count(problem, placed).feasible:
            best = value
    sequences = Sequences(problem)
    assert sequence_bound(sequences) <= best * (1 + 1e-9)
    placed = best_sequence(sequences)
    assert count(problem, placed).feasible
    assert pieces.latency(placed) >= best * (1 - 1e-9)
    solution = solve_latency(problem)
    assert solution.bound <= best * (1 + 1e-9)
    assert solution.objective == pytest.approx(pieces.latency(_indices(problem, solution)))


def _indices(problem: Problem, solution: Solution) -> list[int]:
    assignment = solution.assignment
    return [problem.devices.index(assignment[node]) for node in problem.nodes]
