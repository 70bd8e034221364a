"""Among equally good plans: the fewest bytes, then the fewest moves."""

from __future__ import annotations

from benchmarks.brute_force import best_of_all
from partitioner.solve import Flow, Hold, Hop, Problem, evaluate, solve


def test_ties_of_a_small_problem_with_many_lanes_are_settled() -> None:
    """Lanes made its programme count as large, so that 14 bytes moved where 9 would do."""
    devices = range(3)
    nodes = range(9)
    forward = (8e-06, 7e-06, 0.0, 0.0, 4e-06, 0.0, 4e-06, 7e-06, 8e-06)
    problem = Problem(
        objective="latency",
        nodes=tuple(f"n{node}" for node in nodes),
        devices=("d0", "d1", "d2"),
        forward_seconds=tuple((seconds,) * 3 for seconds in forward),
        backward_seconds=((0.0,) * 3,) * 9,
        flows=(
            Flow(0, (6,), 5),
            Flow(1, (6,), 10),
            Flow(2, (4, 6, 7), 1),
            Flow(3, (5,), 5),
            Flow(4, (5, 6, 8), 3),
            Flow(5, (6, 7), 6),
            Flow(6, (7, 8), 2),
            Flow(7, (8,), 0),
        ),
        latency_seconds=((0.0,) * 3,) * 3,
        seconds_per_byte=tuple(tuple(2e-7 * (a != b) for b in devices) for a in devices),
        holds=tuple(
            Hold((node,), 1, *points) for node in nodes for points in ((0, 8), (node, node))
        ),
        points=9,
        capacity_nbytes=(87, 87, 87),
        allowed=tuple((2,) if node == 5 else (0, 1, 2) for node in nodes),
        lanes=tuple(f"lane {lane}" for lane in range(6)),
        roads=tuple(
            tuple(
                () if a == b else tuple(Hop(0.0, 1e-7, (lane,)) for lane in (a, 3 + b))
                for b in devices
            )
            for a in devices
        ),
    )
    best = best_of_all(problem)
    assert best is not None
    recount = evaluate(problem, solve(problem).assignment)
    assert (recount.moved_nbytes, recount.moves) == (best.moved_nbytes, best.moves)
