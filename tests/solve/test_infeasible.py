"""What is said when nothing fits."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import assume, given, settings

from partitioner.errors import InfeasibleError
from partitioner.solve import Demand, Hold, Problem, least_lack, never_fits, solve
from partitioner.solve.evaluate import count
from partitioner.solve.formulate import with_demands
from tests.strategies import brute_force, problems


def chain(*nbytes: int, capacities: tuple[int | None, ...]) -> Problem:
    """Nodes in a row, each with memory of its own that it always holds."""
    nodes, devices = len(nbytes), len(capacities)
    free = ((0.0,) * devices,) * devices
    return Problem(
        objective="latency",
        nodes=tuple(f"n{node}" for node in range(nodes)),
        devices=tuple(f"cuda:{device}" for device in range(devices)),
        forward_seconds=((1.0,) * devices,) * nodes,
        backward_seconds=((0.0,) * devices,) * nodes,
        flows=(),
        latency_seconds=free,
        seconds_per_byte=free,
        holds=tuple(Hold((node,), size, 0, 0) for node, size in enumerate(nbytes)),
        points=1,
        capacity_nbytes=capacities,
        allowed=(tuple(range(devices)),) * nodes,
    )


def least_total(problem: Problem) -> int | None:
    """By brute force, the fewest bytes that are missing in all."""
    unlimited = replace(problem, capacity_nbytes=(None,) * len(problem.devices))
    totals = [
        sum(
            max(0, peak - capacity)
            for peak, capacity in zip(recount.peak_nbytes, problem.capacity_nbytes, strict=True)
            if capacity is not None
        )
        for placed in product(range(len(problem.devices)), repeat=len(problem.nodes))
        if (recount := count(unlimited, placed)).feasible
    ]
    return min(totals, default=None)


@settings(max_examples=40, deadline=None)
@given(problems(most_nodes=5))
def test_shortfall_is_the_smallest(problem: Problem) -> None:
    assume(brute_force(problem) is None)
    with pytest.raises(InfeasibleError) as caught:
        solve(problem)
    least = least_total(problem)
    if least is None:
        assert caught.value.shortfall == {}
        return
    assert caught.value.shortfall["total"] == least
    parts = {k: v for k, v in caught.value.shortfall.items() if k != "total"}
    assert sum(parts.values()) == least
    roomier = replace(
        problem,
        capacity_nbytes=tuple(
            None if capacity is None else capacity + parts.get(name, 0)
            for name, capacity in zip(problem.devices, problem.capacity_nbytes, strict=True)
        ),
    )
    assert brute_force(roomier) is not None


def test_message_tells_where_and_how_much() -> None:
    problem = chain(6, 6, 6, capacities=(8, 8))
    with pytest.raises(InfeasibleError) as caught:
        solve(problem)
    assert caught.value.shortfall == {"cuda:1": 4, "total": 4} or caught.value.shortfall == {
        "cuda:0": 4,
        "total": 4,
    }
    assert caught.value.conflicting == ()
    assert "18 B" in str(caught.value)
    assert "16 B" in str(caught.value)


def test_clash_is_named_and_nothing_that_has_no_part_in_it() -> None:
    problem = chain(6, 6, 1, capacities=(8, 8))
    wrong = Demand("Colocate('n0', 'n1')", colocated=((0, 1),))
    harmless = Demand("Pin('n2', 'cuda:1')", pinned=((2, 1),))
    with pytest.raises(InfeasibleError) as caught:
        solve(with_demands(problem, (harmless, wrong)))
    assert caught.value.conflicting == ("Colocate('n0', 'n1')",)
    assert caught.value.shortfall["total"] == 4


def test_clash_without_any_limit_has_no_shortfall() -> None:
    problem = chain(1, 1, 1, capacities=(None, None))
    apart = [
        Demand(f"Separate {a} {b}", separated=(((a,), (b,)),)) for a, b in ((0, 1), (1, 2), (0, 2))
    ]
    with pytest.raises(InfeasibleError) as caught:
        solve(with_demands(problem, apart))
    assert caught.value.shortfall == {}
    assert len(caught.value.conflicting) == 3


def test_dropping_demands_restores_the_problem() -> None:
    problem = chain(1, 2, capacities=(3, None))
    pinned = with_demands(problem, [Demand("pin", pinned=((0, 1),), colocated=((0, 1),))])
    assert pinned.allowed == ((1,), (0, 1))
    assert pinned.colocated == ((0, 1),)
    assert with_demands(pinned, ()) == problem


@settings(max_examples=30, deadline=None)
@given(problems(most_nodes=5))
def test_the_assignment_of_a_lack_lacks_that_much(problem: Problem) -> None:
    lack = least_lack(problem)
    if lack.placed is None:
        assert lack.nbytes is None
        return
    assert lack.nbytes is not None
    roomier = replace(
        problem,
        capacity_nbytes=tuple(
            None if capacity is None else capacity + missing
            for capacity, missing in zip(problem.capacity_nbytes, lack.nbytes, strict=True)
        ),
    )
    assert count(roomier, lack.placed).feasible
    if never_fits(problem):
        assert sum(lack.nbytes) > 0


def test_what_is_too_large_for_the_programme_is_still_told() -> None:
    problem = chain(*[6] * 3000, capacities=(6000, 6000, None))
    tight = replace(problem, capacity_nbytes=(6000, 6000, 5000))
    with pytest.raises(InfeasibleError, match=r"17\.6 KiB at its fullest point"):
        solve(tight)
    assert solve(problem).objective > 0
