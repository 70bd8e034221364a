"""Whom processes that wait too long wait for."""

from partitioner.distributed.pulse import Pulse, find_culprit


def pulse(seconds: float, *, waits: bool, what: str = "in the forward of stage 0") -> Pulse:
    return Pulse(7, what, "model.py:3: x = f(x)", seconds, waits)


def test_a_silent_process_is_named_first():
    pulses = {0: pulse(9, waits=True), 1: pulse(9, waits=False), 2: pulse(0, waits=False)}
    rank, cause = find_culprit(pulses, {2}, 5)
    assert rank == 2
    assert "does not answer" in cause


def test_the_one_that_stands_still_longest_and_does_not_wait_is_named_with_its_line():
    pulses = {0: pulse(9, waits=True), 1: pulse(6, waits=False), 2: pulse(8, waits=False)}
    expected = 2, "hangs for 8 s in the forward of stage 0, at model.py:3: x = f(x)"
    assert find_culprit(pulses, set(), 5) == expected


def test_nobody_is_named_while_one_moves():
    pulses = {0: pulse(9, waits=True), 1: pulse(1, waits=False), 2: pulse(9, waits=True)}
    assert find_culprit(pulses, set(), 5) is None
    pulses[1] = pulse(1, waits=True)
    assert find_culprit(pulses, set(), 5) is None


def test_where_each_waits_for_another_all_are_told():
    pulses = {0: pulse(9, waits=True, what="saving"), 1: pulse(8, waits=True, what="in the step")}
    rank, cause = find_culprit(pulses, set(), 5)
    assert rank == 0
    assert "rank 0 saving" in cause
    assert "rank 1 in the step" in cause
