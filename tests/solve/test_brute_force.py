"""The solver against all assignments of small random problems."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partitioner.errors import InfeasibleError
from partitioner.solve import Hop, Problem, Status, evaluate, solve
from partitioner.solve.bounds import lower_bound
from partitioner.solve.contract import contract
from partitioner.solve.evaluate import count
from partitioner.solve.state import State, Tables
from tests.strategies import OBJECTIVES, brute_force, problems

few = settings(max_examples=20, deadline=None)


@pytest.mark.parametrize("roads", [False, True])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_solver_finds_the_best_of_all_assignments(objective: str, roads: bool) -> None:
    @few
    @given(problems(objective=objective, roads=roads))
    def check(problem: Problem) -> None:
        best = brute_force(problem)
        if best is None:
            with pytest.raises(InfeasibleError):
                solve(problem)
            return
        solution = solve(problem)
        recount = evaluate(problem, solution.assignment)
        assert recount.feasible
        assert recount.objective == solution.objective
        assert solution.objective == pytest.approx(best[1].objective, rel=1e-7, abs=0)
        assert solution.bound <= best[1].objective * (1 + 1e-9)
        assert solution.status is Status.OPTIMAL
        assert (recount.moved_nbytes, recount.moves) == (best[1].moved_nbytes, best[1].moves)

    check()


@few
@given(problems())
def test_lower_bound_holds_for_every_assignment(problem: Problem) -> None:
    best = brute_force(problem)
    smaller, _ = contract(problem)
    tables = Tables(smaller)
    if best is not None:
        assert lower_bound(tables) <= best[1].objective * (1 + 1e-9)


@few
@given(problems(), st.data())
def test_moves_keep_count_of_what_a_recount_finds(problem: Problem, data: st.DataObject) -> None:
    tables = Tables(problem)
    if not all(tables.choices):
        return
    state = State(tables, [tables.choices[group][0] for group in tables.group_of])
    for _ in range(data.draw(st.integers(0, 6))):
        group = data.draw(st.sampled_from(range(len(tables.groups))))
        state.move(group, data.draw(st.sampled_from(tables.choices[group])))
    recount = count(problem, state.placed)
    assert state.objective() == pytest.approx(recount.objective, rel=1e-9, abs=1e-15)
    assert (state.moved, state.moves) == (recount.moved_nbytes, recount.moves)
    assert (state.badness() == (0, 0)) == recount.feasible


@few
@given(problems(), st.data())
def test_contraction_changes_no_value(problem: Problem, data: st.DataObject) -> None:
    smaller, contraction = contract(problem)
    device = st.sampled_from(range(len(problem.devices)))
    placed = [data.draw(device) for _ in smaller.nodes]
    there, here = count(problem, contraction.expand(placed)), count(smaller, placed)
    assert here.objective == pytest.approx(there.objective, rel=1e-9, abs=1e-15)
    assert here.peak_nbytes == there.peak_nbytes
    assert (here.moved_nbytes, here.moves) == (there.moved_nbytes, there.moves) or (
        here.moved_nbytes == there.moved_nbytes and len(smaller.flows) < len(problem.flows)
    )


@few
@given(problems(most_nodes=5))
def test_more_memory_never_hurts(problem: Problem) -> None:
    roomier = replace(
        problem,
        capacity_nbytes=tuple(None if c is None else c + 5 for c in problem.capacity_nbytes),
    )
    try:
        tight = solve(problem)
    except InfeasibleError:
        return
    assert solve(roomier).objective <= tight.objective * (1 + 1e-9)


@few
@given(problems(most_nodes=5), st.sampled_from([1e-6, 3.0, 1e4]))
def test_scaling_all_costs_scales_the_optimum(problem: Problem, factor: float) -> None:
    if problem.objective == "memory":
        return

    def scaled(table: tuple[tuple[float, ...], ...]) -> tuple[tuple[float, ...], ...]:
        return tuple(tuple(factor * value for value in row) for row in table)

    def slower(hop: Hop) -> Hop:
        return replace(
            hop,
            latency_seconds=factor * hop.latency_seconds,
            seconds_per_byte=factor * hop.seconds_per_byte,
        )

    larger = replace(
        problem,
        roads=tuple(tuple(tuple(map(slower, hops)) for hops in row) for row in problem.roads),
        forward_seconds=scaled(problem.forward_seconds),
        backward_seconds=scaled(problem.backward_seconds),
        latency_seconds=scaled(problem.latency_seconds),
        seconds_per_byte=scaled(problem.seconds_per_byte),
        flows=tuple(
            replace(flow, endpoint_seconds=factor * flow.endpoint_seconds) for flow in problem.flows
        ),
    )
    try:
        before = solve(problem)
    except InfeasibleError:
        return
    assert solve(larger).objective == pytest.approx(factor * before.objective, rel=1e-6, abs=0)


@few
@given(problems(most_nodes=5))
def test_renaming_changes_nothing(problem: Problem) -> None:
    renamed = replace(problem, nodes=tuple(f"x[{name}] = 1;" for name in problem.nodes))
    try:
        before = solve(problem)
    except InfeasibleError:
        return
    after = solve(renamed)
    assert list(after.assignment.values()) == list(before.assignment.values())
    assert (after.objective, after.bound) == (before.objective, before.bound)


@few
@given(problems())
def test_equal_devices_swap_names_without_any_change(problem: Problem) -> None:
    tables = Tables(problem)
    for devices in tables.interchangeable:
        for placed in product(range(len(problem.devices)), repeat=min(2, len(problem.nodes))):
            whole = [*placed, *[0] * (len(problem.nodes) - len(placed))]
            values = set()
            for names in permutations(devices):
                rename = dict(zip(devices, names, strict=True))
                recount = count(problem, [rename.get(device, device) for device in whole])
                values.add((round(recount.objective, 12), recount.feasible, recount.moved_nbytes))
            assert len(values) == 1
