"""Timetables against formulas that hold for equal stages, and against their own rules."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitioner.schedule import (
    SCHEDULES,
    Action,
    Kind,
    StageSeconds,
    backward_parts,
    orders,
    simulate,
)


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
@pytest.mark.parametrize(("ranks", "micro_batches"), [(1, 3), (2, 2), (4, 8), (3, 7)])
def test_equal_stages_take_the_known_time(schedule, ranks, micro_batches):
    """(m + p - 1)(f + b), and so a bubble of (p - 1) / (m + p - 1): GPipe, section 2.3."""
    table = simulate(orders(schedule, ranks, micro_batches), [StageSeconds(1.0, 1.0, 1.0)] * ranks)
    assert table.seconds == pytest.approx(3 * (micro_batches + ranks - 1))
    assert table.bubble == pytest.approx((ranks - 1) / (micro_batches + ranks - 1))


def test_interleaving_divides_the_bubble():
    """By the number of stages a rank: Narayanan et al. 2021, section 2.2."""
    ranks, micro_batches, chunks = 4, 8, 2
    table = simulate(
        orders("interleaved", ranks, micro_batches, stages_per_rank=chunks),
        [StageSeconds(1 / chunks, 1 / chunks, 1 / chunks)] * (ranks * chunks),
    )
    assert table.seconds == pytest.approx(3 * micro_batches + 3 * (ranks - 1) / chunks)


def test_zero_bubble_has_a_third_of_the_bubble():
    """(p - 1)(f + i - w) in place of (p - 1)(f + b): Qi et al. 2023, table 2."""
    ranks, micro_batches = 4, 12
    table = simulate(orders("zero-bubble", ranks, micro_batches), [StageSeconds(1, 1, 1)] * ranks)
    assert table.seconds == pytest.approx(3 * micro_batches + (ranks - 1))


def test_a_slow_link_is_used_by_one_transfer_at_a_time():
    table = simulate(
        orders("gpipe", 2, 3, training=False), [StageSeconds(1, send=5), StageSeconds(1)]
    )
    assert [(i.start, i.end) for i in table.transfers[0]] == [(1, 6), (6, 11), (11, 16)]
    assert table.seconds == 17


def test_a_rank_that_asks_late_is_sent_to_late():
    """It is through with a micro-batch before the next one sets out."""
    table = simulate(
        orders("gpipe", 2, 3, training=False),
        [StageSeconds(1, send=5), StageSeconds(1)],
        ahead=False,
    )
    assert [(i.start, i.end) for i in table.transfers[0]] == [(1, 6), (7, 12), (13, 18)]
    assert table.seconds == 19


def test_the_first_stage_computes_its_backward_last():
    assert backward_parts(0, 3.0, 1.0) == (0.0, 3.0)
    assert backward_parts(1, 3.0, 1.0) == (2.0, 1.0)
    assert backward_parts(1, 3.0, 1.0, splits=False) == (3.0, 0.0)


def test_orders_that_wait_for_each_other_are_found():
    backward, forward = Action(0, Kind.BACKWARD, 0), Action(0, Kind.FORWARD, 0)
    with pytest.raises(ValueError, match="0B0"):
        simulate(((backward, forward),), [StageSeconds(1, 1)])


times = st.floats(0.0, 10.0, allow_nan=False)


@given(
    st.sampled_from(SCHEDULES),
    st.integers(1, 4),
    st.integers(1, 3),
    st.lists(st.builds(StageSeconds, times, times, times, times, times), min_size=8, max_size=8),
)
def test_rules_hold(schedule, ranks, rounds, seconds):
    chunks = 1 if schedule in ("gpipe", "1f1b") else 2
    stages = seconds[: ranks * chunks]
    plan = orders(schedule, ranks, ranks * rounds, stages_per_rank=chunks)
    table = simulate(plan, stages)
    assert [tuple(i.action for i in row) for row in table.compute] == list(plan)
    end = {interval.action: interval.end for row in table.compute for interval in row}
    for row in table.compute:
        assert all(one.end <= other.start for one, other in itertools.pairwise(row))
    for row in table.compute:
        for interval in row:
            stage, micro_batch = interval.action.stage, interval.action.micro_batch
            if interval.action.kind == Kind.FORWARD and stage:
                source = Action(stage - 1, Kind.FORWARD, micro_batch)
                wire = stages[stage - 1].send if ranks > 1 else 0.0
                assert interval.start >= end[source] + wire - 1e-9
            elif interval.action.kind in (Kind.BACKWARD, Kind.BACKWARD_INPUT):
                assert interval.start >= end[Action(stage, Kind.FORWARD, micro_batch)]
    assert table.seconds >= max(table.busy_seconds)
    assert simulate(plan, stages, ahead=False).seconds >= table.seconds * (1 - 1e-9)
    assert -1e-9 <= table.bubble <= 1
