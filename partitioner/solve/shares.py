"""The share of a graph that is worth most among those that one device can carry.

A share is a set of groups on one device, and its load is their work, plus the price of every flow
that has ends within it and ends without, where the device pays for those. Groups have worths, and
what is asked for is the largest worth of a share for every limit on its load: a knapsack problem
whose contents are a cut as well.

Groups are taken one after the other, along a line that few flows span at a time. What the groups so
far mean for the others is a state: of each flow that has an end on either side, whether its ends so
far are all within the share, all without, or both, which is paid for. In an order of devices, a
group is on an earlier device, on this one or on a later one, and the state keeps which it is, as
long as a group is to come that must not be before it or after it. Models are narrow: there are few
states at a time, though there are many shares.

Loads fall into buckets. Of all shares with one state and one bucket, the least load and the largest
worth are kept, even where they are those of two shares. So no worth is below the truth.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

from partitioner.solve.state import Tables

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Net = tuple[tuple[int, ...], float]

MOST_ARCS = 20_000
"""From a state to the next one, all groups together."""
LINES = 12
"""Lines that are tried."""
SPARED = (0.0, 1e-3, 1e-2, 0.1)
"""What all flows that cross for nothing may cost together, as a share of the limit."""
BEFORE, WITHIN, AFTER = range(3)
"""Where a group can be, seen from the device; `BEFORE` also where there is no order."""
SPLIT = 2
"""A flow with ends on both sides; otherwise it is `WITHIN` or not, which is 0."""


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


class Shares:
    """The best shares of one device, by load.

    Attributes:
        loads: ascending.
        worths: by load, the largest worth of a share that is no heavier.
    """

    def __init__(
        self, line: Line, seconds: Floats, worth: Floats, limit: float, buckets: int
    ) -> None:
        """`seconds` are the device's, by group; `inf` where it cannot have it."""
        self._line, self._seconds, self._buckets = line, seconds, buckets
        self._width = limit / (buckets - 1) or 1.0
        loads = np.full((1, buckets), inf)
        worths = np.full((1, buckets), -inf)
        loads[0, 0] = worths[0, 0] = 0.0
        self._ways: list[NDArray[np.int16]] = []
        for step in line.steps:
            loads, worths = self._take(step, loads, worths, worth)
        self._loads = np.where(loads[0] <= limit, loads[0], inf)
        self._worths = worths[0]
        some = np.isfinite(self._loads)
        self.loads = self._loads[some]
        self.worths = np.maximum.accumulate(self._worths[some])

    def _price(self, step: Step, arcs: Arcs) -> float:
        """What the load grows by."""
        return arcs.price + (self._seconds[step.group] if arcs.within else 0.0)

    def _take(
        self, step: Step, loads: Floats, worths: Floats, worth: Floats
    ) -> tuple[Floats, Floats]:
        """Loads and worths by state and bucket after one more group."""
        width, buckets = self._width, self._buckets
        new_loads = np.full((step.states, buckets), inf)
        new_worths = np.full((step.states, buckets), -inf)
        ways = np.full((step.states, buckets), -1, dtype=np.int16)
        for index, arcs in enumerate(step.arcs):
            price = self._price(step, arcs)
            if price >= width * buckets:
                continue
            first = int(price // width)
            stay = buckets - first
            load = loads[arcs.sources, :stay] + price
            value = worths[arcs.sources, :stay] + (worth[step.group] if arcs.within else 0.0)
            over = load >= width * np.arange(first + 1, buckets + 1)
            for further in range(2):
                here = over if further else ~over
                columns = slice(first + further, buckets)
                left = stay - further
                value_here = np.where(here, value, -inf)[:, :left]
                load_here = np.where(here, load, inf)[:, :left]
                better = value_here > new_worths[arcs.targets, columns]
                rows, places = np.nonzero(better)
                at = arcs.targets[rows], places + columns.start
                new_worths[at] = value_here[better]
                ways[at] = 2 * index + further
                new_loads[arcs.targets, columns] = np.minimum(
                    new_loads[arcs.targets, columns], load_here
                )
        self._ways.append(ways)
        return new_loads, new_worths

    def within(self, limit: float) -> tuple[list[int], float]:
        """The best share within a limit, ascending, and its load; the true one may be above it."""
        bucket = int(np.where(self._loads <= limit, self._worths, -inf).argmax())
        load = float(self._loads[bucket])
        state = 0
        found = []
        for step, ways in zip(reversed(self._line.steps), reversed(self._ways), strict=True):
            index, further = divmod(int(ways[state, bucket]), 2)
            arcs = step.arcs[index]
            if arcs.within:
                found.append(step.group)
            bucket -= int(self._price(step, arcs) // self._width) + further
            state = int(arcs.sources[np.flatnonzero(arcs.targets == state)[0]])
        return sorted(found), load


def narrow_line(tables: Tables, limit: float, *, pays: bool) -> Line | None:
    """A line with few states, for devices that pay for flows or do not; `None` if there is none.

    Where there are too many states, flows cross for nothing, the cheapest ones first, which are as
    good as nothing beside the limit: still nothing is worth less than the truth.
    """
    size = len(tables.groups)
    nets = _nets(tables) if pays else []
    pairs = {
        (tables.group_of[first], tables.group_of[second])
        for first, second in (tables.problem.ordered_pairs() if tables.problem.contiguous else ())
        if tables.group_of[first] != tables.group_of[second]
    }
    starts = dict.fromkeys(turn * size // LINES for turn in range(LINES))
    below = np.cumsum([price for _, price in nets])
    for spared in SPARED:
        dear = nets[int(np.searchsorted(below, spared * limit, side="right")) :]
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
    measure = 0.0
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
            opened.setdefault(index, len(order))
            near.update((other, None) for other in ends[index] if other not in order)
        measure += 2.0 ** sum(left[index] > 0 for index in opened)
    return measure, list(order)


def _line(
    order: Sequence[int], nets: Sequence[Net], pairs: Iterable[tuple[int, int]], most: int
) -> Line | None:
    """The states along an order of the groups; `None` if there are more than `most` arcs."""
    place = {group: index for index, group in enumerate(order)}
    nets_of: list[list[int]] = [[] for _ in order]
    for index, (pins, _) in enumerate(nets):
        for group in pins:
            nets_of[group].append(index)
    earlier: list[set[int]] = [set() for _ in order]
    later: list[set[int]] = [set() for _ in order]
    for first, second in pairs:
        later[first].add(second)
        earlier[second].add(first)
    ends = {
        ("net", index): max(map(place.__getitem__, pins)) for index, (pins, _) in enumerate(nets)
    }
    for group in order:
        near = earlier[group] | later[group]
        ends["group", group] = max(map(place.__getitem__, near), default=-1)
    states: dict[tuple[int, ...], int] = {(): 0}
    open_ends: list[tuple[str, int]] = []
    steps = []
    number = 0
    for turn, group in enumerate(order):
        touched = [("net", index) for index in nets_of[group]]
        still = [end for end in open_ends if ends[end] > turn]
        still += [
            end for end in (*touched, ("group", group)) if end not in open_ends and ends[end] > turn
        ]
        ordered = bool(earlier[group] or later[group])
        new: dict[tuple[int, ...], int] = {}
        arcs: dict[tuple[bool, float, int], dict[int, int]] = {}
        for state, source in states.items():
            known = dict(zip(open_ends, state, strict=True))
            lowest = max(
                (known.get(("group", other), BEFORE) for other in earlier[group]), default=BEFORE
            )
            highest = min(
                (known.get(("group", other), AFTER) for other in later[group]),
                default=AFTER if ordered else WITHIN,
            )
            for label in range(lowest, highest + 1):
                side = int(label == WITHIN)
                price = 0.0
                then = {**known, ("group", group): label}
                for end in touched:
                    before = known.get(end, side)
                    if before not in (SPLIT, side):
                        price += nets[end[1]][1]
                    then[end] = side if before == side else SPLIT
                target = new.setdefault(tuple(then[end] for end in still), len(new))
                layer = 0
                while target in arcs.setdefault((label == WITHIN, price, layer), {}):
                    layer += 1
                arcs[label == WITHIN, price, layer][target] = source
                number += 1
        if number > most:
            return None
        states, open_ends = new, still
        steps.append(
            Step(
                group,
                len(new),
                tuple(
                    Arcs(within, price, np.array(list(ways.values())), np.array(list(ways)))
                    for (within, price, _), ways in arcs.items()
                ),
            )
        )
    return Line(tuple(steps), number)
