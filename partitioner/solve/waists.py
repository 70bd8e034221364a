"""A bound on latency for deep models: segment by segment along the longest chain.

Along a path `a0 -> a1 -> ...` every node that lies between two neighbours runs after the one
finishes and before the other starts. So a step takes at least the sum of what each segment takes,
and a segment that is not divided takes all of its nodes, one after the other:

    a_j ──► nodes between ──► a_j+1        same device: their sum
                                           divided:     the longest path with its transfers

The least total is found over the device of every `a_j` and over which devices are in use at all,
which must hold together what the segments need (`memory`). It equals the optimum where leaving a
device costs more than running branches side by side brings, as in a transformer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf

import numpy as np
from numpy.typing import NDArray

from partitioner.solve.evaluate import everything_nbytes
from partitioner.solve.segments import Option, Phase, Segment, Segments, Span, bits
from partitioner.solve.state import Matrix, Tables

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

MOST_NODES = 6000
"""Reachability is quadratic: beyond this the longest path alone must do."""
MOST_DEVICES = 4
"""Up to here sets of devices in use are told apart; beyond, only how many they are."""
LONGEST_SEGMENT = 48
"""Neighbours on the chain are at most this many nodes of the longest path apart."""


@dataclass(frozen=True, slots=True)
class Walk:
    """The cheapest way along the chain.

    Attributes:
        seconds: no assignment has a smaller latency; `inf` when none can fit into memory.
        placed: an assignment that goes this way, by node; `None` where there is no way.
        chain: its nodes.
        inside: all nodes that lie on its way, as the chain or in segments.
        rest: by node of the chain, its device and the devices that the rest uses, that one
            included: the least that the rest takes. See `Users`.
        returns: by node of the chain, whether that rest is finished in the backward before the node
            runs.
    """

    seconds: float
    placed: tuple[int, ...] | None
    chain: tuple[int, ...] = ()
    inside: frozenset[int] = frozenset()
    rest: tuple[Floats, ...] = ()
    returns: tuple[bool, ...] = ()


def cheapest_walk(tables: Tables) -> Walk:
    """Bound the latency from below, with an assignment that may come close."""
    size = len(tables.problem.nodes)
    if not 0 < size <= MOST_NODES:
        return Walk(0.0, None)
    forward = _phase(tables, tables.problem.forward_seconds, tables.incoming, backwards=False)
    chain = _chain(tables, forward, 14)
    phases = [forward]
    if tables.trains:
        phases.append(
            _phase(tables, tables.problem.backward_seconds, tables.gradients, backwards=True)
        )
    connected = [_connected(phase, chain) for phase in phases]
    segments = _segments(tables, phases, chain, connected)
    inside = {node for node in chain if node < size}
    inside.update(node for segment in segments for node in segment.nodes)
    need = everything_nbytes(tables.problem, inside)
    rest = _rest(segments, len(tables.problem.devices))
    users = Users(len(tables.problem.devices))
    ends = np.where(users.fit(tables.problem.capacity_nbytes, need), rest[0], inf)
    seconds = float(ends.min())
    if seconds == inf:
        return Walk(inf, None)
    device, used = divmod(int(ends.argmin()), ends.shape[1])
    placed = _placed(tables, chain, segments, rest, device, used)
    return Walk(
        seconds,
        placed,
        tuple(chain[1:-1]),
        frozenset(inside),
        tuple(rest[1:-1]),
        tuple(connected[-1][1:]),
    )


def _phase(
    tables: Tables,
    seconds: Matrix,
    arrivals: Sequence[Sequence[tuple[int, Matrix]]],
    *,
    backwards: bool,
) -> Phase:
    size = len(arrivals)
    devices = len(tables.problem.devices)
    nothing = ((0.0,) * devices,) * devices
    first, last = (size + 1, size) if backwards else (size, size + 1)
    nodes = range(size - 1, -1, -1) if backwards else range(size)
    lists: list[list[tuple[int, Matrix]]] = [
        [(first, nothing), *arrivals[node]] for node in range(size)
    ]
    ends: dict[int, list[tuple[int, Matrix]]] = {
        first: [],
        last: [(node, nothing) for node in nodes],
    }
    lists += [ends[size], ends[size + 1]]
    order = (first, *nodes, last)
    back = [0] * len(lists)
    reach = [0] * len(lists)
    for node in order:
        for source, _ in lists[node]:
            back[node] |= back[source] | 1 << source
    for node in reversed(order):
        for source, _ in lists[node]:
            reach[source] |= reach[node] | 1 << node
    return Phase(order, lists, (*seconds, nothing[0], nothing[0]), reach, back)


def _chain(tables: Tables, forward: Phase, most: int) -> list[int]:
    """The nodes of the longest path that leave the least work outside of their segments.

    Of segments with more than `most` nodes only the path counts.
    """
    size = len(tables.problem.nodes)
    seconds = [min(row) for row in tables.seconds] + [0.0, 0.0]
    largest = max(seconds) or 1.0
    weights = np.array([round(value / largest * 1e9) for value in seconds], dtype=np.int64)
    path = _longest_path(forward, weights.tolist())
    width = (size + 9) // 8

    def weight(mask: int) -> int:
        bits = np.unpackbits(
            np.frombuffer(mask.to_bytes(width, "little"), dtype=np.uint8), bitorder="little"
        )
        return int(weights[: len(bits)] @ bits[: len(weights)])

    on_path = sum(1 << node for node in path)
    best: list[tuple[int, int, int]] = [(0, 0, 0)]
    for later in range(1, len(path)):
        end = path[later]
        options = []
        for earlier in range(max(0, later - LONGEST_SEGMENT), later):
            inner = forward.reach[path[earlier]] & forward.back[end]
            if inner.bit_count() > most:
                inner &= on_path
            caught = weight(inner)
            options.append((best[earlier][0] + caught, best[earlier][1] + 1, earlier))
        caught_best = max(options)
        best.append((caught_best[0] + int(weights[end]), *caught_best[1:]))
    chain = [len(path) - 1]
    while chain[-1]:
        chain.append(best[chain[-1]][2])
    return [path[place] for place in reversed(chain)]


def _longest_path(phase: Phase, weights: Sequence[int]) -> list[int]:
    longest = [0] * len(phase.arrivals)
    before: dict[int, int] = {}
    for node in phase.order:
        for source, _ in phase.arrivals[node]:
            if node not in before or longest[source] > longest[before[node]]:
                before[node] = source
        longest[node] = weights[node] + (longest[before[node]] if node in before else 0)
    path = [phase.order[-1]]
    while path[-1] in before:
        path.append(before[path[-1]])
    return path[::-1]


def _connected(phase: Phase, chain: Sequence[int]) -> list[bool]:
    """By segment, whether it and all later ones are one piece in a phase."""
    pieces = [
        bool(phase.reach[later] >> earlier & 1 or phase.reach[earlier] >> later & 1)
        for earlier, later in pairwise(chain)
    ]
    return [all(pieces[place:]) for place in range(len(pieces))]


def _segments(
    tables: Tables,
    phases: Sequence[Phase],
    chain: Sequence[int],
    connected: Sequence[Sequence[bool]],
) -> list[Segment]:
    """What lies between neighbours on the chain; the backward only where it is one piece."""
    maker = Segments(tables)
    segments = []
    for place, (earlier, later) in enumerate(pairwise(chain)):
        spans = []
        for backwards, phase in enumerate(phases):
            if connected[backwards][place]:
                entry, end = (later, earlier) if backwards else (earlier, later)
                spans.append(Span(phase, entry, phase.between(entry, end), bool(backwards)))
        segments.append(maker.of(spans, (earlier, later)))
    return segments


class Users:
    """Devices in use: as a bit set, or as their number where there are many."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.by_set = count <= MOST_DEVICES
        self.width = 1 << count if self.by_set else count + 1

    def alone(self, device: int) -> int:
        """One device by itself."""
        return 1 << device if self.by_set else 1

    def joined(self, first: int, second: int, option: Option) -> Integers:
        """By devices used after a segment, those used with it."""
        if self.by_set:
            return np.arange(self.width) | 1 << first | 1 << second | option.guests
        entered = (second != first) + option.guests.bit_count()
        return np.minimum(self.count, np.arange(self.width) + entered)

    def fit(self, capacities: Sequence[int | None], need: int) -> NDArray[np.bool_]:
        """By devices in use, whether they hold so many bytes together."""
        if not self.by_set:
            return np.arange(self.width) >= _fewest_devices(capacities, need)
        return np.array(
            [
                any(capacities[d] is None for d in bits(used))
                or sum(capacities[d] or 0 for d in bits(used)) >= need
                for used in range(self.width)
            ]
        )


def _rest(segments: Sequence[Segment], count: int) -> list[Floats]:
    """By place on the chain, device there and devices in use from there on: the least seconds."""
    users = Users(count)
    end = np.full((count, users.width), inf)
    for device in range(count):
        end[device, users.alone(device)] = 0.0
    rest = [end]
    for place in reversed(range(len(segments))):
        before = np.full_like(end, inf)
        for (first, second), option in _ways(segments, place):
            through = option.seconds + rest[-1][second]
            np.minimum.at(before[first], users.joined(first, second, option), through)
        rest.append(before)
    return rest[::-1]


def _ways(segments: Sequence[Segment], place: int) -> Iterator[tuple[tuple[int, int], Option]]:
    """The options of a segment by the devices of its ends."""
    loose = place in (0, len(segments) - 1)
    for (first, second), options in segments[place].options.items():
        if not loose or first == second:
            for option in options:
                yield (first, second), option


def _placed(
    tables: Tables,
    chain: Sequence[int],
    segments: Sequence[Segment],
    rest: Sequence[Floats],
    device: int,
    used: int,
) -> tuple[int, ...]:
    """The assignment of a walk; nodes that it does not decide follow the one before them."""
    size = len(tables.problem.nodes)
    users = Users(len(tables.problem.devices))
    devices: dict[int, int] = {}
    for place, segment in enumerate(segments):
        steps = [
            (option.seconds + float(rest[place + 1][second, later]), second, int(later), option)
            for (first, second), option in _ways(segments, place)
            if first == device
            for later in np.flatnonzero(users.joined(first, second, option) == used)
        ]
        _, following, used, option = min(steps, key=lambda step: step[0])
        for node, inside in zip(segment.nodes, option.placed, strict=False):
            devices[node] = inside
        for node in segment.nodes:
            devices.setdefault(node, device)
        devices[chain[place + 1]] = device = following
    placed = []
    current = devices[chain[1]]
    for node in range(size):
        current = devices.get(node, current)
        placed.append(current)
    first_of = {group: placed[nodes[0]] for group, nodes in enumerate(tables.groups)}
    return tuple(
        first_of[group] if first_of[group] in tables.choices[group] else tables.choices[group][0]
        for group in tables.group_of
    )


def _fewest_devices(capacities: Sequence[int | None], need: int) -> int:
    """How many devices it takes at least to hold `need` bytes; one more than there are if never."""
    if any(capacity is None for capacity in capacities):
        return 1
    held = 0
    largest_first = sorted((c for c in capacities if c is not None), reverse=True)
    for number, capacity in enumerate(largest_first, start=1):
        held += capacity
        if held >= need:
            return number
    return len(capacities) + 1
