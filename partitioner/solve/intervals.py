"""The best split of a linear order into one interval a device: a dynamic programme.

With groups in a line and devices in a sequence, `best[k][b]` is the best that the first `k`
devices can do with everything before place `b`:

    best[k][b] = min over a <= b of  best[k-1][a]  (+ or max)  cost of [a, b) on the k-th device

What an interval costs comes from tables over all `[a, b)`, each filled by rectangles: a hold with
nodes at places `p1 < p2 < ...` is on the device of `[a, b)` when `p[j-1] < a <= p[j] < b` for some
`j`. Loads and memory are exact; for latency the sum of work and cuts is a close upper bound.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, permutations
from math import inf

import numpy as np
from numpy.typing import NDArray

from partitioner.solve.state import Tables

Floats = NDArray[np.float64]

MOST_PLACES = 240
"""Places at which the line may be cut."""
MOST_SEQUENCES = 24
"""Sequences of devices that are tried."""
MOST_POINTS = 400
"""Program points whose memory is counted exactly; the fullest ones when there are more."""


def splits(tables: Tables, line: Sequence[int] | None = None) -> Iterator[list[int]]:
    """Assignments that divide the line (of groups) into intervals, one for each device sequence.

    Feasible as to memory where that is possible within intervals, else with the least excess.
    """
    if line is None:
        line = range(len(tables.groups))
    places = _places(tables, line)
    costs = Costs(tables, places)
    for sequence in device_sequences(tables):
        cuts = costs.divide(sequence)
        by_place = [0] * costs.size
        for device, (first, last) in zip(sequence, cuts, strict=True):
            for place in range(first, last):
                by_place[place] = device
        yield [by_place[places[group]] for group in tables.group_of]


def lines(tables: Tables, seed: int, count: int) -> Iterator[list[int]]:
    """Topological orders of the groups, branch by branch, the branches in random turn."""
    pairs = tables.problem.ordered_pairs()
    after: list[list[int]] = [[] for _ in tables.groups]
    waiting = [0] * len(tables.groups)
    for first, second in pairs:
        one, other = tables.group_of[first], tables.group_of[second]
        if one != other:
            after[one].append(other)
            waiting[other] += 1
    for turn in range(count):
        generator = random.Random(seed * 1_000_003 + turn)
        left = list(waiting)
        ready = [group for group, number in enumerate(left) if not number]
        generator.shuffle(ready)
        line = []
        while ready:
            group = ready.pop()
            line.append(group)
            fresh = []
            for other in after[group]:
                left[other] -= 1
                if not left[other]:
                    fresh.append(other)
            generator.shuffle(fresh)
            if turn % 3 == 2:
                ready = fresh + ready
            else:
                ready += fresh
        if len(line) == len(tables.groups):
            yield line


def device_sequences(tables: Tables) -> list[tuple[int, ...]]:
    """Orders of the devices that differ in more than the names of equal ones."""
    count = len(tables.problem.devices)
    rank = {
        device: place for devices in tables.interchangeable for place, device in enumerate(devices)
    }
    first_of = {device: devices[0] for devices in tables.interchangeable for device in devices}
    if count <= 6:
        every: Iterable[tuple[int, ...]] = permutations(range(count))
    else:
        work = [sum(min(row[d], 1e300) for row in tables.seconds) for d in range(count)]
        by_speed = tuple(sorted(range(count), key=lambda device: (work[device], device)))
        given = tuple(range(count))
        every = (given, by_speed, given[::-1], by_speed[::-1])

    def in_turn(sequence: tuple[int, ...]) -> bool:
        seen: dict[int, int] = {}
        for device in sequence:
            if device in rank:
                turn = seen.get(first_of[device], 0)
                if rank[device] != turn:
                    return False
                seen[first_of[device]] = turn + 1
        return True

    found = list(islice(filter(in_turn, every), MOST_SEQUENCES))
    return found or [tuple(range(count))]


def _places(tables: Tables, line: Sequence[int]) -> list[int]:
    """By group, its place in the line; long lines are cut only where little crosses."""
    position = {group: place for place, group in enumerate(line)}
    if len(line) <= MOST_PLACES:
        return [position[group] for group in range(len(line))]
    crossing = [0.0] * (len(line) + 1)
    for flow in tables.problem.flows:
        ends = [position[tables.group_of[node]] for node in (flow.source, *flow.targets)]
        crossing[min(ends) + 1] += flow.nbytes + flow.gradient_nbytes + flow.endpoint_seconds
        crossing[max(ends) + 1] -= flow.nbytes + flow.gradient_nbytes + flow.endpoint_seconds
    across = np.cumsum(crossing)
    work = np.array(
        [sum(min(tables.seconds[node]) for node in tables.groups[group]) for group in line]
    )
    share = np.cumsum(np.minimum(work, 1e300)) + np.arange(len(line)) * (work.mean() * 0.2)
    window = np.minimum((share / share[-1] * MOST_PLACES).astype(int), MOST_PLACES - 1)
    starts = {0}
    for index in range(1, MOST_PLACES):
        inside = np.flatnonzero(window == index)
        if len(inside):
            starts.add(int(inside[np.argmin(across[inside])]))
    current = -1
    places = [0] * len(line)
    for at, group in enumerate(line):
        current += at in starts
        places[group] = current
    return places


class Costs:
    """What every interval of places costs on every device."""

    def __init__(self, tables: Tables, places: Sequence[int]) -> None:
        self.tables = tables
        self.places = places
        self.size = max(places, default=-1) + 1
        problem = tables.problem
        self.at = [places[group] for group in tables.group_of]
        devices = range(len(problem.devices))
        work = np.zeros((len(problem.devices), self.size + 1))
        barred = np.zeros((len(problem.devices), self.size + 1), dtype=np.int64)
        for index, group in enumerate(tables.groups):
            for device in devices:
                if device in tables.choices[index]:
                    work[device, places[index] + 1] += sum(
                        tables.seconds[node][device] for node in group
                    )
                else:
                    barred[device, places[index] + 1] += 1
        self.work = work.cumsum(axis=1)
        self.barred = barred.cumsum(axis=1)
        self.inward, self.outward, self.cut = self._crossings()
        self.peak = self._peaks()

    def _crossings(self) -> tuple[Floats, Floats, Floats]:
        """Endpoint seconds that come into `[a, b)` and leave it; seconds of travel over a cut."""
        problem = self.tables.problem
        inward = np.zeros((self.size + 2, self.size + 2))
        outward = np.zeros((self.size + 2, self.size + 2))
        cut = np.zeros(self.size + 2)
        latency = problem.objective == "latency"
        for index, flow in enumerate(problem.flows):
            home = self.at[flow.source]
            targets = sorted({self.at[node] for node in flow.targets} - {home})
            if not targets:
                continue
            if flow.endpoint_seconds:
                before = 0
                for target in targets:
                    if target > home:
                        low = max(before, home + 1)
                        _rectangle(
                            inward,
                            (low, target + 1),
                            (target + 1, self.size + 1),
                            flow.endpoint_seconds,
                        )
                    else:
                        _rectangle(
                            inward,
                            (before, target + 1),
                            (target + 1, home + 1),
                            flow.endpoint_seconds,
                        )
                    before = target + 1
                low, high = min(targets[0], home), max(targets[-1], home)
                _rectangle(outward, (0, home + 1), (home + 1, high + 1), flow.endpoint_seconds)
                if low < home:
                    _rectangle(
                        outward,
                        (low + 1, home + 1),
                        (high + 1, self.size + 1),
                        flow.endpoint_seconds,
                    )
            seconds = max(map(max, self.tables.forward_travel[index]), default=0.0)
            seconds += max(map(max, self.tables.backward_travel[index]), default=0.0)
            low, high = min(home, targets[0]) + 1, max(home, targets[-1]) + 1
            if latency:
                np.maximum(cut[low:high], seconds, out=cut[low:high])
            else:
                cut[low] += seconds
                cut[high] -= seconds
        if not latency:
            cut = cut.cumsum()
        whole = slice(0, self.size + 1)
        return (
            inward.cumsum(0).cumsum(1)[whole, whole],
            outward.cumsum(0).cumsum(1)[whole, whole],
            cut[whole],
        )

    def _peaks(self) -> Floats:
        """Most bytes that `[a, b)` holds at one point."""
        problem = self.tables.problem
        peak = np.zeros((self.size + 1, self.size + 1))
        if all(capacity is None for capacity in problem.capacity_nbytes):
            return peak
        where = [sorted({self.at[node] for node in hold.nodes}) for hold in problem.holds]
        held = np.zeros(problem.points + 1)
        for hold in problem.holds:
            held[hold.first] += hold.nbytes
            held[hold.last + 1] -= hold.nbytes
        held = held.cumsum()[:-1]
        points = np.sort(np.argsort(-held, kind="stable")[:MOST_POINTS])
        starting: dict[int, list[int]] = {}
        ending: dict[int, list[int]] = {}
        for index, hold in enumerate(problem.holds):
            first = int(np.searchsorted(points, hold.first))
            last = int(np.searchsorted(points, hold.last, side="right"))
            if first < last:
                starting.setdefault(first, []).append(index)
                ending.setdefault(last, []).append(index)
        change = np.zeros((self.size + 2, self.size + 2))
        for step in range(len(points)):
            for sign, some in ((1, starting.get(step, ())), (-1, ending.get(step, ()))):
                for index in some:
                    before = 0
                    for place in where[index]:
                        _rectangle(
                            change,
                            (before, place + 1),
                            (place + 1, self.size + 1),
                            sign * problem.holds[index].nbytes,
                        )
                        before = place + 1
            now = change.cumsum(0).cumsum(1)[: self.size + 1, : self.size + 1]
            np.maximum(peak, now, out=peak)
        return peak

    def cost(self, device: int) -> tuple[Floats, Floats]:
        """Of every `[a, b)` on a device: what it costs, and by how much it does not fit."""
        problem = self.tables.problem
        seconds = self.work[device][None, :] - self.work[device][:, None]
        capacity = problem.capacity_nbytes[device]
        match problem.objective:
            case "latency":
                cost = seconds + self.cut[:, None]
            case "throughput":
                endpoint = self.inward + self.outward if problem.pays(device) else 0.0
                cost = np.maximum(seconds + endpoint, self.cut[:, None])
            case _:
                cost = self.peak / max(capacity, 1) if capacity is not None else 0 * self.peak
        excess = np.maximum(self.peak - capacity, 0.0) if capacity is not None else 0 * self.peak
        barred = self.barred[device][None, :] - self.barred[device][:, None]
        cost = np.where(barred > 0, inf, cost)
        empty = np.eye(self.size + 1, dtype=bool)
        cost[empty] = 0.0
        cost[np.tril_indices(self.size + 1, -1)] = inf
        return cost, excess

    def divide(self, sequence: Sequence[int]) -> list[tuple[int, int]]:
        """By device in the sequence, its best interval."""
        total = self.tables.problem.objective == "latency"
        tables = [self.cost(device) for device in sequence]
        fitting = [np.where(excess > 0, inf, cost) for cost, excess in tables]
        cuts = best_cuts(fitting, total=total)
        if cuts is None:
            cuts = best_cuts(
                [np.where(np.isinf(cost), inf, excess) for cost, excess in tables], total=True
            )
        if cuts is None:
            cuts = [(0, self.size), *[(self.size, self.size)] * (len(sequence) - 1)]
        return cuts


def _rectangle(
    change: Floats, rows: tuple[int, int], columns: tuple[int, int], value: float
) -> None:
    """Add a value to a half-open rectangle of the table whose differences these are."""
    if rows[0] < rows[1] and columns[0] < columns[1]:
        change[rows[0], columns[0]] += value
        change[rows[1], columns[0]] -= value
        change[rows[0], columns[1]] -= value
        change[rows[1], columns[1]] += value


def best_cuts(costs: Sequence[Floats], *, total: bool) -> list[tuple[int, int]] | None:
    """By device, the interval that it gets, from the cost of every `[a, b)` on each of them.

    The least sum, or the least maximum; `None` when all of it is infinite.
    """
    size = len(costs[0]) - 1
    best = np.full(size + 1, inf)
    best[0] = 0.0
    origins = []
    for cost in costs:
        options = best[:, None] + cost if total else np.maximum(best[:, None], cost)
        origin = options.argmin(axis=0)
        best = options[origin, np.arange(size + 1)]
        origins.append(origin)
    if best[size] == inf:
        return None
    cuts = []
    end = size
    for origin in reversed(origins):
        start = int(origin[end])
        cuts.append((start, end))
        end = start
    return cuts[::-1]
