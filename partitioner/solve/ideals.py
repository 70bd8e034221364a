"""The best ordered split of a whole graph: a dynamic programme over its ideals.

An ideal is a set of groups that holds, with each group, all that must not come after it. When the
devices are ordered, what the first `k` of them hold together is an ideal, and the next device holds
the difference of two:

    best[k, J] = min over ideals I of J of  max(best[k-1, I], load of J - I)

A load is the work of the difference, plus each flow that comes in (open at `I`, with a target in
the difference), plus each that goes out (open at `J`, from within). A flow is open at an ideal that
has its source and not all of its targets; few are at a time, so that the loads of all `I` below one
`J` take a few array operations. Devices that look alike are counted, not named.

Only throughput with links that cost nothing themselves; memory as a sum over nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from partitioner.solve.effort import Effort
from partitioner.solve.state import Tables

MOST_IDEALS = 60_000
"""More than these are not listed."""
UNITS_EACH = 0.002
"""Effort of one pair of ideals."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Ordered:
    """The answer of the dynamic programme.

    Attributes:
        value: the least largest load of any ordered split below the known one; `inf` if none is.
        placed: the split, by node; `None` if none is better than the known one.
        exact: every ordered split was looked at. Groups that no watched pair touches, such as
            backward nodes of their own, are kept in line with their flows; then it is not.
    """

    value: float
    placed: list[int] | None
    exact: bool


def best_ordered_split(tables: Tables, known: float, effort: Effort) -> Ordered | None:
    """The best ordered split if it is below `known`; `None` when there are too many ideals."""
    if not applies(tables):
        return None
    pairs, exact = _pairs(tables)
    ideals = list_ideals(tables, pairs, MOST_IDEALS)
    if ideals is None:
        return None
    return _Programme(tables, ideals, exact=exact).solve(known, effort)


def _pairs(tables: Tables) -> tuple[list[tuple[int, int]], bool]:
    """What must not come after what; free groups stand between those that they read and feed.

    A free group is taken for a part of the backward, where flows run against the order.
    """
    pairs = list(tables.problem.ordered_pairs())
    touched = {node for pair in pairs for node in pair}
    loose = [
        (target, flow.source)
        for flow in tables.problem.flows
        for target in flow.targets
        if flow.source not in touched or target not in touched
    ]
    graph: nx.DiGraph[int] = nx.DiGraph([*pairs, *loose])
    if not loose or not nx.is_directed_acyclic_graph(graph):
        return pairs, not loose
    return pairs + loose, False


def applies(tables: Tables) -> bool:
    """Whether loads of devices and sums of memory are all there is to the problem."""
    problem = tables.problem
    return (
        problem.objective == "throughput"
        and problem.points == 1
        and not problem.separated
        and not any(any(map(any, travel)) for travel in tables.forward_travel)
        and not any(any(map(any, travel)) for travel in tables.backward_travel)
        and all(len(hold.nodes) == 1 for hold in problem.holds)
        and len(device_kinds(tables)) <= 2
        and all(len(nodes) == 1 for nodes in tables.groups)
    )


def device_kinds(tables: Tables) -> list[tuple[int, ...]]:
    """Classes of devices that look alike, single ones as well."""
    alike = {device for devices in tables.interchangeable for device in devices}
    kinds = list(tables.interchangeable)
    kinds += [(device,) for device in range(len(tables.problem.devices)) if device not in alike]
    return kinds


def list_ideals(tables: Tables, pairs: Sequence[tuple[int, int]], most: int) -> list[int] | None:
    """All ideals as bit sets, by work and then by size; `None` if there are more than `most`.

    An ideal comes after all those within it.
    """
    size = len(tables.groups)
    before = [0] * size
    after: list[list[int]] = [[] for _ in range(size)]
    for first, second in pairs:
        before[second] |= 1 << first
        after[first].append(second)
    seconds = [min(row) for row in tables.seconds]
    unit = sum(seconds) / 1e15 or 1.0
    ticks = [round(second / unit) for second in seconds]
    works = {0: 0}
    sources = tuple(node for node in range(size) if not before[node])
    layer: dict[int, tuple[int, ...]] = {0: sources}
    while layer:
        larger: dict[int, tuple[int, ...]] = {}
        for ideal, ready in layer.items():
            for node in ready:
                grown = ideal | 1 << node
                if grown in larger:
                    continue
                fresh = [
                    target
                    for target in after[node]
                    if before[target] & ~grown == 0 and not grown >> target & 1
                ]
                works[grown] = works[ideal] + ticks[node]
                larger[grown] = (*dict.fromkeys([*(r for r in ready if r != node), *fresh]),)
        if len(works) > most:
            return None
        layer = larger
    return sorted(works, key=lambda ideal: (works[ideal], ideal.bit_count()))


class _Programme:
    """Ideals, each after those within it, with their sums and open flows.

    Attributes:
        work: by kind of device and ideal, the seconds of all that it holds.
        left: by ideal and flow, how many targets are outside while the source is inside.
        border: by ideal, what all open flows cost together.
    """

    def __init__(self, tables: Tables, ideals: Sequence[int], *, exact: bool) -> None:
        self.tables = tables
        self.ideals = ideals
        self.exact = exact
        problem = tables.problem
        size = len(problem.nodes)
        self.kinds = device_kinds(tables)
        width = (size + 63) // 64 * 8
        raw = np.frombuffer(
            b"".join(ideal.to_bytes(width, "little") for ideal in ideals), dtype=np.uint8
        ).reshape(len(ideals), width)
        self.words = np.asfortranarray(raw.view(np.uint64))
        self.member = np.unpackbits(raw, axis=1, bitorder="little")[:, :size]
        inside = self.member.astype(np.float64)
        seconds = np.array(tables.seconds)
        sizes = np.zeros(size)
        for hold in problem.holds:
            sizes[hold.nodes[0]] += hold.nbytes
        self.least = inside @ seconds.min(axis=1)
        self.work = [inside @ np.minimum(seconds[:, kind[0]], 1e18) for kind in self.kinds]
        self.held = inside @ sizes
        self.prices = np.array([flow.endpoint_seconds for flow in problem.flows])
        self.left = np.zeros((len(ideals), len(problem.flows)), dtype=np.int16)
        for index, flow in enumerate(problem.flows):
            here = self.member[:, list(flow.targets)].sum(axis=1)
            self.left[:, index] = (len(flow.targets) - here) * self.member[:, flow.source]
        self.border = (self.left > 0) @ self.prices

    def solve(self, known: float, effort: Effort) -> Ordered | None:
        """Fill the table, smaller ideals first; `None` when the effort runs out."""
        shape = tuple(len(kind) + 1 for kind in self.kinds)
        best = np.full((len(self.ideals), *shape), inf)
        best[(0,) * (len(shape) + 1)] = 0.0
        origin = np.zeros((len(self.ideals), *shape), dtype=np.int32)
        taken = np.zeros((len(self.ideals), *shape), dtype=np.int8)
        alive = np.zeros(len(self.ideals), dtype=bool)
        alive[0] = True
        room = self._room(known, shape)
        left_work = self.least[-1] - self.least
        for ideal in range(1, len(self.ideals)):
            hopeless = left_work[ideal] > room
            if hopeless.all():
                continue
            below, loads = self._loads(ideal, known, alive)
            if not effort.spend(UNITS_EACH * (ideal + 20 * len(below))):
                return None
            for kind, load in enumerate(loads):
                fits = np.flatnonzero(load < known)
                if not len(fits):
                    continue
                fewer: tuple[slice, ...] = tuple(
                    slice(0, -1) if axis == kind else slice(None) for axis in range(len(shape))
                )
                more: tuple[Any, ...] = (
                    ideal,
                    *(
                        slice(1, None) if axis == kind else slice(None)
                        for axis in range(len(shape))
                    ),
                )
                before = best[below[fits]][(slice(None), *fewer)]
                extended = np.maximum(before, load[fits].reshape(-1, *[1] * len(shape)))
                chosen = extended.argmin(axis=0)
                value = np.take_along_axis(extended, chosen[None], axis=0)[0]
                current = best[more]
                improves = value < current
                current[improves] = value[improves]
                origin[more][improves] = below[fits][chosen[improves]]
                taken[more][improves] = kind
            best[ideal][hopeless] = inf
            alive[ideal] = best[ideal].min() < known
        last = best[-1]
        value = float(last.min())
        if not value < known:
            return Ordered(inf, None, self.exact)
        state = [int(used) for used in np.unravel_index(int(last.argmin()), shape)]
        return Ordered(value, self._placed(state, origin, taken), self.exact)

    def _room(self, known: float, shape: tuple[int, ...]) -> Floats:
        """By state, the most work that the devices not yet used can take below the known value."""
        seconds = np.array(self.tables.seconds)
        least = seconds.min(axis=1)
        if known == inf:
            return np.full(shape, inf)
        room = np.zeros(shape)
        for axis, kind in enumerate(self.kinds):
            there = seconds[:, kind[0]]
            some = least > 0
            speed = float((least[some] / there[some]).max(initial=0.0))
            free = (len(kind) - np.arange(shape[axis])) * known * speed * (1 + 1e-9)
            room = room + free.reshape([-1 if other == axis else 1 for other in range(len(shape))])
        return room

    def _loads(
        self, ideal: int, known: float, alive: NDArray[np.bool_]
    ) -> tuple[NDArray[np.intp], list[Floats]]:
        """Ideals below one, and what the difference costs on each kind of device."""
        problem = self.tables.problem
        first = int(np.searchsorted(self.least[:ideal], self.least[ideal] - known * (1 + 1e-9)))
        below = np.arange(first, ideal)[alive[first:ideal]]
        for word in range(self.words.shape[1]):
            outside = ~self.words[ideal, word]
            below = below[self.words[below, word] & outside == 0]
        same = np.zeros(len(below))
        out = np.zeros(len(below))
        for flow in np.flatnonzero(self.left[ideal]):
            price = self.prices[flow]
            same += price * (self.left[below, flow] == self.left[ideal, flow])
            out += price * (self.member[below, problem.flows[flow].source] == 0)
        crossing = self.border[below] - same + out
        loads = []
        for kind, work in zip(self.kinds, self.work, strict=True):
            load = work[ideal] - work[below]
            if problem.pays(kind[0]):
                load = load + crossing
            capacity = problem.capacity_nbytes[kind[0]]
            if capacity is not None:
                load = np.where(self.held[ideal] - self.held[below] > capacity, inf, load)
            loads.append(load)
        return below, loads

    def _placed(
        self, state: list[int], origin: NDArray[np.int32], taken: NDArray[np.int8]
    ) -> list[int]:
        placed = [0] * len(self.tables.problem.nodes)
        ideal = len(self.ideals) - 1
        while ideal:
            at = (ideal, *state)
            before, kind = int(origin[at]), int(taken[at])
            state[kind] -= 1
            device = self.kinds[kind][state[kind]]
            for node in np.flatnonzero(self.member[ideal] - self.member[before]):
                placed[int(node)] = device
            ideal = before
        return placed
