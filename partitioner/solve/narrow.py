"""A line through all groups that few flows span at a time, and the states along it.

Seen from one device, each group is within its share or not. What the groups so far mean for those
to come is a state: of each flow that has an end on either side of the line's place, whether its
ends so far are all within the share, all without, or both, which is paid for. In an order of
devices, a group is on an earlier device, on this one or on a later one, and the state keeps which
it is, as long as a group is to come that must not be before it or after it. Models are narrow:
there are few states at a time, though there are many shares.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from partitioner.solve.state import Tables

Indices = NDArray[np.int64]
Net = tuple[tuple[int, ...], float]
End = tuple[str, int]

MOST_GROUPS = 2_000
MOST_ARCS = 20_000
"""From a state to the next one, all groups together."""
LINES = 12
"""Lines that are tried."""
SPARED = (0.0, 1e-3, 1e-2, 0.1)
"""What all flows that cross for nothing may cost together, as a share of the limit."""
BEFORE, WITHIN, AFTER = range(3)
"""Where a group can be, seen from the device; `BEFORE` also where there is no order."""
SPLIT = 2
"""A flow with ends on both sides; otherwise it is 1 or 0, all within or all without."""


@dataclass(frozen=True, slots=True)
class Arcs:
    """Ways from a state to the next one that cost the same, no two of them to one state.

    Attributes:
        within: whether the group is part of the share.
        price: of the flows that are split by that.
        sources: states before the group.
        targets: states after it.
    """

    within: bool
    price: float
    sources: Indices
    targets: Indices


@dataclass(frozen=True, slots=True)
class Step:
    """One group of a line: the number of states after it, and the ways there."""

    group: int
    states: int
    arcs: tuple[Arcs, ...]


@dataclass(frozen=True, slots=True)
class Line:
    """All groups, one after the other, and how many arcs there are."""

    steps: tuple[Step, ...]
    arcs: int


def narrow_line(tables: Tables, limit: float, *, pays: bool) -> Line | None:
    """A line with few states, for devices that pay for flows or do not; `None` if there is none.

    Where there are too many states, flows cross for nothing, the cheapest ones first, which are as
    good as nothing beside the limit: still nothing is worth less than the truth.
    """
    size = len(tables.groups)
    if size > MOST_GROUPS:
        return None
    nets = _nets(tables) if pays else []
    pairs = {
        (tables.group_of[first], tables.group_of[second])
        for first, second in (tables.problem.ordered_pairs() if tables.problem.contiguous else ())
        if tables.group_of[first] != tables.group_of[second]
    }
    starts = dict.fromkeys(turn * size // LINES for turn in range(LINES))
    below = np.cumsum([price for _, price in nets])
    for first in dict.fromkeys(np.searchsorted(below, limit * np.array(SPARED), side="right")):
        dear = nets[first:]
        ends = [pins for pins, _ in dear] + sorted(pairs)
        order = min((_order(size, ends, start) for start in starts), key=lambda found: found[0])[1]
        line = _line(order, dear, pairs, MOST_ARCS)
        if line is not None:
            return line
    return None


def _nets(tables: Tables) -> list[Net]:
    """The groups at the ends of each flow, with its price."""
    nets: dict[tuple[int, ...], float] = {}
    for flow in tables.problem.flows:
        pins = tuple(sorted({tables.group_of[node] for node in (flow.source, *flow.targets)}))
        if len(pins) > 1 and flow.endpoint_seconds:
            nets[pins] = nets.get(pins, 0.0) + flow.endpoint_seconds
    return sorted(nets.items(), key=lambda net: net[1])


def _order(size: int, ends: Sequence[tuple[int, ...]], start: int) -> tuple[float, list[int]]:
    """All groups from one on: next comes the one that leaves the fewest flows open.

    With a measure of how many states that makes.
    """
    of: list[list[int]] = [[] for _ in range(size)]
    for index, pins in enumerate(ends):
        for group in pins:
            of[group].append(index)
    left = [len(pins) for pins in ends]
    opened: dict[int, int] = {}
    order: dict[int, None] = {}
    near = {start: None}
    rest = iter(range(size))
    measure, open_ones = 0.0, 0
    while len(order) < size:
        if not near:
            near[next(group for group in rest if group not in order)] = None

        def rank(group: int) -> tuple[int, int, int]:
            more = sum(
                (index not in opened and left[index] > 1) - (index in opened and left[index] == 1)
                for index in of[group]
            )
            return more, -max((opened.get(index, 0) for index in of[group]), default=0), group

        group = min(near, key=rank)
        del near[group]
        order[group] = None
        for index in of[group]:
            left[index] -= 1
            open_ones += (index not in opened) - (left[index] == 0)
            opened.setdefault(index, len(order))
            near.update((other, None) for other in ends[index] if other not in order)
        measure += 2.0 ** min(open_ones, 1000)
    return measure, list(order)


def _line(
    order: Sequence[int], nets: Sequence[Net], pairs: Iterable[tuple[int, int]], most: int
) -> Line | None:
    """The states along an order of the groups; `None` if there are more than `most` arcs."""
    view = _View(order, nets, pairs)
    states: dict[tuple[int, ...], int] = {(): 0}
    open_ends: list[End] = []
    steps = []
    number = 0
    for turn, group in enumerate(order):
        ends = dict.fromkeys((*open_ends, *view.ends(group)))
        still = [end for end in ends if view.last[end] > turn]
        targets: dict[tuple[int, ...], int] = {}
        arcs: dict[tuple[bool, float, int], dict[int, int]] = {}
        for state, source in states.items():
            known = dict(zip(open_ends, state, strict=True))
            for within, price, then in view.ways(group, known):
                target = targets.setdefault(tuple(then[end] for end in still), len(targets))
                layer = 0
                while target in arcs.setdefault((within, price, layer), {}):
                    layer += 1
                arcs[within, price, layer][target] = source
                number += 1
            if number > most:
                return None
        states, open_ends = targets, still
        batches = (
            Arcs(within, price, np.array(list(ways.values())), np.array(list(ways)))
            for (within, price, _), ways in arcs.items()
        )
        steps.append(Step(group, len(targets), tuple(batches)))
    return Line(tuple(steps), number)


class _View:
    """Flows and ordered pairs by group, and the last turn at which each of them counts.

    An end is a flow, or a group that ordered pairs join to later groups of the line.
    """

    def __init__(
        self, order: Sequence[int], nets: Sequence[Net], pairs: Iterable[tuple[int, int]]
    ) -> None:
        turn = {group: index for index, group in enumerate(order)}
        self.nets = nets
        self.nets_of: list[list[int]] = [[] for _ in order]
        self.last: dict[End, int] = {}
        for index, (pins, _) in enumerate(nets):
            self.last["flow", index] = max(turn[group] for group in pins)
            for group in pins:
                self.nets_of[group].append(index)
        self.earlier: list[list[int]] = [[] for _ in order]
        self.later: list[list[int]] = [[] for _ in order]
        for first, second in pairs:
            self.later[first].append(second)
            self.earlier[second].append(first)
        for group in order:
            near = (turn[other] for other in (*self.earlier[group], *self.later[group]))
            self.last["group", group] = max(near, default=-1)

    def ends(self, group: int) -> list[End]:
        """What a group takes part in."""
        return [*(("flow", index) for index in self.nets_of[group]), ("group", group)]

    def ways(
        self, group: int, known: Mapping[End, int]
    ) -> Iterator[tuple[bool, float, Mapping[End, int]]]:
        """Whether the group is within, the price of the flows that this splits, what is known."""
        earlier, later = self.earlier[group], self.later[group]
        lowest = max((known.get(("group", other), BEFORE) for other in earlier), default=BEFORE)
        highest = min((known.get(("group", other), AFTER) for other in later), default=AFTER)
        for place in range(lowest, (highest if earlier or later else WITHIN) + 1):
            side = int(place == WITHIN)
            price = 0.0
            then = {**known, ("group", group): place}
            for index in self.nets_of[group]:
                before = known.get(("flow", index), side)
                if before == 1 - side:
                    price += self.nets[index][1]
                then["flow", index] = side if before == side else SPLIT
            yield place == WITHIN, price, then
