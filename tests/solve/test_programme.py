"""The integer programme itself, and how the solver behaves around it."""

from __future__ import annotations

import functools
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from math import inf
from pathlib import Path

import highspy
import pytest

from benchmarks.brute_force import best_of_all
from partitioner.errors import TimeLimitError
from partitioner.solve import (
    Flow,
    Hold,
    Lack,
    Problem,
    Solution,
    Status,
    evaluate,
    programme,
    solve,
)
from partitioner.solve.contract import contract
from partitioner.solve.programme import Aim, Limits, Programme
from partitioner.solve.state import Tables
from partitioner.solve.waists import Walk
from tests.forks import Forked


def diamond(objective: str = "latency", *, capacity: int | None = 5) -> Problem:
    """Two branches between a first and a last node, then one more; training, with memory."""
    nodes = 5
    forward = ((1e-6,) * 2, (4e-6, 5e-6), (4e-6,) * 2, (1e-6,) * 2, (2e-6,) * 2)
    backward = tuple(tuple(2 * seconds for seconds in row) for row in forward)
    return Problem(
        objective=objective,
        nodes=("a", "b", "c", "d", "e"),
        devices=("cuda:0", "cuda:1"),
        forward_seconds=forward,
        backward_seconds=backward,
        flows=(
            Flow(0, (1, 2), 10, 10),
            Flow(1, (3,), 20, 20),
            Flow(2, (3,), 20, 20),
            Flow(3, (4,), 10, 10),
        ),
        latency_seconds=((0.0, 5e-7), (5e-7, 0.0)),
        seconds_per_byte=((0.0, 1e-8), (1e-8, 0.0)),
        holds=tuple(Hold((node,), 2, 0, 2 * nodes) for node in range(nodes)),
        points=2 * nodes + 1,
        capacity_nbytes=(capacity, None),
        allowed=((0, 1),) * nodes,
        separated=(((0,), (4,)),),
    )


def large(nodes: int = 24) -> Problem:
    """A long chain with side branches: no bound of ours is met, so the programme has to run."""
    return Problem(
        objective="throughput",
        nodes=tuple(f"n{node}" for node in range(nodes)),
        devices=("cuda:0", "cuda:1", "cuda:2"),
        forward_seconds=tuple(((node * 7919) % 13 + 1.0,) * 3 for node in range(nodes)),
        backward_seconds=((0.0,) * 3,) * nodes,
        flows=tuple(
            Flow(node, tuple(t for t in (node + 1, node + 3) if t < nodes), 8, 0, 2.0 + node % 3)
            for node in range(nodes - 1)
        ),
        latency_seconds=((0.0,) * 3,) * 3,
        seconds_per_byte=((0.0,) * 3,) * 3,
        holds=(),
        points=1,
        capacity_nbytes=(None,) * 3,
        allowed=((0, 1, 2),) * nodes,
        pays_endpoint=(True,) * 3,
    )


@pytest.mark.parametrize("objective", ["latency", "throughput", "memory"])
def test_programme_of_five_nodes(objective: str, golden: Callable[[str, str], None]) -> None:
    capacities = (12, 9)
    problem = replace(diamond(objective), capacity_nbytes=capacities)
    golden(f"programme_{objective}.lp", programme.text(Tables(problem)))


def test_optimum_of_the_diamond_by_hand() -> None:
    """All but the first fit on the second device: 1 + 0.6 + 5 + 4 + 1 + 2 forward."""
    solution = solve(diamond())
    assert solution.status is Status.OPTIMAL
    assert solution.assignment["a"] == "cuda:0"
    assert solution.assignment["e"] == "cuda:1"
    assert solution.objective == pytest.approx(evaluate(diamond(), solution.assignment).objective)
    assert solution.gap == pytest.approx(0, abs=1e-7)


def test_everything_on_the_fastest_device_needs_no_solver() -> None:
    problem = replace(diamond(capacity=None), separated=())
    slow_link = replace(problem, latency_seconds=((0.0, 1e-3), (1e-3, 0.0)))
    solution = solve(slow_link)
    assert set(solution.assignment.values()) == {"cuda:0"}
    assert solution.status is Status.OPTIMAL
    assert "HiGHS" not in solution.solver


@functools.cache
def patient() -> Solution:
    return solve(large(), seed=3)


def test_answers_repeat() -> None:
    first, second = patient(), solve(large(), seed=3)
    assert first.assignment == second.assignment
    assert (first.objective, first.bound, first.status) == (
        second.objective,
        second.bound,
        second.status,
    )


def test_time_limit_keeps_the_best_plan_with_a_true_gap() -> None:
    quick = solve(large(), seed=3, time_limit=0.5)
    assert quick.bound <= patient().objective <= quick.objective * (1 + 1e-9)
    assert 0 <= quick.gap < 1


@pytest.mark.parametrize("problem", [diamond(), diamond("throughput"), large(12)])
def test_a_proven_answer_is_the_same_under_any_time_limit_that_it_ends_within(
    problem: Problem,
) -> None:
    free = solve(problem)
    assert free.status is Status.OPTIMAL
    assert replace(solve(problem, time_limit=5_000), seconds=free.seconds) == free


def test_time_beyond_the_effort_is_used_only_where_there_is_some() -> None:
    tables = Tables(contract(large(18))[0])
    spent = Programme(tables, Aim.OBJECTIVE, Limits(effort=1)).solve()
    late = Programme(tables, Aim.OBJECTIVE, Limits(effort=1, until=0.0)).solve()
    more = Programme(tables, Aim.OBJECTIVE, Limits(effort=1, until=inf)).solve()
    assert late == spent
    assert not spent.complete
    assert more.complete
    assert more.bound > spent.bound


@pytest.fixture
def _hopeless_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("partitioner.solve.search.splits", lambda tables: iter(()))
    monkeypatch.setattr("partitioner.solve.search.descend", lambda *given: (0,))
    monkeypatch.setattr("partitioner.solve.search.cheapest_walk", lambda tables: Walk(0.0, None))
    monkeypatch.setattr("partitioner.solve.search.applies", lambda tables: False)
    monkeypatch.setattr("partitioner.solve.search.MOST_ENTRIES", 0)


@pytest.mark.usefixtures("_hopeless_search")
def test_where_the_search_finds_nothing_any_assignment_will_do() -> None:
    found = solve(diamond(capacity=5))
    assert found.status is Status.FEASIBLE
    assert evaluate(diamond(capacity=5), found.assignment).feasible


@pytest.mark.usefixtures("_hopeless_search")
def test_time_limit_with_no_plan_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = Lack(None, proven=False)
    monkeypatch.setattr("partitioner.solve.search.least_lack", lambda *given: nothing)
    with pytest.raises(TimeLimitError, match="no plan was found in time"):
        solve(diamond(capacity=5), time_limit=60)


def test_interrupt_gives_the_best_plan_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers of a parallel test run ignore Ctrl-C, so the usual handler is set first.

    Without the bound that takes longest, the programme begins soon.
    """
    monkeypatch.setattr(
        "partitioner.solve.search.configuration_bound", lambda tables, value, bound, effort: bound
    )
    lines: list[str] = []

    def listen(line: str) -> None:
        lines.append(line)
        if line.startswith("integer programme"):
            signal.raise_signal(signal.SIGINT)

    problem = replace(large(40), separated=(((0,), (39,)),))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        solution = solve(problem, progress=listen)
    finally:
        signal.signal(signal.SIGINT, before)
    assert lines[-1].startswith("interrupted")
    assert evaluate(problem, solution.assignment).feasible
    assert solution.bound <= solution.objective


def test_a_run_that_hangs_is_left_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """HiGHS went round for ever in its presolve, and heeded no limit (inceptionv3, any split)."""
    tables = Tables(contract(large(12))[0])
    expected = Programme(tables, Aim.OBJECTIVE).solve()
    released, hangs, run = threading.Event(), [True], highspy.Highs.run

    def hang_once(model: highspy.Highs) -> object:
        if hangs:
            hangs.clear()
            while not released.is_set():
                pass
        return run(model)

    monkeypatch.setattr(highspy.Highs, "run", hang_once)
    monkeypatch.setattr(programme, "SILENT_SECONDS", 0.5)
    try:
        found = Programme(tables, Aim.OBJECTIVE).solve()
    finally:
        released.set()
        for thread in threading.enumerate():
            if thread.name == "HiGHS":
                thread.join()
    assert not hangs
    assert (found.placed, found.complete) == (expected.placed, True)
    assert found.bound == pytest.approx(expected.bound, rel=1e-9)


def test_nothing_reaches_standard_output(tmp_path: Path) -> None:
    done = Forked(tmp_path, solve, diamond()).finished()
    assert (done.returncode, done.stdout) == (0, "")


def test_without_highs_the_other_solver_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits()
    tables = Tables(diamond())
    expected = Programme(tables, Aim.OBJECTIVE, limits).solve()
    monkeypatch.setattr(programme, "highspy", None)
    answer = Programme(tables, Aim.OBJECTIVE, limits).solve()
    assert answer.solver == "CBC"
    assert answer.placed is not None
    assert answer.bound == pytest.approx(expected.bound, rel=1e-6)


def test_programme_takes_a_start() -> None:
    tables = Tables(diamond())
    start = [0, 1, 1, 1, 1]
    answer = Programme(tables, Aim.OBJECTIVE, Limits(effort=0)).solve(start)
    assert answer.placed is not None


def test_an_objective_that_its_own_columns_contradict_is_not_believed() -> None:
    """HiGHS 1.16 calls 4.97e-05 optimal here, with columns that cost 6.705e-05."""
    problem = Problem(
        objective="latency",
        nodes=("n0", "n1", "n2", "n3", "n4", "n5", "n6", "n7", "n8", "n9"),
        devices=("d0", "d1", "d2"),
        forward_seconds=(
            (4e-06, 5e-06, 8e-06),
            (2e-06, 7e-06, 7e-06),
            (6e-06, 6e-06, 5e-06),
            (6e-06, 6e-06, 5e-06),
            (0.0, 0.0, 0.0),
            (2e-06, 4e-06, 6e-06),
            (0.0, 0.0, 0.0),
            (0.0, 0.0, 0.0),
            (2e-06, 4e-06, 5e-06),
            (1e-06, 5e-06, 8e-06),
        ),
        backward_seconds=(
            (8e-06, 1e-05, 1.6e-05),
            (4e-06, 1.4e-05, 1.4e-05),
            (1.2e-05, 1.2e-05, 1e-05),
            (1.2e-05, 1.2e-05, 1e-05),
            (0.0, 0.0, 0.0),
            (4e-06, 8e-06, 1.2e-05),
            (0.0, 0.0, 0.0),
            (0.0, 0.0, 0.0),
            (4e-06, 8e-06, 1e-05),
            (2e-06, 1e-05, 1.6e-05),
        ),
        flows=(
            Flow(source=0, targets=(2,), nbytes=7, gradient_nbytes=7, endpoint_seconds=1e-06),
            Flow(source=1, targets=(9,), nbytes=3, gradient_nbytes=0, endpoint_seconds=0.0),
            Flow(source=3, targets=(5, 6), nbytes=4, gradient_nbytes=0, endpoint_seconds=1e-06),
            Flow(source=5, targets=(7, 8, 9), nbytes=4, gradient_nbytes=4, endpoint_seconds=0.0),
            Flow(source=6, targets=(8, 9), nbytes=0, gradient_nbytes=0, endpoint_seconds=0.0),
        ),
        latency_seconds=((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
        seconds_per_byte=((0.0, 1e-07, 5e-08), (5e-08, 0.0, 5e-08), (5e-08, 5e-08, 0.0)),
        holds=(
            Hold(nodes=(0, 2), nbytes=7, first=0, last=19),
            Hold(nodes=(0,), nbytes=0, first=0, last=20),
            Hold(nodes=(1, 9), nbytes=5, first=1, last=18),
            Hold(nodes=(1,), nbytes=7, first=0, last=20),
            Hold(nodes=(1,), nbytes=4, first=1, last=1),
            Hold(nodes=(2,), nbytes=5, first=0, last=20),
            Hold(nodes=(3, 5, 6), nbytes=2, first=3, last=16),
            Hold(nodes=(3,), nbytes=8, first=0, last=20),
            Hold(nodes=(3,), nbytes=4, first=3, last=3),
            Hold(nodes=(4,), nbytes=10, first=0, last=20),
            Hold(nodes=(5, 7, 8, 9), nbytes=2, first=5, last=14),
            Hold(nodes=(5,), nbytes=8, first=0, last=20),
            Hold(nodes=(6, 8, 9), nbytes=0, first=6, last=13),
            Hold(nodes=(6,), nbytes=2, first=0, last=20),
            Hold(nodes=(7,), nbytes=4, first=0, last=20),
            Hold(nodes=(7,), nbytes=1, first=7, last=7),
            Hold(nodes=(8,), nbytes=4, first=0, last=20),
            Hold(nodes=(8,), nbytes=1, first=8, last=8),
            Hold(nodes=(9,), nbytes=5, first=0, last=20),
        ),
        points=21,
        capacity_nbytes=(None, None, None),
        allowed=(
            (0, 1, 2),
            (0,),
            (0,),
            (0,),
            (0, 1, 2),
            (0,),
            (0, 1, 2),
            (0, 1, 2),
            (0, 1, 2),
            (0, 1, 2),
        ),
        colocated=(),
        separated=(),
        contiguous=True,
        pays_endpoint=(False, False, False),
        precedences=None,
        demands=(),
    )
    best = best_of_all(problem)
    assert best is not None
    solution = solve(problem)
    assert solution.status is Status.OPTIMAL
    assert solution.bound == pytest.approx(best.objective)


def test_a_fault_with_a_limit_on_the_objective_is_got_round() -> None:
    """HiGHS 1.16 stops with a fault here, at all tolerances, where `L` is at most the optimum."""
    seconds = (
        (8e-06, 3e-06, 3e-06),
        (6e-06, 3e-06, 9e-06),
        (6e-06, 7e-06, 6e-06),
        (0.0, 0.0, 0.0),
        (9e-06, 6e-06, 7e-06),
        (6e-06, 7e-06, 2e-06),
        (1e-06, 6e-06, 9e-06),
    )
    problem = Problem(
        objective="throughput",
        nodes=("n0", "n1", "n2", "n3", "n4", "n5", "n6"),
        devices=("d0", "d1", "d2"),
        forward_seconds=seconds,
        backward_seconds=tuple(tuple(2 * second for second in row) for row in seconds),
        flows=(
            Flow(source=0, targets=(6,), nbytes=4),
            Flow(source=1, targets=(2, 4, 5), nbytes=6),
            Flow(source=2, targets=(4, 6), nbytes=9, gradient_nbytes=9, endpoint_seconds=1e-06),
            Flow(source=3, targets=(4,), nbytes=4, endpoint_seconds=1e-06),
            Flow(source=4, targets=(5,), nbytes=3, gradient_nbytes=3, endpoint_seconds=1e-06),
            Flow(source=5, targets=(6,), nbytes=1, gradient_nbytes=1),
        ),
        latency_seconds=((0.0, 5e-07, 2.5e-07), (1e-06, 0.0, 5e-07), (1e-06, 2.5e-07, 0.0)),
        seconds_per_byte=((0.0, 1e-07, 5e-08), (2e-07, 0.0, 1e-07), (2e-07, 5e-08, 0.0)),
        holds=(),
        points=1,
        capacity_nbytes=(None, None, None),
        allowed=((0, 1, 2),) * 7,
        colocated=((1, 3), (0, 1)),
        separated=(((2,), (4,)),),
        contiguous=True,
        pays_endpoint=(True, False, False),
    )
    best = best_of_all(problem)
    assert best is not None
    tables = Tables(contract(problem)[0])
    answer = Programme(tables, Aim.OBJECTIVE, Limits(known=best.objective)).solve()
    assert answer.complete
    assert answer.bound == pytest.approx(best.objective)


def test_a_fault_without_a_known_plan_is_made_good_once_there_is_one() -> None:
    """HiGHS 1.16 stops with a fault here until it is told of a plan; none was asked of it then."""
    holds = (
        ((0, 4, 5, 6), 7, 0, 15),
        ((0,), 8, 0, 16),
        ((1, 5, 6), 9, 1, 14),
        ((1,), 4, 0, 16),
        ((2, 5, 6), 6, 2, 13),
        ((2,), 10, 0, 16),
        ((3,), 1, 0, 16),
        ((4,), 7, 0, 16),
        ((5,), 6, 0, 16),
        ((6,), 2, 0, 16),
        ((6,), 3, 6, 6),
        ((7,), 3, 0, 16),
        ((7,), 2, 7, 7),
    )
    problem = Problem(
        objective="memory",
        nodes=tuple(f"n{node}" for node in range(8)),
        devices=("d0", "d1", "d2"),
        forward_seconds=((1.0,) * 3,) * 8,
        backward_seconds=((2.0,) * 3,) * 8,
        flows=(
            Flow(0, (4, 5, 6), 5, 5),
            Flow(1, (5, 6), 6, 6),
            Flow(2, (5, 6), 10),
            Flow(3, (5,), 4),
            Flow(5, (7,), 6, 6),
        ),
        latency_seconds=((0.0,) * 3,) * 3,
        seconds_per_byte=((0.0, 0.2, 0.05), (0.2, 0.0, 0.2), (0.2, 0.05, 0.0)),
        holds=tuple(Hold(*hold) for hold in holds),
        points=17,
        capacity_nbytes=(41, 22, 33),
        allowed=((0, 1, 2),) * 8,
        colocated=((0, 2),),
        contiguous=True,
    )
    best = best_of_all(problem)
    assert best is not None
    solution = solve(problem)
    assert solution.status is Status.OPTIMAL
    assert solution.bound == pytest.approx(best.objective)
