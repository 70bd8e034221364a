"""Stages of pipelines against all divisions of small random lines, timed by simulation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations, pairwise, permutations
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partitioner.schedule import StageSeconds, in_flight, orders, simulate
from partitioner.solve import Shortfall, StageHold, StageProblem, StageSolution, solve_stages

few = settings(max_examples=60, deadline=None)
SCHEDULES = [("gpipe", 1), ("1f1b", 1), ("interleaved", 2), ("zero-bubble", 1), ("zero-bubble", 2)]


@st.composite
def stage_problems(draw: st.DrawFn) -> StageProblem:
    """Lines of up to six units on up to three devices, some unlike, small or forbidden."""
    schedule, chunks = draw(st.sampled_from(SCHEDULES))
    size, count = draw(st.integers(chunks, 6)), draw(st.integers(1, 3))
    training = draw(st.booleans())
    seconds = st.integers(0, 9).map(float)
    speeds = [draw(st.sampled_from([1.0, 1.0, 0.5])) for _ in range(count)]

    def table(of: list[float]) -> tuple[tuple[float, ...], ...]:
        return tuple(tuple(value / speed for speed in speeds) for value in of)

    forward = [draw(seconds) for _ in range(size)]
    backward = [draw(seconds) * training for _ in range(size)]
    weight = [value * draw(st.sampled_from([0.0, 0.5])) for value in backward]
    inside = st.integers(0, 5)
    wires = (0, *(draw(inside) for _ in range(size - 1)), 0)
    holds = draw(
        st.lists(
            st.builds(
                StageHold,
                st.sets(st.integers(0, size - 1), min_size=1, max_size=3).map(
                    lambda units: tuple(sorted(units))
                ),
                st.integers(1, 9),
                st.sampled_from(["static", "kept", "passing"]),
            ),
            max_size=5,
        )
    )
    every = tuple(range(count))
    allowed = tuple(draw(st.sampled_from([every, every, every, (every[-1],)])) for _ in range(size))
    separated = ()
    if size > 1 and draw(st.integers(0, 3)) == 0:
        separated = (((0,), (draw(st.integers(1, size - 1)),)),)
    links = [[0.0 if a == b else draw(seconds) / 4 for b in every] for a in every]
    latency = [list(row) for row in links]
    if count > 1 and draw(st.integers(0, 3)) == 0:
        latency[0][1] = latency[1][0] = inf
    return StageProblem(
        units=tuple(f"unit{i}" for i in range(size)),
        forward_seconds=table(forward),
        backward_seconds=table(backward),
        weight_seconds=table(weight),
        wire_nbytes=wires,
        gradient_nbytes=tuple(nbytes * training for nbytes in wires),
        holds=tuple(holds),
        capacity_nbytes=tuple(draw(st.sampled_from([None, None, 20, 60])) for _ in every),
        allowed=allowed,
        separated=separated,
        latency_seconds=tuple(map(tuple, latency)),
        seconds_per_byte=tuple(tuple(value / 4 for value in row) for row in links),
        schedule=schedule,
        micro_batches=draw(st.sampled_from([2, 3, 4, 6])),
        stages_per_rank=chunks,
        training=training,
        splits_until=tuple(draw(st.integers(i + 1, size)) for i in range(size))
        if schedule == "zero-bubble"
        else (),
    )


def divisions(problem: StageProblem) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """All cuts and all sequences of devices that the schedule takes."""
    size, m = len(problem.units), problem.micro_batches
    for ranks in range(1, len(problem.capacity_nbytes) + 1):
        if problem.schedule == "1f1b" and m < ranks:
            continue
        if problem.schedule in ("interleaved", "zero-bubble") and m % max(1, m // ranks):
            continue
        for sequence in permutations(range(len(problem.capacity_nbytes)), ranks):
            for inner in combinations(range(1, size), ranks * problem.stages_per_rank - 1):
                yield (0, *inner, size), sequence


def plan_of(problem: StageProblem, ranks: int) -> tuple:
    return orders(
        problem.schedule,
        ranks,
        problem.micro_batches,
        stages_per_rank=problem.stages_per_rank,
        training=problem.training,
    )


def fits(problem: StageProblem, cuts: tuple[int, ...], sequence: tuple[int, ...]) -> bool:
    """Every stage may be where it is, and has room in its share of the device."""
    flying: dict[int, int] = {}
    for order in plan_of(problem, len(sequence)):
        flying.update(in_flight(order))
    stages, m = len(cuts) - 1, problem.micro_batches
    for stage, (first, last) in enumerate(pairwise(cuts)):
        device = sequence[stage % len(sequence)]
        after = sequence[(stage + 1) % len(sequence)]
        if stage + 1 < stages and inf in (
            problem.latency_seconds[device][after],
            problem.latency_seconds[after][device],
        ):
            return False
        units = set(range(first, last))
        if any(device not in problem.allowed[unit] for unit in units):
            return False
        if any(units & set(one) and units & set(other) for one, other in problem.separated):
            return False
        held = 0
        for hold in problem.holds:
            if units & set(hold.units) and hold.kind != "passing":
                held += hold.nbytes * (flying[stage] if hold.kind == "kept" else 1)
        held += max(
            sum(h.nbytes for h in problem.holds if h.kind == "passing" and unit in h.units)
            for unit in units
        )
        if stage:
            held += (m + problem.training) * problem.wire_nbytes[first]
        if stage + 1 < stages and problem.training:
            held += m * problem.gradient_nbytes[last]
        capacity = problem.capacity_nbytes[device]
        if capacity is not None and held * problem.stages_per_rank > capacity:
            return False
    return True


def step_seconds(problem: StageProblem, cuts: tuple[int, ...], sequence: tuple[int, ...]) -> float:
    stages = len(cuts) - 1

    def road(source: int, target: int, nbytes: int) -> float:
        if source == target or not nbytes:
            return 0.0
        per_byte = problem.seconds_per_byte[source][target]
        return problem.latency_seconds[source][target] + nbytes * per_byte

    rows = []
    for stage, (first, last) in enumerate(pairwise(cuts)):
        here = sequence[stage % len(sequence)]
        after = sequence[(stage + 1) % len(sequence)]
        before = sequence[(stage - 1) % len(sequence)]
        units = range(first, last)
        backward = sum(problem.backward_seconds[unit][here] for unit in units)
        weight = sum(problem.weight_seconds[unit][here] for unit in units)
        if not stage:
            weight = backward
        elif problem.splits_until and last > problem.splits_until[first]:
            weight = 0.0
        rows.append(
            StageSeconds(
                sum(problem.forward_seconds[unit][here] for unit in units),
                backward - weight,
                weight,
                road(here, after, problem.wire_nbytes[last]) if stage + 1 < stages else 0.0,
                road(here, before, problem.gradient_nbytes[first]) if stage else 0.0,
            )
        )
    ahead = problem.schedule in ("interleaved", "zero-bubble")
    return simulate(plan_of(problem, len(sequence)), rows, ahead=ahead).seconds


def brute_force(problem: StageProblem) -> float:
    """The shortest step of all divisions that fit; `inf` if none does."""
    return min(
        (
            step_seconds(problem, *division)
            for division in divisions(problem)
            if fits(problem, *division)
        ),
        default=inf,
    )


@few
@given(stage_problems())
def test_the_division_is_the_best_of_all(problem: StageProblem) -> None:
    best = brute_force(problem)
    found = solve_stages(problem)
    if best == inf:
        assert isinstance(found, Shortfall)
        return
    assert isinstance(found, StageSolution)
    assert fits(problem, found.cuts, found.devices)
    assert found.seconds == pytest.approx(step_seconds(problem, found.cuts, found.devices))
    assert found.seconds == pytest.approx(best, rel=1e-9)
    assert found.bound <= best * (1 + 1e-9)


@few
@given(stage_problems(), st.sampled_from([1e-6, 3.0, 1e4]))
def test_scaling_all_times_scales_the_step(problem: StageProblem, factor: float) -> None:
    def scaled(table: tuple[tuple[float, ...], ...]) -> tuple[tuple[float, ...], ...]:
        return tuple(tuple(factor * value for value in row) for row in table)

    before = solve_stages(problem)
    after = solve_stages(
        replace(
            problem,
            forward_seconds=scaled(problem.forward_seconds),
            backward_seconds=scaled(problem.backward_seconds),
            weight_seconds=scaled(problem.weight_seconds),
            latency_seconds=scaled(problem.latency_seconds),
            seconds_per_byte=scaled(problem.seconds_per_byte),
        )
    )
    if isinstance(before, Shortfall):
        assert after == before
    else:
        assert isinstance(after, StageSolution)
        assert after.seconds == pytest.approx(factor * before.seconds)
        assert after.bound == pytest.approx(factor * before.bound)


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
def test_long_lines_stay_near_their_largest_load(schedule: str) -> None:
    """At most (m + p - 1) times the least largest load, which is at least the work over p."""
    size, ranks, m = 120, 4, 8
    seconds = tuple((float(1 + i * 7 % 5),) * ranks for i in range(size))
    none = ((0.0,) * ranks,) * ranks
    problem = StageProblem(
        units=tuple(map(str, range(size))),
        forward_seconds=seconds,
        backward_seconds=seconds,
        weight_seconds=seconds,
        wire_nbytes=(0,) * (size + 1),
        gradient_nbytes=(0,) * (size + 1),
        holds=(),
        capacity_nbytes=(None,) * ranks,
        allowed=(tuple(range(ranks)),) * size,
        separated=(),
        latency_seconds=none,
        seconds_per_byte=none,
        schedule=schedule,
        micro_batches=m,
    )
    found = solve_stages(problem)
    assert isinstance(found, StageSolution)
    work = 2 * sum(row[0] for row in seconds)
    assert len(found.devices) == ranks
    assert found.bound <= found.seconds <= (m + ranks - 1) * (work / ranks + 10)
    assert found.bound >= m * work / ranks
