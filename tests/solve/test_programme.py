"""The integer programme itself, and how the solver behaves around it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest

from partitioner.errors import TimeLimitError
from partitioner.solve import (
    Flow,
    Hold,
    Lack,
    Problem,
    Status,
    evaluate,
    programme,
    solve,
)
from partitioner.solve.programme import Aim, Limits, Programme
from partitioner.solve.state import Tables
from partitioner.solve.waists import Walk


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


def large(nodes: int = 40) -> Problem:
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


def test_answers_repeat() -> None:
    first, second = solve(large(), seed=3), solve(large(), seed=3)
    assert first.assignment == second.assignment
    assert (first.objective, first.bound, first.status) == (
        second.objective,
        second.bound,
        second.status,
    )


def test_time_limit_keeps_the_best_plan_with_a_true_gap() -> None:
    quick = solve(large(), time_limit=0.5)
    patient = solve(large())
    assert quick.bound <= patient.objective <= quick.objective * (1 + 1e-9)
    assert 0 <= quick.gap < 1


def test_a_time_limit_that_is_not_reached_changes_nothing() -> None:
    free, limited = solve(diamond()), solve(diamond(), time_limit=500)
    assert free.assignment == limited.assignment
    assert (free.bound, free.status) == (limited.bound, limited.status)


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


def test_interrupt_gives_the_best_plan_so_far() -> None:
    """Workers of a parallel test run ignore Ctrl-C, so the usual handler is set first."""
    lines: list[str] = []

    def listen(line: str) -> None:
        lines.append(line)
        if line.startswith("integer programme"):
            signal.raise_signal(signal.SIGINT)

    problem = replace(large(400), separated=(((0,), (399,)),))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        solution = solve(problem, progress=listen)
    finally:
        signal.signal(signal.SIGINT, before)
    assert lines[-1].startswith("interrupted")
    assert evaluate(problem, solution.assignment).feasible
    assert solution.bound <= solution.objective


def test_nothing_reaches_standard_output() -> None:
    code = (
        "from tests.solve.test_programme import diamond; from partitioner.solve import solve;"
        "solve(diamond())"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == ""


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
