"""What one segment of a deep model takes at least, for each way to use devices inside of it.

A segment is what runs between two nodes. Small ones are simulated for every placement; of larger
ones the longest path is taken, with its transfers, or the sum of all nodes when all share a device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import inf

import numpy as np
from numpy.typing import NDArray

from partitioner.solve.state import Matrix, Tables

Placed = NDArray[np.int64]
Seconds = NDArray[np.float64]
MOST_SIMULATIONS = 100_000
"""Of one segment; blocks that repeat are simulated once."""


@dataclass(frozen=True, slots=True)
class Phase:
    """The forward or the backward, with a node before all others and one after all.

    Attributes:
        order: nodes as they run.
        arrivals: by node, who must be finished first, and the travel from there.
        seconds: by node and device.
        reach: by node, a bit set of the nodes that wait for it, at once or at length.
        back: by node, a bit set of the nodes that it waits for.
    """

    order: tuple[int, ...]
    arrivals: list[list[tuple[int, Matrix]]]
    seconds: Matrix
    reach: list[int]
    back: list[int]

    def between(self, entry: int, end: int) -> tuple[int, ...]:
        """Nodes that run after `entry` and before `end` in any schedule, then `end` itself."""
        inner = set(bits(self.reach[entry] & self.back[end]))
        return (*(node for node in self.order if node in inner), end)


def bits(mask: int) -> list[int]:
    """The places of the ones, ascending."""
    found = []
    while mask:
        low = mask & -mask
        found.append(low.bit_length() - 1)
        mask ^= low
    return found


@dataclass(frozen=True, slots=True)
class Span:
    """A segment in one phase: `inner` runs after `entry`, the last one of it at the end.

    `backwards` when the entry is the later end of the segment.
    """

    phase: Phase
    entry: int
    inner: tuple[int, ...]
    backwards: bool


@dataclass(frozen=True, slots=True)
class Option:
    """One way through a segment.

    Attributes:
        guests: a bit set of the devices in use other than those of the two ends.
        seconds: what it takes at least, all phases together.
        placed: devices of `Segment.nodes`; empty where only a bound is known.
    """

    guests: int
    seconds: float
    placed: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Segment:
    """All that is worth knowing of a segment.

    Attributes:
        nodes: those between its ends, in all phases.
        options: by the devices of the earlier and the later end.
    """

    nodes: tuple[int, ...]
    options: dict[tuple[int, int], list[Option]]


class Segments:
    """Makes segments, and remembers those of blocks that repeat."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self.known: dict[object, dict[tuple[int, int], list[Option]]] = {}

    def of(self, spans: Sequence[Span], ends: tuple[int, int]) -> Segment:
        """The segment with these spans, between an earlier and a later end."""
        size = len(self.tables.problem.nodes)
        nodes = tuple(sorted({node for span in spans for node in span.inner[:-1] if node < size}))
        devices = len(self.tables.problem.devices)
        if devices ** (len(nodes) + 2) > MOST_SIMULATIONS:
            return Segment(nodes, _bounds(self.tables, spans, nodes))
        local = _Local(self.tables, spans, ends, nodes)
        if local.key not in self.known:
            self.known[local.key] = local.simulate()
        return Segment(nodes, self.known[local.key])


class _Local:
    """A small segment with its own numbering, so that repeated blocks look the same.

    Places `0` and `1` are the ends, the nodes between follow.
    """

    def __init__(
        self,
        tables: Tables,
        spans: Sequence[Span],
        ends: tuple[int, int],
        nodes: Sequence[int],
    ) -> None:
        order = (*ends, *nodes)
        place = {node: index for index, node in enumerate(order)}
        self.devices = len(tables.problem.devices)
        self.choices = tuple(tuple(_choices(tables, node)) for node in order)
        groups = [
            tables.group_of[node] if node < len(tables.group_of) else -1 - node for node in order
        ]
        self.same = tuple(groups.index(group) for group in groups)
        self.phases = tuple(
            tuple(
                (
                    place[node],
                    tuple(span.phase.seconds[node]),
                    tuple(
                        (place[source], travel)
                        for source, travel in span.phase.arrivals[node]
                        if source == span.entry or source in span.inner
                    ),
                )
                for node in span.inner
            )
            for span in spans
        )
        self.key = (self.choices, self.same, self.phases)

    def simulate(self) -> dict[tuple[int, int], list[Option]]:
        """The best placement for each pair of ends and each set of guests; of equals the first."""
        grid = np.meshgrid(*self.choices, indexing="ij")
        placed = np.stack([axis.ravel() for axis in grid])
        placed = placed[:, (placed == placed[list(self.same)]).all(axis=0)]
        seconds = sum((self._makespans(phase, placed) for phase in self.phases), np.zeros(1))
        guests = np.bitwise_or.reduce(1 << placed[2:], axis=0) & ~(1 << placed[0] | 1 << placed[1])
        options: dict[tuple[int, int], list[Option]] = {}
        for ends in product(self.choices[0], self.choices[1]):
            (here,) = np.nonzero((placed[0] == ends[0]) & (placed[1] == ends[1]))
            _, first = np.unique(guests[here], return_index=True)
            quickest = here[np.lexsort((seconds[here], guests[here]))]
            _, best = np.unique(guests[quickest], return_index=True)
            options[ends] = [
                Option(int(guests[k]), float(seconds[k]), tuple(placed[2:, k].tolist()))
                for k in quickest[best[np.argsort(first)]].tolist()
            ]
        return options

    def _makespans(
        self,
        phase: Sequence[tuple[int, tuple[float, ...], tuple[tuple[int, Matrix], ...]]],
        placed: Placed,
    ) -> Seconds:
        """By column of `placed`, what a phase takes."""
        columns = np.arange(placed.shape[1])
        finish = np.zeros(placed.shape)
        free = np.zeros((self.devices, len(columns)))
        end = np.zeros(len(columns))
        for node, seconds, arrivals in phase:
            device = placed[node]
            start = free[device, columns]
            for source, travel in arrivals:
                arrived = finish[source] + np.asarray(travel)[placed[source], device]
                start = np.maximum(start, arrived)
            end = start + np.asarray(seconds)[device]
            finish[node] = free[device, columns] = end
        return end


def _bounds(
    tables: Tables, spans: Sequence[Span], nodes: Sequence[int]
) -> dict[tuple[int, int], list[Option]]:
    """Options of a segment that is too large to simulate, by its longest paths."""
    devices = range(len(tables.problem.devices))
    shortest = {(a, b): 0.0 for a in devices for b in devices}
    through = {ends: {(n, d): 0.0 for n in nodes for d in devices} for ends in shortest}
    for span in spans:
        heads = [_heads(tables, span, device) for device in devices]
        tails = [_tails(tables, span, device) for device in devices]
        for start in devices:
            for end in devices:
                ends = (end, start) if span.backwards else (start, end)
                least = heads[start][span.inner[-1]][end]
                shortest[ends] += least
                for node, device in through[ends]:
                    via = least
                    if node in heads[start]:
                        via = max(least, heads[start][node][device] + tails[end][node][device])
                    through[ends][node, device] += via
    options = {}
    for ends, least in shortest.items():
        visits = sorted(
            (min((through[ends][node, device] for node in nodes), default=inf), device)
            for device in devices
            if device not in ends
        )
        alone = _whole(tables, spans, ends[0]) if ends[0] == ends[1] else least
        options[ends] = [Option(0, alone, ())]
        options[ends] += [
            Option(guests, max([least, *(visit for visit, d in visits if guests >> d & 1)]), ())
            for guests in _guest_sets([device for _, device in visits])
            if guests.bit_count() <= len(nodes)
        ]
    return options


def _guest_sets(devices: Sequence[int]) -> list[int]:
    """All sets of a few devices; of many, the first one, the first two and so on."""
    if len(devices) <= 3:
        sets = [0]
        for device in devices:
            sets += [known | 1 << device for known in sets]
        return sets[1:]
    return [sum(1 << device for device in devices[:size]) for size in range(1, len(devices) + 1)]


def _whole(tables: Tables, spans: Sequence[Span], device: int) -> float:
    """All of it on one device, one thing after the other."""
    if not all(device in _choices(tables, node) for span in spans for node in span.inner):
        return inf
    return sum(span.phase.seconds[node][device] for span in spans for node in span.inner)


def _choices(tables: Tables, node: int) -> Sequence[int]:
    if node >= len(tables.group_of):
        return range(len(tables.problem.devices))
    return tables.choices[tables.group_of[node]]


def _heads(tables: Tables, span: Span, start: int) -> dict[int, list[float]]:
    """By inner node and device: how long after `entry`, on `start`, it finishes at the earliest."""
    devices = range(len(tables.problem.devices))
    finish: dict[int, list[float]] = {
        span.entry: [0.0 if device == start else inf for device in devices]
    }
    for node in span.inner:
        row = []
        for device in devices:
            if device not in _choices(tables, node):
                row.append(inf)
                continue
            begin = 0.0
            for source, travel in span.phase.arrivals[node]:
                if source in finish:
                    known = finish[source]
                    begin = max(begin, min(known[o] + travel[o][device] for o in devices))
            row.append(begin + span.phase.seconds[node][device])
        finish[node] = row
    del finish[span.entry]
    return finish


def _tails(tables: Tables, span: Span, end: int) -> dict[int, list[float]]:
    """By inner node and device: how long before the end of the last one, on `end`, it is done."""
    devices = range(len(tables.problem.devices))
    last = span.inner[-1]
    tail: dict[int, list[float]] = {node: [0.0 for _ in devices] for node in span.inner}
    tail[last] = [0.0 if device == end else inf for device in devices]
    for node in reversed(span.inner):
        after = [
            span.phase.seconds[node][device] + tail[node][device]
            if device in _choices(tables, node)
            else inf
            for device in devices
        ]
        for source, travel in span.phase.arrivals[node]:
            if source in tail and source != node:
                for device in devices:
                    tail[source][device] = max(
                        tail[source][device], min(travel[device][o] + after[o] for o in devices)
                    )
    return tail
