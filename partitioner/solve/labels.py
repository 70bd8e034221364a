"""The smallest latency, node by node in the order of execution: a dynamic programme with labels.

A label is one way to place the nodes up to now. Of its past only this matters for what follows:

- when each device is free, in the forward and, counted from its end, in the backward;
- when each value that is still to be read was finished, and on which device it is;
- what each device holds at every program point, and of which shared holds it has its part.

A label goes when another with the same devices is nowhere later and nowhere fuller, when its memory
cannot suffice, or when its bound is not below the best value known. The bound of a label is the
largest of: what is done plus the longest path to come, with its transfers; the work to come, shared
evenly; and the cheapest walk along the chain of `waists.py` from the last node of it on.

If no label is ever left out for want of room, the best at the end is an optimum. Else the smallest
bound of those left out is a bound for all assignments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

from partitioner.solve.effort import Effort
from partitioner.solve.segments import bits
from partitioner.solve.state import Matrix, Tables
from partitioner.solve.waists import Users, Walk

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

RIVALS = 48
"""Every label is compared with so many of those that have its devices."""
ROUNDING = 1e-13
"""Times that differ by less, as a share of the best value known, are equal."""
UNITS_EACH = 0.02
"""Effort of one number of one label."""


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
    return problem.objective == "latency" and not problem.contiguous and not problem.separated


def best_in_order(
    tables: Tables, walk: Walk, known: float, width: int, effort: Effort
) -> Labelled | None:
    """The best assignment below `known`, with at most `width` labels at a time.

    `None` when the effort runs out.
    """
    return _Labels(tables, walk, known, width).run(effort)


class _Plan:
    """What each place in the order needs to know, found once.

    Attributes:
        first: by group, its first node.
        forward, backward: by node, seconds on each device; `inf` becomes a very long time.
        tails: by phase, node and device: how long the phase lasts at least after the node there.
        left: by phase and node, the least work of the nodes after it.
        readers: by phase and node, the last node that reads it, -1 for none.
        groups_until: by group, the last of its nodes.
        holds_from: by group, holds that one of its nodes is in.
        holds_until: by hold, the first node of the last group that is in it.
        need: by node, bytes at each point of the holds that are nowhere yet once it is placed.
        need_inside: the part of them that lies on the way of the walk.
    """

    def __init__(self, tables: Tables, walk: Walk) -> None:
        problem = tables.problem
        self.tables = tables
        size = len(problem.nodes)
        self.first = [group[0] for group in tables.groups]
        self.groups_until = [group[-1] for group in tables.groups]
        self.seconds = (
            np.array(problem.forward_seconds, dtype=np.float64),
            np.array(problem.backward_seconds, dtype=np.float64),
        )
        successors: tuple[list[list[tuple[int, Matrix]]], ...] = (
            [[] for _ in range(size)],
            [[] for _ in range(size)],
        )
        self.arrivals: tuple[list[list[tuple[int, Floats]]], ...] = (
            [[] for _ in range(size)],
            [[] for _ in range(size)],
        )
        for index, flow in enumerate(problem.flows):
            backward = tuple(zip(*tables.backward_travel[index], strict=True))
            for target in flow.targets:
                phases = [(0, tables.forward_travel[index])]
                if flow.gradient_nbytes:
                    phases.append((1, backward))
                for phase, travel in phases:
                    successors[phase][flow.source].append((target, travel))
                    self.arrivals[phase][target].append((flow.source, np.array(travel)))
        self.readers = [
            [max((target for target, _ in after), default=-1) for after in successors[phase]]
            for phase in (0, 1)
        ]
        allowed = np.zeros((size, len(problem.devices)), dtype=bool)
        for group, nodes in enumerate(tables.groups):
            for device in tables.choices[group]:
                allowed[list(nodes), device] = True
        self.tails = [
            _tails(np.where(allowed, self.seconds[phase], inf), successors[phase])
            for phase in (0, 1)
        ]
        devices = len(problem.devices)
        self.leaving: tuple[dict[int, Floats], ...] = ({}, {})
        for leaving, after in zip(self.leaving, successors, strict=True):
            for node in range(size):
                leaving[node] = np.zeros((devices, devices))
                for _, travel in after[node]:
                    np.maximum(leaving[node], travel, out=leaving[node])
        self.left = []
        for phase in (0, 1):
            least = np.where(allowed, self.seconds[phase], inf).min(axis=1)
            self.left.append(np.append(np.cumsum(least[::-1])[::-1], 0.0)[1:])
        self._memory(walk)

    def _memory(self, walk: Walk) -> None:
        problem, tables = self.tables.problem, self.tables
        self.limited = [d for d, c in enumerate(problem.capacity_nbytes) if c is not None]
        self.room = np.array([problem.capacity_nbytes[d] for d in self.limited], dtype=np.int64)
        total = np.zeros(problem.points + 1, dtype=np.int64)
        for hold in problem.holds:
            total[hold.first] += hold.nbytes
            total[hold.last + 1] -= hold.nbytes
        total = total.cumsum()[:-1]
        least_room = int(self.room.min()) if self.limited else 0
        tight = np.flatnonzero(total > least_room) if self.limited else np.zeros(0, dtype=np.int64)
        self.points = len(tight)
        self.all_limited = len(self.limited) == len(problem.devices)
        self.holds_from: list[list[int]] = [[] for _ in tables.groups]
        self.holds_until: list[int] = []
        self.spans: list[tuple[int, int, int]] = []
        need = np.zeros((len(problem.nodes), self.points), dtype=np.int64)
        inside = np.zeros_like(need)
        for hold in problem.holds:
            low = int(np.searchsorted(tight, hold.first))
            high = int(np.searchsorted(tight, hold.last, side="right"))
            if low >= high:
                continue
            groups = sorted({tables.group_of[node] for node in hold.nodes})
            starts = [self.first[group] for group in groups]
            for group in groups:
                self.holds_from[group].append(len(self.spans))
            self.holds_until.append(max(starts))
            self.spans.append((low, high, hold.nbytes))
            need[: min(starts), low:high] += hold.nbytes
            if not walk.inside.isdisjoint(hold.nodes):
                inside[: min(starts), low:high] += hold.nbytes
        self.need, self.need_inside = need, inside


def _tails(seconds: Floats, successors: Sequence[Sequence[tuple[int, Matrix]]]) -> Floats:
    """By node and device: how long a phase lasts at least once the node is done there."""
    tails = np.zeros_like(seconds)
    for node in reversed(range(len(seconds))):
        for target, travel in successors[node]:
            after = (np.array(travel) + (seconds[target] + tails[target])[None, :]).min(axis=1)
            np.maximum(tails[node], after, out=tails[node])
    return tails


class _Labels:
    """Labels of one place in the order, a row each.

    Attributes:
        free: by phase, label and device.
        done: by phase and node that is still to be read, a column over the labels.
        device: by group that later nodes ask for, a column over the labels.
        parts: by shared hold, a column of bit sets of devices.
        held: by label, limited device and point.
        used: by label, a bit set of the devices with nodes.
        bound: by label.
    """

    def __init__(self, tables: Tables, walk: Walk, known: float, width: int) -> None:
        self.tables = tables
        self.plan = _Plan(tables, walk)
        self.walk = walk
        self.users = Users(len(tables.problem.devices))
        self.width = width
        self.cutoff = known
        self.slack = ROUNDING * known if known < inf else 0.0
        devices = len(tables.problem.devices)
        self.devices = devices
        self.free = [np.zeros((1, devices)) for _ in (0, 1)]
        self.done: tuple[dict[int, Floats], ...] = ({}, {})
        self.device: dict[int, Integers] = {}
        self.parts: dict[int, Integers] = {}
        self.held = np.zeros((1, len(self.plan.limited), self.plan.points), dtype=np.int64)
        self.used = np.zeros(1, dtype=np.int64)
        self.bound = np.zeros(1)
        self.origins: list[tuple[Integers, Integers]] = []
        self.left_out = inf
        self.places = {node: place for place, node in enumerate(walk.chain)}
        self.fresh = [
            (devices_alike, sum(1 << device for device in devices_alike))
            for devices_alike in tables.interchangeable
        ]

    def run(self, effort: Effort) -> Labelled | None:
        size = len(self.tables.problem.nodes)
        numbers = 2 * self.devices + self.held.shape[1] * self.held.shape[2]
        for node in range(size):
            self._place(node)
            if not len(self.bound):
                break
            cost = len(self.bound) * (numbers + 2 * len(self.done[0]) + len(self.device))
            if not effort.spend(1 + UNITS_EACH * cost):
                return None
        placed = None
        if len(self.bound):
            at = int(self.bound.argmin())
            placed = self._trace(at)
        best = float(self.bound.min()) if len(self.bound) else inf
        return Labelled(placed, min(best, self.left_out), self.left_out == inf)

    def _trace(self, at: int) -> list[int]:
        placed = []
        for parent, device in reversed(self.origins):
            placed.append(int(device[at]))
            at = int(parent[at])
        return placed[::-1]

    def _place(self, node: int) -> None:
        """From the labels before a node to those after it."""
        plan = self.plan
        group = self.tables.group_of[node]
        opens = plan.first[group] == node
        if opens:
            parent, device = self._choices(group)
        else:
            parent, device = np.arange(len(self.bound)), self.device[group]
        bit = np.left_shift(1, device)
        ends, starts = [], []
        for phase in (0, 1):
            rows = self.free[phase][parent]
            start = rows[np.arange(len(parent)), device]
            for source, travel in plan.arrivals[phase][node]:
                column = self.done[phase][source][parent]
                home = self.device[self.tables.group_of[source]][parent]
                start = np.maximum(start, column + travel[home, device])
            end = start + plan.seconds[phase][node][device]
            rows[np.arange(len(parent)), device] = end
            starts.append(start)
            ends.append(end)
            # kept below, once it is known which labels stay
            self.free[phase] = rows
        bound = self._bounds(node, parent, device, starts, ends)
        keep = bound < self.cutoff
        held = None
        if opens and plan.points:
            held, fits = self._hold(node, group, parent, device)
            keep &= fits
        place = self.places.get(node)
        if place is not None:
            rest = self._rest(place, device, self.held[parent] if held is None else held)
            rest += ends[0] + starts[1] * self.walk.returns[place]
            bound = np.maximum(bound, rest)
            keep &= bound < self.cutoff
        chosen = np.flatnonzero(keep)
        self._select(node, group, parent, device, bit, ends, bound, held, chosen)
        self._reduce()

    def _choices(self, group: int) -> tuple[Integers, Integers]:
        """Every label with every device that the group may have; of equal new ones the first."""
        parents, devices = [], []
        for device in self.tables.choices[group]:
            open_to = np.ones(len(self.bound), dtype=bool)
            for alike, mask in self.fresh:
                if device in alike:
                    earlier = sum(1 << other for other in alike if other < device)
                    open_to = (self.used & earlier) == earlier
                    open_to |= (self.used >> device & 1).astype(bool)
            some = np.flatnonzero(open_to)
            parents.append(some)
            devices.append(np.full(len(some), device))
        return np.concatenate(parents), np.concatenate(devices)

    def _bounds(
        self,
        node: int,
        parent: Integers,
        device: Integers,
        starts: Sequence[Floats],
        ends: Sequence[Floats],
    ) -> Floats:
        """What no completion of a label is below."""
        plan = self.plan
        total = np.zeros(len(parent))
        for phase in (0, 1):
            rows = self.free[phase]
            least = rows.max(axis=1)
            least = np.maximum(least, (rows.sum(axis=1) + plan.left[phase][node]) / self.devices)
            least = np.maximum(least, ends[phase] + plan.tails[phase][node][device])
            for source, column in self.done[phase].items():
                home = self.device[self.tables.group_of[source]][parent]
                if plan.readers[phase][source] > node:
                    least = np.maximum(least, column[parent] + plan.tails[phase][source][home])
            total += least
        bound = np.maximum(self.bound[parent], total)
        return bound

    def _rest(self, place: int, device: Integers, held: Integers) -> Floats:
        """Seconds from a node of the chain on, over devices that have room for what is to come."""
        plan, users = self.plan, self.users
        need = plan.need_inside[self.walk.chain[place]]
        room = plan.room[None, :, None] - held
        rest = np.full(len(device), inf)
        for used in range(users.width):
            seconds = self.walk.rest[place][device, used]
            if users.by_set and not set(bits(used)) - set(plan.limited):
                inside = [plan.limited.index(there) for there in bits(used)]
                enough = (room[:, inside].sum(axis=1) >= need).all(axis=1)
                seconds = np.where(enough, seconds, inf)
            np.minimum(rest, seconds, out=rest)
        return rest

    def _hold(
        self, node: int, group: int, parent: Integers, device: Integers
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """What every device holds once a group is placed, and whether that can be enough."""
        plan = self.plan
        held = self.held[parent]
        for index, there in enumerate(plan.limited):
            here = device == there
            for hold in plan.holds_from[group]:
                low, high, nbytes = plan.spans[hold]
                fresh = here
                if hold in self.parts:
                    fresh = here & ((self.parts[hold][parent] >> there & 1) == 0)
                held[fresh, index, low:high] += nbytes
        fits = (held <= plan.room[None, :, None]).all(axis=(1, 2))
        if plan.all_limited:
            together = held.sum(axis=1) + plan.need[node][None, :]
            fits &= (together <= plan.room.sum()).all(axis=1)
        return held, fits

    def _select(
        self,
        node: int,
        group: int,
        parent: Integers,
        device: Integers,
        bit: Integers,
        ends: Sequence[Floats],
        bound: Floats,
        held: Integers | None,
        chosen: Integers,
    ) -> None:
        """Keep some of the new labels, with what later nodes ask for."""
        plan = self.plan
        before = parent[chosen]
        for phase in (0, 1):
            self.free[phase] = self.free[phase][chosen]
            kept = {
                source: column[before]
                for source, column in self.done[phase].items()
                if plan.readers[phase][source] > node
            }
            if plan.readers[phase][node] > node:
                kept[node] = ends[phase][chosen]
            self.done[phase].clear()
            self.done[phase].update(kept)
        self.device = {g: column[before] for g, column in self.device.items()}
        self.device[group] = device[chosen]
        asked = {self.tables.group_of[source] for done in self.done for source in done}
        self.device = {
            g: column
            for g, column in self.device.items()
            if g in asked or plan.groups_until[g] > node
        }
        parts = self.parts
        self.parts = {
            hold: column[before] for hold, column in parts.items() if plan.holds_until[hold] > node
        }
        if plan.first[group] == node:
            for hold in plan.holds_from[group]:
                if plan.holds_until[hold] > node:
                    column = parts[hold][before] if hold in parts else np.int64(0)
                    self.parts[hold] = column | bit[chosen]
        self.held = held[chosen] if held is not None else self.held[before]
        self.used = self.used[before] | bit[chosen]
        self.bound = bound[chosen]
        self.origins.append((before, device[chosen]))

    def _reduce(self) -> None:
        """Drop labels that others make needless, and the worst if there are too many."""
        count = len(self.bound)
        if count < 2:
            return
        columns = [*self.device.values(), *self.parts.values()]
        times = [*self.free, *(self._effective(phase) for phase in (0, 1))]
        table = np.concatenate(times, axis=1)
        order = np.lexsort((table.sum(axis=1), self.bound))
        if columns:
            key = np.stack(columns, axis=1)
            _, names = np.unique(key, axis=0, return_inverse=True)
            names = names.reshape(-1)
        else:
            names = np.zeros(count, dtype=np.int64)
        held = self.held.reshape(count, -1)
        alive = np.ones(count, dtype=bool)
        order = order[np.argsort(names[order], kind="stable")]
        edges = np.flatnonzero(np.diff(names[order])) + 1
        for rows in np.split(order, edges):
            self._compare(rows, table, held, alive)
        kept = np.flatnonzero(alive)
        if len(kept) > self.width:
            ranked = kept[np.argsort(self.bound[kept], kind="stable")]
            self.left_out = min(self.left_out, float(self.bound[ranked[self.width :]].min()))
            kept = np.sort(ranked[: self.width])
        if len(kept) == count:
            return
        self.free = [rows[kept] for rows in self.free]
        for done in self.done:
            for source in done:
                done[source] = done[source][kept]
        self.device = {group: column[kept] for group, column in self.device.items()}
        self.parts = {hold: column[kept] for hold, column in self.parts.items()}
        self.held, self.used, self.bound = self.held[kept], self.used[kept], self.bound[kept]
        parent, device = self.origins[-1]
        self.origins[-1] = (parent[kept], device[kept])

    def _compare(
        self, rows: Integers, table: Floats, held: Integers, alive: NDArray[np.bool_]
    ) -> None:
        left = rows
        for _ in range(RIVALS):
            if len(left) < 2:
                return
            rival, left = left[0], left[1:]
            worse = (table[left] >= table[rival] - self.slack).all(axis=1)
            some = np.flatnonzero(worse)
            worse[some] = (held[left[some]] >= held[rival]).all(axis=1)
            alive[left[worse]] = False
            left = left[~worse]

    def _effective(self, phase: int) -> Floats:
        """When values are done, as far as it matters: no device that is busy can use them sooner."""
        columns = []
        free = self.free[phase]
        travels = self.plan.leaving[phase]
        for source, column in self.done[phase].items():
            home = self.device[self.tables.group_of[source]]
            sooner = (free - travels[source][home]).min(axis=1)
            columns.append(np.maximum(column, sooner))
        return np.stack(columns, axis=1) if columns else np.zeros((len(free), 0))
