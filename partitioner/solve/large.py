"""Problems too large to look at node by node: a split of the line, and a smaller problem around it.

The nodes stand in a line, and each device takes one interval. `T` is possible when every device,
one after the other, can take as much as it may within `T` and reach the end; bisection finds the
least. What an interval costs is reckoned from above, with everything that crosses its two ends:

    work of [a, b) + border[a] + border[b] <= T,   cut[a] <= T,   cut[b] <= T,   bytes <= limit

Memory is reckoned by what lives at the fullest point; where a recount finds more, the device is
given less. The smaller problem has runs of the line for nodes, cut where that split cuts and where
little crosses. Merging loses the optimum but counts loads exactly, and memory from above: what fits
there fits. Bounds come from all nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush
from itertools import pairwise
from math import inf

import numpy as np
from numpy.typing import NDArray

from partitioner.solve.bounds import memory_bound, shared_work_bound
from partitioner.solve.contract import Contraction, contract, merge
from partitioner.solve.evaluate import count
from partitioner.solve.problem import Hold, Problem

Floats = NDArray[np.float64]

LARGE = 20_000
"""Nodes times devices: more are coarsened first."""
RUNS = 400
"""Nodes of the smaller problem, at least."""
RUNS_EACH = 10
"""For each device."""
POINTS = 200
"""Program points of the smaller problem, at most."""
HALVINGS = 40
"""Of the range of `T`."""
TIGHTENINGS = 6
"""Of memory limits, after a recount."""


@dataclass(frozen=True, slots=True)
class Coarse:
    """A smaller problem that stands for a large one.

    Attributes:
        problem: whose nodes are groups of the large one's.
        contraction: which.
        placed: a start, by node of the smaller problem; `None` where no split fits.
        bound: no assignment of the large problem is better.
    """

    problem: Problem
    contraction: Contraction
    placed: list[int] | None
    bound: float


def is_large(problem: Problem) -> bool:
    """Whether a problem is coarsened before it is solved."""
    size = len(problem.nodes) * len(problem.devices)
    return problem.objective != "latency" and size > LARGE


def coarsened(problem: Problem) -> Coarse:
    """The smaller problem, a start and a bound."""
    exact, contraction = contract(problem)
    line = _Line(exact)
    bound = memory_bound(exact) if exact.objective == "memory" else shared_work_bound(line.seconds)
    ends = line.split(bound)
    runs = line.runs(ends or [])
    smaller = merge(exact, Contraction(runs))
    placed = None
    if ends is not None:
        by_place = line.placed(ends)
        placed = [by_place[run[0]] for run in runs]
    whole = Contraction(
        tuple(
            tuple(sorted(node for group in run for node in contraction.groups[group]))
            for run in runs
        )
    )
    return Coarse(_fewer_points(smaller), whole, placed, bound)


class _Line:
    """Nodes in an order that ordered splits may follow, with sums along it.

    Attributes:
        order: nodes by place.
        seconds: `[node][device]`; `inf` where it may not be.
        work: `[device][place]`, of all before the place.
        barred: likewise, how many may not be there.
        nbytes: of all before the place, at the fullest point.
        cut: seconds that one link would take for all that crosses the place.
        border: endpoint seconds of all that crosses the place.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        size, devices = len(problem.nodes), len(problem.devices)
        self.order = _topological(problem)
        at = np.empty(size, dtype=np.int64)
        at[self.order] = np.arange(size)
        seconds = np.array(problem.forward_seconds) + np.array(problem.backward_seconds)
        open_to = np.zeros((size, devices), dtype=bool)
        for node, allowed in enumerate(problem.allowed):
            open_to[node, list(allowed)] = True
        self.seconds: Floats = np.where(open_to, seconds, inf)
        in_line = self.seconds[self.order].T
        possible = np.isfinite(in_line)
        nothing = np.zeros((devices, 1))
        self.work = np.hstack([nothing, np.where(possible, in_line, 0.0).cumsum(axis=1)])
        self.barred = np.hstack([nothing, (~possible).cumsum(axis=1)])
        self.nbytes = self._nbytes(at)
        self.cut, self.border = self._crossings(at)

    def _nbytes(self, at: NDArray[np.int64]) -> Floats:
        problem = self.problem
        change = np.zeros(problem.points + 1)
        for hold in problem.holds:
            change[hold.first] += hold.nbytes
            change[hold.last + 1] -= hold.nbytes
        fullest = int(change.cumsum().argmax())
        held = np.zeros(len(at) + 1)
        for hold in problem.holds:
            if hold.first <= fullest <= hold.last:
                held[int(at[hold.nodes[0]]) + 1] += hold.nbytes
        return held.cumsum()

    def _crossings(self, at: NDArray[np.int64]) -> tuple[Floats, Floats]:
        problem = self.problem
        latency = max(map(max, problem.latency_seconds))
        per_byte = max(map(max, problem.seconds_per_byte))
        there, back, border = (np.zeros(len(at) + 1) for _ in range(3))
        for flow in problem.flows:
            places = [int(at[flow.source]), *(int(at[target]) for target in flow.targets)]
            first, last = min(places) + 1, max(places) + 1
            for table, value in (
                (there, latency + flow.nbytes * per_byte if flow.nbytes else 0.0),
                (back, latency + flow.gradient_nbytes * per_byte if flow.gradient_nbytes else 0.0),
                (border, flow.endpoint_seconds),
            ):
                table[first] += value
                if last < len(table):
                    table[last] -= value
        return np.maximum(there.cumsum(), back.cumsum()), border.cumsum()

    def split(self, bound: float) -> list[tuple[int, int]] | None:
        """By interval its device and its end, for the best sequence of devices; `None` without."""
        best: tuple[float, list[tuple[int, int]]] | None = None
        for sequence in self._sequences():
            room = np.array([inf if c is None else float(c) for c in self.problem.capacity_nbytes])
            for _ in range(TIGHTENINGS):
                ends = self._least(sequence, bound, room)
                if ends is None:
                    break
                recount = count(self.problem, self.placed(ends))
                if recount.feasible and (best is None or recount.objective < best[0]):
                    best = (recount.objective, ends)
                if self.problem.objective != "memory" and recount.feasible:
                    break
                room = self._less_room(ends, recount.peak_nbytes, room)
        return None if best is None else best[1]

    def _less_room(
        self, ends: Sequence[tuple[int, int]], peaks: Sequence[int], room: Floats
    ) -> Floats:
        """Limits of the reckoned bytes that keep the counted ones within theirs."""
        less = room.copy()
        start = 0
        for device, end in ends:
            capacity = self.problem.capacity_nbytes[device]
            if capacity is not None and peaks[device]:
                reckoned = float(self.nbytes[end] - self.nbytes[start])
                less[device] = capacity * min(2.0, reckoned / peaks[device]) * (1 - 1e-6)
            start = end
        return less

    def _sequences(self) -> list[tuple[int, ...]]:
        given = tuple(range(len(self.problem.devices)))
        total = self.work[:, -1] + self.barred[:, -1] * self.work.max()
        by_speed = tuple(int(device) for device in np.argsort(total, kind="stable"))
        return [*dict.fromkeys((given, by_speed, given[::-1], by_speed[::-1]))][
            : 1 if np.ptp(total) == 0 else 4
        ]

    def _least(
        self, sequence: Sequence[int], bound: float, room: Floats
    ) -> list[tuple[int, int]] | None:
        memory = self.problem.objective == "memory"
        low, high = bound, max(1.0, bound) if memory else float(self.work.max() + self.cut.max())
        best = self._fill(sequence, high, room)
        if best is None:
            return None
        for _ in range(HALVINGS):
            if high - low <= 1e-6 * high:
                break
            middle = (low + high) / 2
            found = self._fill(sequence, middle, room)
            if found is None:
                low = middle
            else:
                best, high = found, middle
        return best

    def _fill(
        self, sequence: Sequence[int], limit: float, room: Floats
    ) -> list[tuple[int, int]] | None:
        """Intervals within the limit, each as long as it may be; `None` if the end is not met."""
        problem, size = self.problem, len(self.order)
        memory = problem.objective == "memory"
        start = 0
        ends = []
        for device in sequence:
            work, barred = self.work[device], self.barred[device]
            most = room[device] * (min(limit, 1.0) if memory else 1.0)
            last = int(np.searchsorted(barred, barred[start], side="right")) - 1
            within = self.nbytes[start] + most
            last = min(last, int(np.searchsorted(self.nbytes, within, side="right")) - 1)
            if memory:
                end = last
            else:
                price = self.border if problem.pays(device) else 0.0 * self.border
                left = work[start] + limit - price[start]
                last = min(last, int(np.searchsorted(work, left, side="right")) - 1)
                window = slice(start + 1, last + 1)
                fits = (work[window] + price[window] <= left) & (self.cut[window] <= limit)
                places = np.flatnonzero(fits)
                end = start + 1 + int(places[-1]) if len(places) else start
            if end > start:
                ends.append((device, end))
                start = end
            if start == size:
                return ends
        return None

    def placed(self, ends: Sequence[tuple[int, int]]) -> list[int]:
        """The device of every node."""
        placed = [0] * len(self.order)
        start = 0
        for device, end in ends:
            for node in self.order[start:end]:
                placed[node] = device
            start = end
        return placed

    def runs(self, ends: Sequence[tuple[int, int]]) -> tuple[tuple[int, ...], ...]:
        """The line in pieces of about equal work, cut at the ends and where little crosses."""
        size = len(self.order)
        number = max(RUNS, RUNS_EACH * len(self.problem.devices))
        least = np.minimum.reduce(self.seconds[self.order], axis=1)
        least = np.where(np.isfinite(least), least, 0.0)
        share = (least + least.mean() * 0.2 + 1e-300).cumsum()
        window = np.minimum((share / share[-1] * number).astype(np.int64), number - 1)
        across = self.cut + self.border
        cuts = {0, size, *(end for _, end in ends)}
        first = 0
        for last in [*(np.flatnonzero(np.diff(window)) + 1).tolist(), size]:
            cuts.add(first + int(across[first:last].argmin()))
            first = last
        open_to = np.isfinite(self.seconds[self.order])
        _, kinds = np.unique(open_to, axis=0, return_inverse=True)
        if self.problem.contiguous:
            cuts.update((np.flatnonzero(np.diff(kinds)) + 1).tolist())
        places = sorted(cuts)
        runs: dict[tuple[int, int], list[int]] = {}
        for first, last in pairwise(places):
            for place in range(first, last):
                runs.setdefault((first, int(kinds[place])), []).append(self.order[place])
        return tuple(map(tuple, runs.values()))


def _topological(problem: Problem) -> list[int]:
    """The given order, or the nearest one that no watched pair goes against."""
    size = len(problem.nodes)
    if not problem.contiguous:
        return list(range(size))
    after: list[list[int]] = [[] for _ in range(size)]
    waiting = [0] * size
    for first, second in problem.ordered_pairs():
        after[first].append(second)
        waiting[second] += 1
    ready = [node for node in range(size) if not waiting[node]]
    heapify(ready)
    order = []
    while ready:
        node = heappop(ready)
        order.append(node)
        for second in after[node]:
            waiting[second] -= 1
            if not waiting[second]:
                heappush(ready, second)
    return order


def _fewer_points(problem: Problem) -> Problem:
    """Neighbouring program points as one, at which everything counts that any of them holds."""
    if problem.points <= POINTS:
        return problem
    united: dict[tuple[tuple[int, ...], int, int], int] = {}
    for hold in problem.holds:
        first, last = (point * POINTS // problem.points for point in (hold.first, hold.last))
        key = (hold.nodes, first, last)
        united[key] = united.get(key, 0) + hold.nbytes
    holds = tuple(Hold(nodes, nbytes, *ends) for (nodes, *ends), nbytes in united.items())
    return replace(problem, holds=holds, points=POINTS)
