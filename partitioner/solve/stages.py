"""The best stages of a pipeline of micro-batches: a dynamic programme over a line of units.

With units in execution order and stages in sequence, `best[s][b]` is the least largest load that
the first `s` stages can have with everything before place `b`:

    best[s][b] = min over a < b of  max(best[s-1][a],  load of [a, b) on the rank of stage s,
                                        what crosses b on the link to the next rank)

where stage `s` has room for what `[a, b)` holds: its parameters once, what the backward needs as
often as the schedule has micro-batches in flight there. The largest load rules a long step; around
that split, the cuts are moved as long as the timetable of the schedule itself gets shorter. Where
there are few divisions, the timetables of all of them are compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise, permutations
from math import comb, inf

import numpy as np
from numpy.typing import NDArray

from partitioner.schedule import (
    Orders,
    StageSeconds,
    Timetable,
    backward_parts,
    in_flight_by_stage,
    orders,
    receives_ahead,
    simulate,
)
from partitioner.solve.state import Matrix

Floats = NDArray[np.float64]

MOST_PERMUTED = 4
"""Devices of which all sequences are tried; of more, the one of the cluster."""
MOST_SHIFTS = 64
"""Units by which a cut is moved at once, at most, when the timetable is improved."""
MOST_TRIED = 1_000
"""Divisions among the same devices of which all are tried."""
MOST_SIMULATED = 1_000_000
"""Actions that are simulated to improve cuts."""


@dataclass(frozen=True, slots=True)
class StageHold:
    """`nbytes` of a stage that has any of `units`.

    Attributes:
        kind: `"static"` is there once, `"kept"` for each micro-batch in flight, `"passing"` while
            one of the units runs.
    """

    units: tuple[int, ...]
    nbytes: int
    kind: str


@dataclass(frozen=True)
class StageProblem:
    """Divide a line of units into one interval for each stage.

    Attributes:
        units: names, for messages; each after those that it reads.
        forward_seconds: `[unit][device]` for one micro-batch; `inf` where it cannot run.
        backward_seconds: likewise, all of the backward.
        weight_seconds: the part of the backward that computes gradients of parameters.
        wire_nbytes: by place `0..len(units)`, what crosses from the units before it to the others.
        gradient_nbytes: what comes back there in the backward.
        holds: what takes memory.
        capacity_nbytes: by device; `None` is without limit.
        allowed: by unit, device indices.
        separated: pairs of groups of units; no stage holds units of both.
        latency_seconds: `[source device][destination device]`; `inf` between devices that cannot
            be neighbours.
        seconds_per_byte: likewise.
        schedule: of `partitioner.schedule`.
        micro_batches: in a step.
        stages_per_rank: how many stages each device has.
        training: a step has a backward.
        splits_until: by first unit, the last place up to which a stage can compute the gradients
            of its parameters apart; none where the schedule does not.
    """

    units: tuple[str, ...]
    forward_seconds: Matrix
    backward_seconds: Matrix
    weight_seconds: Matrix
    wire_nbytes: tuple[int, ...]
    gradient_nbytes: tuple[int, ...]
    holds: tuple[StageHold, ...]
    capacity_nbytes: tuple[int | None, ...]
    allowed: tuple[tuple[int, ...], ...]
    separated: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    latency_seconds: Matrix
    seconds_per_byte: Matrix
    schedule: str
    micro_batches: int
    stages_per_rank: int = 1
    training: bool = True
    splits_until: tuple[int, ...] = ()

    def transfer_seconds(self, source: int, destination: int, nbytes: int) -> float:
        """Seconds that `nbytes` take from one device to another."""
        if source == destination or not nbytes:
            return 0.0
        return (
            self.latency_seconds[source][destination]
            + nbytes * self.seconds_per_byte[source][destination]
        )


@dataclass(frozen=True, slots=True)
class StageSolution:
    """A division and the proof of its worth.

    Attributes:
        cuts: places `0 = c0 < c1 < ... = len(units)`; stage `s` has the units `cs .. c(s+1) - 1`.
        devices: by rank, the index of its device; devices that are absent stay idle.
        seconds: of a step, by the timetable.
        bound: no division at all, under this schedule, can have a shorter step.
        timetable: of the step.
    """

    cuts: tuple[int, ...]
    devices: tuple[int, ...]
    seconds: float
    bound: float
    timetable: Timetable


@dataclass(frozen=True, slots=True)
class Shortfall:
    """Nothing fits.

    Attributes:
        nbytes: by device, what the division with the least excess lacks.
        cuts: of that division; empty where no division keeps the other demands.
        devices: of that division.
    """

    nbytes: tuple[int, ...]
    cuts: tuple[int, ...] = ()
    devices: tuple[int, ...] = ()


def solve_stages(problem: StageProblem) -> StageSolution | Shortfall:
    """The division with the shortest step that was found, over all numbers of devices in use.

    Of equal ones, that on the fewest devices. There must be at least `stages_per_rank` units.
    """
    search = _Search(problem)
    found: StageSolution | None = None
    for sequence in _sequences(problem):
        if found is not None and lower_bound(problem, sequence) > found.seconds * (1 + 1e-12):
            continue
        cuts = search.divide(sequence)
        if cuts is None:
            continue
        cuts, table = search.improve(cuts, sequence)
        fewer = found is not None and len(sequence) < len(found.devices)
        margin = 1e-12 if fewer else -1e-12
        if found is None or table.seconds < found.seconds * (1 + margin):
            found = StageSolution(tuple(cuts), sequence, table.seconds, 0.0, table)
    if found is None:
        return search.shortfall()
    bound = min(found.seconds, lower_bound(problem))
    return StageSolution(found.cuts, found.devices, found.seconds, bound, found.timetable)


def stage_seconds(
    problem: StageProblem, cuts: Sequence[int], devices: Sequence[int]
) -> list[StageSeconds]:
    """What one micro-batch costs on each stage of a division."""
    count = len(cuts) - 1
    found = []
    for stage in range(count):
        units = range(cuts[stage], cuts[stage + 1])
        here = devices[stage % len(devices)]
        backward = sum(problem.backward_seconds[unit][here] for unit in units)
        weight = sum(problem.weight_seconds[unit][here] for unit in units)
        splits = not problem.splits_until or units.stop <= problem.splits_until[units.start]
        first_part, second_part = backward_parts(stage, backward, weight, splits)
        send = send_back = 0.0
        if stage + 1 < count:
            after = devices[(stage + 1) % len(devices)]
            send = problem.transfer_seconds(here, after, problem.wire_nbytes[cuts[stage + 1]])
        if stage:
            before = devices[(stage - 1) % len(devices)]
            send_back = problem.transfer_seconds(here, before, problem.gradient_nbytes[cuts[stage]])
        found.append(
            StageSeconds(
                forward=sum(problem.forward_seconds[unit][here] for unit in units),
                backward_input=first_part,
                backward_weight=second_part,
                send=send,
                send_back=send_back,
            )
        )
    return found


def lower_bound(problem: StageProblem, among: Sequence[int] | None = None) -> float:
    """Seconds that no division can beat, on all devices or `among` some.

    With `m` micro-batches a rank works for `m` times its load `l`. In `gpipe` and `1f1b` stage `k`
    starts when those before it are through with the first forward, and they have a backward left
    when it is done:

        step >= m l_k + sum of l_i over i < k

    for every stage, and so the work of `p` stages is at most `step (1 - (1 - 1/m)^p)`.
    """
    m = problem.micro_batches
    work = largest = 0.0
    every = range(len(problem.capacity_nbytes)) if among is None else among
    speed = [0.0] * len(every)
    for unit, devices in enumerate(problem.allowed):
        both = [
            problem.forward_seconds[unit][d] + problem.backward_seconds[unit][d]
            if d in devices
            else inf
            for d in every
        ]
        least = min(both)
        work += least
        largest = max(largest, least)
        speed = [
            max(old, least / new if new else 1.0) for old, new in zip(speed, both, strict=True)
        ]
    most = max(largest, work / sum(speed))
    bounds = [m * most, work]
    if problem.stages_per_rank == 1:
        if not problem.training:
            bounds.append(work + (m - 1) * most)
        elif problem.schedule in ("gpipe", "1f1b"):
            bounds.append(work / (1 - (1 - 1 / m) ** len(speed)))
    return max(bounds)


def _sequences(problem: StageProblem) -> Iterator[tuple[int, ...]]:
    """Which devices are the ranks, in which order: all of them first, then fewer."""
    count = len(problem.capacity_nbytes)
    places = len(problem.units)
    for ranks in range(count, 0, -1):
        if ranks * problem.stages_per_rank > places or not _takes(problem, ranks):
            continue
        if count > MOST_PERMUTED:
            yield from _first_line(problem, ranks)
            continue
        seen: set[object] = set()
        for sequence in permutations(range(count), ranks):
            key = tuple(_likeness(problem, device, sequence) for device in sequence)
            if key not in seen:
                seen.add(key)
                yield sequence


def _first_line(problem: StageProblem, ranks: int) -> Iterator[tuple[int, ...]]:
    """The first sequence of so many devices in which all neighbours can be; none where none is."""
    count = len(problem.capacity_nbytes)
    line: list[int] = []
    following = 0
    while len(line) < ranks:
        fitting = (
            device
            for device in range(following, count)
            if device not in line
            and (not line or problem.latency_seconds[line[-1]][device] < inf)
        )
        device = next(fitting, None)
        if device is not None:
            line.append(device)
            following = 0
        elif line:
            following = line.pop() + 1
        else:
            return
    yield tuple(line)


def _takes(problem: StageProblem, ranks: int) -> bool:
    m = problem.micro_batches
    if problem.schedule == "1f1b":
        return m >= ranks
    return problem.schedule == "gpipe" or m % max(1, m // ranks) == 0


def _likeness(problem: StageProblem, device: int, sequence: Sequence[int]) -> object:
    """What tells a device from the others in a sequence."""
    return (
        tuple(row[device] for row in problem.forward_seconds),
        tuple(row[device] for row in problem.backward_seconds),
        problem.capacity_nbytes[device],
        tuple(device in allowed for allowed in problem.allowed),
        tuple(
            (problem.latency_seconds[device][other], problem.seconds_per_byte[device][other])
            for other in sequence
        ),
    )


class _Search:
    """Tables over all intervals `[a, b)`, shared by all device sequences."""

    def __init__(self, problem: StageProblem) -> None:
        self.problem = problem
        size = len(problem.units)
        both = np.array(problem.forward_seconds) + np.array(problem.backward_seconds)
        for unit, devices in enumerate(problem.allowed):
            for device in range(both.shape[1]):
                if device not in devices:
                    both[unit, device] = inf
        self.barred = np.zeros((size + 1, both.shape[1]))
        self.barred[1:] = np.cumsum(~np.isfinite(both), axis=0)
        self.work = np.zeros((size + 1, both.shape[1]))
        self.work[1:] = np.cumsum(np.where(np.isfinite(both), both, 0.0), axis=0)
        self.static = self._held("static")
        self.kept = self._held("kept")
        self.passing = self._passing()
        self.reach = self._reach()
        self.simulated = 0
        self._orders: dict[int, Orders] = {}
        self._flying: dict[int, list[int]] = {}

    def _held(self, kind: str) -> Floats:
        """`[a, b)`: bytes of the holds of a kind that have a unit there."""
        size = len(self.problem.units)
        table = np.zeros((size + 2, size + 2))
        for hold in self.problem.holds:
            if hold.kind != kind:
                continue
            before = -1
            for unit in sorted(set(hold.units)):
                table[before + 1, unit + 1] += hold.nbytes
                table[unit + 1, unit + 1] -= hold.nbytes
                before = unit
        total: Floats = table.cumsum(axis=0).cumsum(axis=1)
        return total[: size + 1, : size + 1]

    def _passing(self) -> Floats:
        size = len(self.problem.units)
        single = np.zeros(size)
        for hold in self.problem.holds:
            if hold.kind == "passing":
                for unit in set(hold.units):
                    single[unit] += hold.nbytes
        table = np.zeros((size + 1, size + 1))
        for first in range(size):
            table[first, first + 1 :] = np.maximum.accumulate(single[first:])
        return table

    def _reach(self) -> NDArray[np.int64]:
        """By first unit, the last place at which a stage may end before it joins the separated."""
        size = len(self.problem.units)
        reach = np.full(size + 1, size, dtype=np.int64)
        for one, other in self.problem.separated:
            for first in range(size):
                ends = [min((u for u in side if u >= first), default=size) for side in (one, other)]
                reach[first] = min(reach[first], max(ends))
        return reach

    def needed(self, first: int, last: int, stage: int, flying: int, stages: int) -> float:
        """Bytes of `[first, last)` as one stage."""
        return float(self._memory(first, stage, flying, stages)[last])

    def _memory(self, first: int, stage: int, flying: int, stages: int) -> Floats:
        """Bytes of `[first, b)` as one stage, for all `b`.

        Each micro-batch has buffers for what comes in and for the gradients of what goes out.
        """
        problem, m = self.problem, self.problem.micro_batches
        total = self.static[first] + flying * self.kept[first] + self.passing[first]
        if stage:
            total = total + (m + problem.training) * problem.wire_nbytes[first]
        if stage + 1 < stages and problem.training:
            total = total + m * np.array(problem.gradient_nbytes)
        found: Floats = total
        return found

    def flying(self, ranks: int) -> list[int]:
        """By stage, the micro-batches in flight."""
        if ranks not in self._flying:
            self._flying[ranks] = in_flight_by_stage(self.orders(ranks))
        return self._flying[ranks]

    def orders(self, ranks: int) -> Orders:
        """By rank, its actions."""
        if ranks not in self._orders:
            problem = self.problem
            self._orders[ranks] = orders(
                problem.schedule,
                ranks,
                problem.micro_batches,
                stages_per_rank=problem.stages_per_rank,
                training=problem.training,
            )
        return self._orders[ranks]

    def divide(self, sequence: Sequence[int], excess: bool = False) -> list[int] | None:
        """The cuts with the least largest load (with `excess`, the least largest lack of memory).

        A device with several stages has a share of its memory for each.
        """
        problem = self.problem
        size, ranks = len(problem.units), len(sequence)
        stages = ranks * problem.stages_per_rank
        flying = self.flying(ranks)
        best = np.full((stages + 1, size + 1), inf)
        origin = np.zeros((stages + 1, size + 1), dtype=np.int64)
        best[0, 0] = 0.0
        wire = np.array(problem.wire_nbytes, dtype=float)
        back = np.array(problem.gradient_nbytes, dtype=float)
        for stage in range(stages):
            device = sequence[stage % ranks]
            after = sequence[(stage + 1) % ranks]
            crossing = np.zeros(size + 1)
            if stage + 1 < stages and device != after:
                crossing = np.maximum(
                    problem.latency_seconds[device][after]
                    + wire * problem.seconds_per_byte[device][after],
                    problem.latency_seconds[after][device]
                    + back * problem.seconds_per_byte[after][device],
                )
            capacity = problem.capacity_nbytes[device]
            share = inf if capacity is None else capacity / problem.stages_per_rank
            last = stage + 1 == stages
            for first in range(size):
                if best[stage, first] == inf:
                    continue
                load = self.work[:, device] - self.work[first, device]
                barred = self.barred[:, device] > self.barred[first, device]
                memory = self._memory(first, stage, flying[stage], stages)
                if excess:
                    cost = np.maximum(memory - share, 0.0) if share < inf else np.zeros(size + 1)
                    cost = np.where(crossing == inf, inf, cost)
                else:
                    cost = np.where(memory > share, inf, np.maximum(load, crossing))
                cost = np.where(barred, inf, cost)
                cost[: first + 1] = inf
                cost[self.reach[first] + 1 :] = inf
                if last:
                    cost[:size] = inf
                value = np.maximum(best[stage, first], cost)
                better = value < best[stage + 1]
                best[stage + 1][better] = value[better]
                origin[stage + 1][better] = first
        if best[stages, size] == inf:
            return None
        cuts = [size]
        for stage in range(stages, 0, -1):
            cuts.append(int(origin[stage, cuts[-1]]))
        return cuts[::-1]

    def improve(self, cuts: Sequence[int], sequence: Sequence[int]) -> tuple[list[int], Timetable]:
        """Move cuts, one at a time, as long as the step gets shorter and everything fits."""
        current = list(cuts)
        table = self._timetable(current, sequence)
        step = 1
        while step <= MOST_SHIFTS and self.simulated < MOST_SIMULATED:
            moved = False
            for place in range(1, len(current) - 1):
                for shift in (-step, step):
                    tried = [*current]
                    tried[place] += shift
                    if not tried[place - 1] < tried[place] < tried[place + 1]:
                        continue
                    if not self._fits(tried, sequence):
                        continue
                    other = self._timetable(tried, sequence)
                    if other.seconds < table.seconds * (1 - 1e-9):
                        current, table, moved = tried, other, True
            step = 1 if moved else 2 * step
        return self._best_of_all(current, table, sequence)

    def _best_of_all(
        self, cuts: list[int], table: Timetable, sequence: Sequence[int]
    ) -> tuple[list[int], Timetable]:
        """The best division among the same devices, where there are few; else the given one."""
        size, stages = len(self.problem.units), len(cuts) - 1
        if comb(size - 1, stages - 1) > MOST_TRIED:
            return cuts, table
        for inner in combinations(range(1, size), stages - 1):
            tried = [0, *inner, size]
            if self._busiest(tried, sequence) < table.seconds and self._fits(tried, sequence):
                other = self._timetable(tried, sequence)
                if other.seconds < table.seconds * (1 - 1e-9):
                    cuts, table = tried, other
        return cuts, table

    def _busiest(self, cuts: Sequence[int], sequence: Sequence[int]) -> float:
        """The time in which the busiest rank computes in a step."""
        loads = [0.0] * len(sequence)
        for stage, (first, last) in enumerate(pairwise(cuts)):
            rank = stage % len(sequence)
            device = sequence[rank]
            loads[rank] += float(self.work[last, device] - self.work[first, device])
        return self.problem.micro_batches * max(loads)

    def _timetable(self, cuts: Sequence[int], sequence: Sequence[int]) -> Timetable:
        plan = self.orders(len(sequence))
        self.simulated += sum(map(len, plan))
        return simulate(
            plan,
            stage_seconds(self.problem, cuts, sequence),
            ahead=receives_ahead(self.problem.schedule),
        )

    def _fits(self, cuts: Sequence[int], sequence: Sequence[int]) -> bool:
        ranks, stages = len(sequence), len(cuts) - 1
        flying = self.flying(ranks)
        for stage, (first, last) in enumerate(pairwise(cuts)):
            device = sequence[stage % ranks]
            capacity = self.problem.capacity_nbytes[device]
            if self.barred[last, device] > self.barred[first, device] or last > self.reach[first]:
                return False
            if capacity is not None and (
                self.needed(first, last, stage, flying[stage], stages)
                > capacity / self.problem.stages_per_rank
            ):
                return False
        return True

    def shortfall(self) -> Shortfall:
        """What the use of as many devices as can be lacks on each."""
        problem = self.problem
        lacks = [0] * len(problem.capacity_nbytes)
        divisions = ((line, self.divide(line, excess=True)) for line in _sequences(problem))
        sequence, cuts = next(((line, cuts) for line, cuts in divisions if cuts), ((), None))
        if cuts is None:
            return Shortfall(tuple(lacks))
        flying, stages = self.flying(len(sequence)), len(cuts) - 1
        held = [0.0] * len(lacks)
        for stage, (first, last) in enumerate(pairwise(cuts)):
            device = sequence[stage % len(sequence)]
            held[device] += self.needed(first, last, stage, flying[stage], stages)
        for device, capacity in enumerate(problem.capacity_nbytes):
            if capacity is not None:
                lacks[device] = max(0, int(np.ceil(held[device] - capacity)))
        return Shortfall(tuple(lacks), tuple(cuts), sequence)
