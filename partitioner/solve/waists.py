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

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf

import numpy as np

from partitioner.solve.evaluate import everything_nbytes
from partitioner.solve.segments import Option, Phase, Segment, Segments, Span, bits
from partitioner.solve.state import Matrix, Tables

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
    """

    seconds: float
    placed: tuple[int, ...] | None


def cheapest_walk(tables: Tables) -> Walk:
    """Bound the latency from below, with an assignment that may come close."""
    size = len(tables.problem.nodes)
    if not 0 < size <= MOST_NODES:
        return Walk(0.0, None)
    forward = _phase(tables, tables.problem.forward_seconds, tables.incoming, backwards=False)
    chain = _chain(tables, forward)
    phases = [forward]
    if tables.trains:
        phases.append(
            _phase(tables, tables.problem.backward_seconds, tables.gradients, backwards=True)
        )
    segments = _segments(tables, phases, chain)
    inside = {node for node in chain if node < size}
    inside.update(node for segment in segments for node in segment.nodes)
    return _walk(tables, chain, segments, everything_nbytes(tables.problem, inside))


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


def _chain(tables: Tables, forward: Phase) -> list[int]:
    """The nodes of the longest path that leave the least work outside of their segments."""
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

    best: list[tuple[int, int, int]] = [(0, 0, 0)]
    for later in range(1, len(path)):
        end = path[later]
        options = []
        for earlier in range(max(0, later - LONGEST_SEGMENT), later):
            caught = weight(forward.reach[path[earlier]] & forward.back[end])
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


def _segments(tables: Tables, phases: Sequence[Phase], chain: Sequence[int]) -> list[Segment]:
    """What lies between neighbours on the chain; the backward only where it is one piece."""
    connected = [
        [
            bool(phase.reach[later] >> earlier & 1 or phase.reach[earlier] >> later & 1)
            for earlier, later in pairwise(chain)
        ]
        for phase in phases
    ]
    maker = Segments(tables)
    segments = []
    for place, (earlier, later) in enumerate(pairwise(chain)):
        spans = []
        for backwards, phase in enumerate(phases):
            if all(connected[backwards][place:]):
                entry, end = (later, earlier) if backwards else (earlier, later)
                spans.append(Span(phase, entry, phase.between(entry, end), bool(backwards)))
        segments.append(maker.of(spans, (earlier, later)))
    return segments


State = tuple[int, int]
"""The device of a chain node; and the devices in use, as a set or as their number."""


def _walk(tables: Tables, chain: Sequence[int], segments: Sequence[Segment], need: int) -> Walk:
    """The least sum over the device of every chain node and the devices in use.

    Those must hold `need` bytes together. The ends of the whole chain are not nodes: they are
    wherever their neighbour is.
    """
    capacities = tables.problem.capacity_nbytes
    count = len(capacities)
    by_set = count <= MOST_DEVICES
    best: dict[State, float] = {
        (device, 1 << device if by_set else 1): 0.0 for device in range(count)
    }
    origins: list[dict[State, tuple[State, Option]]] = []
    for place, segment in enumerate(segments):
        loose = place in (0, len(segments) - 1)
        following: dict[State, float] = {}
        origin: dict[State, tuple[State, Option]] = {}
        for state, before in best.items():
            for second in range(count):
                if loose and second != state[0]:
                    continue
                for option in segment.options.get((state[0], second), ()):
                    if by_set:
                        used = state[1] | 1 << second | option.guests
                    else:
                        entered = (second != state[0]) + option.guests.bit_count()
                        used = min(count, state[1] + entered)
                    seconds = before + option.seconds
                    if seconds < following.get((second, used), inf):
                        following[second, used] = seconds
                        origin[second, used] = (state, option)
        best = following
        origins.append(origin)
    fewest = _fewest_devices(capacities, need)

    def fits(used: int) -> bool:
        if not by_set:
            return used >= fewest
        room = [capacities[device] for device in bits(used)]
        return any(c is None for c in room) or sum(c for c in room if c is not None) >= need

    ends = [(seconds, state) for state, seconds in best.items() if fits(state[1])]
    if not ends or fewest > count:
        return Walk(inf, None)
    seconds, state = min(ends)
    return Walk(seconds, _placed(tables, chain, segments, origins, state))


def _placed(
    tables: Tables,
    chain: Sequence[int],
    segments: Sequence[Segment],
    origins: Sequence[dict[State, tuple[State, Option]]],
    last: State,
) -> tuple[int, ...]:
    """The assignment of a walk; nodes that it does not decide follow the one before them."""
    size = len(tables.problem.nodes)
    devices: dict[int, int] = {}
    state = last
    for place in reversed(range(len(segments))):
        devices[chain[place + 1]] = state[0]
        state, option = origins[place][state]
        for node, device in zip(segments[place].nodes, option.placed, strict=False):
            devices[node] = device
        for node in segments[place].nodes:
            devices.setdefault(node, state[0])
    placed = []
    current = devices[chain[1]]
    for node in range(size):
        current = devices.get(node, current)
        placed.append(current)
    first = {group: placed[nodes[0]] for group, nodes in enumerate(tables.groups)}
    return tuple(
        first[group] if first[group] in tables.choices[group] else tables.choices[group][0]
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
