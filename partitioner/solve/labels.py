"""The smallest latency, node by node in the order of execution: a dynamic programme with labels.

A label is one way to place the nodes up to now. Of its past only this matters for what follows:

- when each device is free, in the forward and, counted from its end, in the backward;
- when each value that is still to be read was finished, and on which device it is;
- what each device holds, and of which shared holds it has its part.

A label goes when another with the same devices is nowhere later and nowhere fuller, when its memory
cannot suffice, or when its bound is not below the best value known. The bound of a label is the
largest of: what is done plus the longest path to come, with its transfers; the work to come, shared
evenly; and the cheapest walk along the rest of the chain of `waists.py`, over devices that together
have room for what is to come.

If no label is ever left out for want of room, the best at the end is an optimum. Else the smallest
bound of those left out is a bound for all assignments. Transfers that share a lane do not wait for
each other here: on such roads the best at the end is a bound, and its assignment one to recount.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

from partitioner.solve.effort import Effort
from partitioner.solve.label_memory import LabelMemory
from partitioner.solve.state import Matrix, Tables
from partitioner.solve.waists import Users, Walk

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Arrivals = list[list[tuple[int, Floats]]]

RIVALS = 48
"""Every label is compared with so many of those that have its devices."""
MOST_MERGED = 3_000
"""Labels that stand for several, at a time."""
ROUNDING = 1e-13
"""Times that differ by less, as a share of the best value known, are equal."""
UNITS_EACH = 20
"""Effort of one label."""
UNITS_PER_NODE = 500
"""Effort of a node, however few labels there are."""
UNITS_PER_NUMBER = 0.15
"""Effort of one number in it."""
MOST_DEVICES = 60
"""Devices are bits of an integer."""
MOST_NODES = 3_000
"""In larger problems few labels are left for each node; they gain little and take much memory."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """What came out.

    Attributes:
        placed: an assignment below the known value, by node; `None` if none was found.
        bound: no assignment is below this and below the known value.
        complete: no label was left out for want of room.
    """

    placed: list[int] | None
    bound: float
    complete: bool


def applies(tables: Tables) -> bool:
    """Whether the objective is a schedule, under limits of memory and groups alone."""
    problem = tables.problem
    return (
        problem.objective == "latency"
        and not problem.contiguous
        and not problem.separated
        and len(problem.devices) <= MOST_DEVICES
        and len(problem.nodes) <= MOST_NODES
    )


def best_in_order(tables: Tables, walk: Walk, known: float, width: int, effort: Effort) -> Labelled:
    """The best assignment below `known`, with at most `width` labels at a time.

    When the effort runs out on the way, only a bound.
    """
    return _Labels(tables, walk, known, width).run(effort)


def _classes(count: int, columns: Sequence[Integers]) -> Integers:
    """By row, a number for what it has in the columns."""
    if not columns:
        return np.zeros(count, dtype=np.int64)
    return np.unique(np.stack(columns, axis=1), axis=0, return_inverse=True)[1].reshape(-1)


class _Phase:
    """The forward, or the backward counted from its end: then nodes start after their sources.

    Attributes:
        seconds: by node and device.
        arrivals: by node, its sources and the travel from there.
        tails: by node and device, how long the phase lasts at least once the node is done there.
        left: by node, the least work of the nodes after it.
        leaving: by node, the longest travel of what it passes on.
        readers: by node, those that read it, ascending.
    """

    def __init__(
        self, tables: Tables, seconds: Matrix, passing: Sequence[tuple[int, int, Matrix]]
    ) -> None:
        size, devices = len(seconds), len(tables.problem.devices)
        self.seconds = np.array(seconds, dtype=np.float64)
        least = np.full_like(self.seconds, inf)
        for group, nodes in enumerate(tables.groups):
            for node in nodes:
                choices = list(tables.choices[group])
                least[node, choices] = self.seconds[node, choices]
        self.arrivals: Arrivals = [[] for _ in range(size)]
        self.readers: list[list[int]] = [[] for _ in range(size)]
        self.leaving = np.zeros((size, devices, devices))
        after: Arrivals = [[] for _ in range(size)]
        for source, target, travel in passing:
            table = np.array(travel)
            self.arrivals[target].append((source, table))
            self.readers[source].append(target)
            after[source].append((target, table))
            np.maximum(self.leaving[source], table, out=self.leaving[source])
        for readers in self.readers:
            readers.sort()
        self.tails = np.zeros_like(self.seconds)
        for node in reversed(range(size)):
            for target, table in after[node]:
                through = (table + (least[target] + self.tails[target])[None, :]).min(axis=1)
                np.maximum(self.tails[node], through, out=self.tails[node])
        self.shortest = least.min(axis=1)
        self.left = np.append(np.cumsum(self.shortest[::-1])[::-1], 0.0)[1:]
        self._distances: dict[int, dict[int, float]] = {}

    def distances(self, reader: int) -> dict[int, float]:
        """By node before it, the longest path from its end to the start of a reader."""
        if reader not in self._distances:
            found: dict[int, float] = {source: 0.0 for source, _ in self.arrivals[reader]}
            for node in range(reader - 1, -1, -1):
                if node in found:
                    for source, _ in self.arrivals[node]:
                        through = found[node] + self.shortest[node]
                        found[source] = max(found.get(source, 0.0), through)
            self._distances[reader] = found
        return self._distances[reader]


def _phases(tables: Tables) -> tuple[_Phase, _Phase]:
    problem = tables.problem
    forward: list[tuple[int, int, Matrix]] = []
    backward: list[tuple[int, int, Matrix]] = []
    for index, flow in enumerate(problem.flows):
        home_first = tuple(zip(*tables.backward_travel[index], strict=True))
        for target in flow.targets:
            forward.append((flow.source, target, tables.forward_travel[index]))
            if flow.gradient_nbytes:
                backward.append((flow.source, target, home_first))
    return (
        _Phase(tables, problem.forward_seconds, forward),
        _Phase(tables, problem.backward_seconds, backward),
    )


class _Labels:
    """Labels of one place in the order, a row each.

    Attributes:
        free: by phase, label and device.
        done: by phase and node that is still to be read, a column over the labels.
        device: by group that later nodes ask for, a column over the labels.
        used: by label, a bit set of the devices with nodes.
        bound: by label.
        merged: by label, whether it stands for several, that differ.
        left_out: the least bound of all that there was no room for.
        origins: by place, the parent of every label and the device that it chose.
    """

    def __init__(self, tables: Tables, walk: Walk, known: float, width: int) -> None:
        self.tables = tables
        self.walk = walk
        self.width = width
        self.cutoff = known
        self.slack = ROUNDING * known if known < inf else 0.0
        self.phases = _phases(tables)
        self.memory = LabelMemory(tables, walk.inside)
        self.places = {node: place for place, node in enumerate(walk.chain)}
        devices = len(tables.problem.devices)
        self.users = Users(devices)
        self.free = [np.zeros((1, devices)) for _ in self.phases]
        self.done: list[dict[int, Floats]] = [{} for _ in self.phases]
        self.device: dict[int, Integers] = {}
        self.used = np.zeros(1, dtype=np.int64)
        self.bound = np.zeros(1)
        self.origins: list[tuple[Integers, Integers]] = []
        self.merged = np.zeros(1, dtype=bool)
        self.left_out = inf

    def run(self, effort: Effort) -> Labelled:
        """Place every node in turn."""
        for node in range(len(self.tables.problem.nodes)):
            self.place(node)
            if not len(self.bound):
                return Labelled(None, self.left_out, self.left_out == inf)
            numbers = self.memory.held[0].size + 8 * (len(self.device) + len(self.done[0]) + 2)
            each = UNITS_EACH + UNITS_PER_NUMBER * numbers
            if not effort.spend(UNITS_PER_NODE + each * len(self.bound)):
                return Labelled(None, min(self.left_out, float(self.bound.min())), False)
        at = int(np.lexsort((self.bound, self.merged))[0])
        bound = min(self.left_out, float(self.bound.min()))
        complete = not self.merged[at] and float(self.bound[at]) <= bound
        return Labelled(self._trace(at), bound, complete)

    def _trace(self, at: int) -> list[int]:
        placed = []
        for parent, device in reversed(self.origins):
            placed.append(int(device[at]))
            at = int(parent[at])
        return placed[::-1]

    def place(self, node: int) -> None:
        """From the labels before a node to those after it."""
        group = self.tables.group_of[node]
        opens = self.tables.groups[group][0] == node
        if opens:
            parent, device = self._choices(group)
        else:
            parent, device = np.arange(len(self.bound)), self.device[group]
        row = np.arange(len(parent))
        free, starts, ends = [], [], []
        for phase, known, done in zip(self.phases, self.free, self.done, strict=True):
            rows = known[parent]
            start = rows[row, device]
            for source, travel in phase.arrivals[node]:
                home = self.device[self.tables.group_of[source]][parent]
                start = np.maximum(start, done[source][parent] + travel[home, device])
            end = start + phase.seconds[node][device]
            rows[row, device] = end
            free.append(rows)
            starts.append(start)
            ends.append(end)
        bound = np.maximum(self.bound[parent], self._least(node, parent, device, free, ends))
        keep = bound < self.cutoff
        if opens:
            held, fits = self.memory.place(node, group, parent, device)
            keep &= fits
        else:
            held = self.memory.held[parent]
        place = self.places.get(node)
        if place is not None:
            rest = self._rest(place, device, held)
            rest += ends[0] + starts[1] * self.walk.returns[place]
            bound = np.maximum(bound, rest)
            keep &= bound < self.cutoff
        chosen = np.flatnonzero(keep)
        before, there = parent[chosen], device[chosen]
        self.free = [rows[chosen] for rows in free]
        self.bound = bound[chosen]
        self.origins.append((before, there))
        bit = np.left_shift(1, there)
        self.used = self.used[before] | bit
        self.merged = self.merged[before]
        self._pass_on(node, before, there, [end[chosen] for end in ends])
        self.memory.move_on(node, group, before, bit, held[chosen])
        self._reduce()

    def _choices(self, group: int) -> tuple[Integers, Integers]:
        """Every label with every device that the group may have; of equal new ones the first."""
        parents, devices = [], []
        for device in self.tables.choices[group]:
            allowed = np.ones(len(self.bound), dtype=bool)
            for alike in self.tables.interchangeable:
                if device in alike:
                    earlier = sum(1 << other for other in alike if other < device)
                    entered = (self.used >> device & 1).astype(bool)
                    allowed = entered | ((self.used & earlier) == earlier)
            some = np.flatnonzero(allowed)
            parents.append(some)
            devices.append(np.full(len(some), device))
        return np.concatenate(parents), np.concatenate(devices)

    def _least(
        self,
        node: int,
        parent: Integers,
        device: Integers,
        free: Sequence[Floats],
        ends: Sequence[Floats],
    ) -> Floats:
        """Seconds by the longest path and by the work to come."""
        total = np.zeros(len(parent))
        for phase, rows, done, end in zip(self.phases, free, self.done, ends, strict=True):
            least = rows.max(axis=1)
            least = np.maximum(least, (rows.sum(axis=1) + phase.left[node]) / rows.shape[1])
            least = np.maximum(least, end + phase.tails[node][device])
            for source, column in done.items():
                if phase.readers[source][-1] > node:
                    home = self.device[self.tables.group_of[source]][parent]
                    least = np.maximum(least, column[parent] + phase.tails[source][home])
            total += least
        return total

    def _rest(self, place: int, device: Integers, held: Integers) -> Floats:
        """Seconds from a node of the chain on, over devices that have room for what is to come."""
        rest = np.full(len(device), inf)
        for used, fits in enumerate(self.memory.fit(self.users, held)):
            seconds = self.walk.rest[place][device, used]
            if fits is not None:
                seconds = np.where(fits, seconds, inf)
            np.minimum(rest, seconds, out=rest)
        return rest

    def _pass_on(
        self, node: int, before: Integers, device: Integers, ends: Sequence[Floats]
    ) -> None:
        """Keep what later nodes ask for."""
        asked: set[int] = set()
        for index, (phase, done) in enumerate(zip(self.phases, self.done, strict=True)):
            kept = {
                source: column[before]
                for source, column in done.items()
                if phase.readers[source][-1] > node
            }
            if phase.readers[node]:
                kept[node] = ends[index]
            self.done[index] = kept
            asked.update(self.tables.group_of[source] for source in kept)
        columns = {group: column[before] for group, column in self.device.items()}
        columns[self.tables.group_of[node]] = device
        self.device = {
            group: column
            for group, column in columns.items()
            if group in asked or self.tables.groups[group][-1] > node
        }

    def _reduce(self) -> None:
        """Drop labels that others make needless, and the worst if there are too many."""
        count = len(self.bound)
        if count < 2:
            return
        times = np.concatenate([*self.free, *map(self._effective, range(2))], axis=1)
        held = self.memory.deciding()
        order = np.lexsort((times.sum(axis=1), self.bound))
        devices = list(self.device.values())
        merged = self.merged.astype(np.int64)
        names = _classes(count, [merged, *devices, *self.memory.parts.values()])
        order = order[np.argsort(names[order], kind="stable")]
        alive = np.ones(count, dtype=bool)
        for rows in np.split(order, np.flatnonzero(np.diff(names[order])) + 1):
            self._compare(rows, times, held, alive)
        kept = np.flatnonzero(alive)
        if len(kept) > self.width:
            kept = self._crowded(kept, _classes(count, devices))
        if len(kept) < count:
            self._select(kept)

    def _crowded(self, rows: Integers, names: Integers) -> Integers:
        """The best labels as they are, of the others one for all that have the same devices."""
        ranked = rows[np.lexsort((self.bound[rows], self.merged[rows]))]
        most = min(self.width, int((~self.merged[rows]).sum()))
        kept, rows = ranked[:most], ranked[most:]
        rows = rows[np.argsort(names[rows], kind="stable")]
        starts = np.flatnonzero(np.diff(names[rows], prepend=-1))
        merged = rows[starts]
        for free in self.free:
            free[merged] = np.minimum.reduceat(free[rows], starts, axis=0)
        for done in self.done:
            for column in done.values():
                column[merged] = np.minimum.reduceat(column[rows], starts)
        self.memory.merge(merged, rows, starts)
        self.used[merged] = np.bitwise_or.reduceat(self.used[rows], starts)
        self.bound[merged] = np.minimum.reduceat(self.bound[rows], starts)
        self.merged[merged] = True
        ranked = merged[np.argsort(self.bound[merged], kind="stable")]
        merged, rest = ranked[:MOST_MERGED], ranked[MOST_MERGED:]
        if len(rest):
            self.left_out = min(self.left_out, float(self.bound[rest[0]]))
        return np.concatenate([kept, merged])

    def _select(self, kept: Integers) -> None:
        self.free = [rows[kept] for rows in self.free]
        self.done = [{node: column[kept] for node, column in done.items()} for done in self.done]
        self.device = {group: column[kept] for group, column in self.device.items()}
        self.used, self.bound = self.used[kept], self.bound[kept]
        self.merged = self.merged[kept]
        parent, device = self.origins[-1]
        self.origins[-1] = (parent[kept], device[kept])
        self.memory.select(kept)

    def _compare(
        self, rows: Integers, times: Floats, held: Integers, alive: NDArray[np.bool_]
    ) -> None:
        """Among labels with the same devices, drop those that are nowhere better than another."""
        left = rows
        for _ in range(RIVALS):
            if len(left) < 2:
                return
            rival, left = left[0], left[1:]
            worse = (times[left] >= times[rival] - self.slack).all(axis=1)
            some = np.flatnonzero(worse)
            worse[some] = (held[left[some]] >= held[rival]).all(axis=1)
            alive[left[worse]] = False
            left = left[~worse]

    def _effective(self, index: int) -> Floats:
        """When values are done, but not before it makes a difference to any reader.

        A device that is busy cannot use them sooner, nor a reader that waits for another value.
        """
        phase, done, free = self.phases[index], self.done[index], self.free[index]
        if not done:
            return np.zeros((len(free), 0))
        node = len(self.origins) - 1
        columns = []
        for source, column in done.items():
            home = self.device[self.tables.group_of[source]]
            least = (free - phase.leaving[source][home]).min(axis=1)
            waits = np.full(len(free), inf)
            for reader in phase.readers[source]:
                if reader > node:
                    distances = phase.distances(reader)
                    other = np.full(len(free), -inf)
                    for rival, when in done.items():
                        if rival != source and rival in distances:
                            other = np.maximum(other, when + distances[rival])
                    waits = np.minimum(waits, other)
            least = np.maximum(least, waits - phase.leaving[source].max())
            columns.append(np.maximum(column, least))
        return np.stack(columns, axis=1)
