"""Tidying: an assignment as good as the given one that moves no more, and no limit broken."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from partitioner.solve import Flow, Problem
from partitioner.solve.contract import contract
from partitioner.solve.effort import Effort
from partitioner.solve.evaluate import count, switches
from partitioner.solve.state import State, Tables
from partitioner.solve.tidy import tidy
from tests.strategies import problems

PLENTY = 1e9


def tidied(tables: Tables, placed: list[int]) -> list[int]:
    state = State(tables, placed)
    tidy(state, Effort(PLENTY))
    return state.placed


def traffic(problem: Problem, placed: list[int]) -> tuple[int, int, int]:
    recount = count(problem, placed)
    return recount.moved_nbytes, recount.moves, switches(placed)


@given(problems(most_nodes=7), st.data())
def test_it_is_never_worse_and_ends_where_nothing_is_left_to_do(
    problem: Problem, data: Any
) -> None:
    tables = Tables(contract(problem)[0])
    if not all(tables.choices):
        return
    of_group = [data.draw(st.sampled_from(choices)) for choices in tables.choices]
    start = [of_group[group] for group in tables.group_of]
    end = tidied(tables, start)
    for group, choices in zip(tables.groups, tables.choices, strict=True):
        assert len({end[node] for node in group}) == 1
        assert end[group[0]] in choices
    before, after = count(tables.problem, start), count(tables.problem, end)
    if before.feasible:
        assert after.feasible
        assert after.objective <= before.objective * (1 + 1e-9)
        if after.objective >= before.objective * (1 - 1e-9):
            assert traffic(tables.problem, end) <= traffic(tables.problem, start)
    assert tidied(tables, end) == end


def chain(*devices: int, nbytes: tuple[int, ...], seconds: tuple[float, ...]) -> list[int]:
    """Where the nodes of a chain are in the end, on two devices without limits."""
    size = len(devices)
    problem = Problem(
        objective="latency",
        nodes=tuple(f"n{node}" for node in range(size)),
        devices=("d0", "d1"),
        forward_seconds=tuple((each, each) for each in seconds),
        backward_seconds=((0.0, 0.0),) * size,
        flows=tuple(Flow(node, (node + 1,), nbytes[node]) for node in range(size - 1)),
        latency_seconds=((0.0, 0.0),) * 2,
        seconds_per_byte=((0.0, 0.0),) * 2,
        holds=(),
        points=1,
        capacity_nbytes=(None, None),
        allowed=tuple(
            (device,) if seconds[node] else (0, 1) for node, device in enumerate(devices)
        ),
    )
    return tidied(Tables(problem), list(devices))


def test_views_that_are_away_from_all_around_them_come_back_together() -> None:
    assert chain(0, 1, 1, 1, 0, nbytes=(8,) * 4, seconds=(1.0, 0, 0, 0, 1.0)) == [0] * 5


def test_a_transfer_is_where_the_fewest_bytes_cross() -> None:
    seconds = (1.0, 0, 0, 0, 1.0)
    assert chain(0, 1, 1, 1, 1, nbytes=(8, 8, 2, 8), seconds=seconds) == [0, 0, 0, 1, 1]
    assert chain(1, 1, 1, 1, 0, nbytes=(8, 2, 8, 8), seconds=seconds) == [1, 1, 0, 0, 0]


def test_what_reads_and_is_read_by_nobody_stays_with_the_nodes_around_it() -> None:
    assert chain(1, 0, 1, nbytes=(0, 0), seconds=(1.0, 0, 1.0)) == [1] * 3
