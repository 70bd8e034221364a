"""Which groups share a device is one decision: what covers of the graph by whole shares prove.

No assignment stays within a load `T` if there are worths of the groups, none below 0, with

    sum_g worth[g]  >  sum_d  max { worth(S) : d can carry the share S within T }

since the shares of an assignment are worth as much as all groups, and each no more than the best
share of its device (`shares.py`). The best worths are the dual of a linear programme that covers
the groups by shares, one for each device, and whose bound is far above that of assigning one
group at a time: it knows that two blocks fit where two and a half do not, and equal devices have no
names in it. Its columns are made as they are asked for: worths from the shares so far, the best
shares by these worths, and again; worths are drawn towards the best ones so far, which steadies
them. All of them prove something, so that the search may end at any time.

Gilmore and Gomory, "A linear programming approach to the cutting-stock problem" (1961); Farley, "A
note on bounding a class of linear programming problems" (1990), for the bound on the way; Wentges,
"Weighted Dantzig-Wolfe decomposition for linear mixed-integer programming" (1997), for the drawing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

from partitioner.solve.bounds import group_table
from partitioner.solve.effort import Effort
from partitioner.solve.ideals import device_kinds
from partitioner.solve.narrow import Line, narrow_line
from partitioner.solve.programme import covering_prices
from partitioner.solve.shares import Shares
from partitioner.solve.state import Tables

Floats = NDArray[np.float64]

CLOSE = 1e-3
"""A relative gap that is not worth another share."""
MIXES = (0.5, 0.0)
"""Of the best worths so far, in those that are tried."""
HEAVY = 1e-3
"""Of a worth's weight in the programme, for the heaviest group: it decides among equal worths."""
ROUNDING = 1e-9
"""Relative, of sums of worths and loads."""
PATIENCE = 10
"""Rounds in a row that prove nothing new."""
ENTRIES = 2.5e6
"""Arcs times buckets of loads: a fraction of a second for the shares of one device."""
MOST_BUCKETS = 4_000
LEAST_BUCKETS = 400
ENTRIES_A_UNIT = 10.0
"""Of effort."""


def configuration_bound(tables: Tables, known: float, low: float, effort: Effort) -> float:
    """A load that no assignment is below, from `low` up to `known`, which one reaches."""
    known *= 1 - ROUNDING
    kinds = _kinds(tables, known)
    return low if kinds is None else max(low, _Covering(kinds, known, effort).bound(low))


@dataclass(frozen=True, slots=True)
class _Curve:
    """The most that all devices can be worth together, by load; all groups are worth 1."""

    loads: Floats
    worths: Floats

    def within(self, limit: float) -> float:
        return float(self.worths[np.searchsorted(self.loads, limit, side="right") - 1])

    def bound(self) -> float:
        """The least load at which they are worth as much as all groups."""
        enough = self.worths >= 1 - ROUNDING
        return float(self.loads[int(enough.argmax())]) if enough.any() else inf


@dataclass(frozen=True, slots=True)
class _Kind:
    """Devices that look alike: how many, what a group takes there, and in which line they come."""

    number: int
    seconds: Floats
    line: Line


class _Covering:
    """The shares so far, with their loads, by kind of device and groups."""

    def __init__(self, kinds: Sequence[_Kind], known: float, effort: Effort) -> None:
        self.kinds, self.known, self.effort = kinds, known, effort
        self.shares: dict[tuple[int, tuple[int, ...]], float] = {}
        arcs = max(kind.line.arcs for kind in kinds)
        self.buckets = int(min(MOST_BUCKETS, max(LEAST_BUCKETS, ENTRIES / arcs)))

    def bound(self, low: float) -> float:
        """The load up to which assignments are disproved."""
        high = self.known
        seconds = np.min([kind.seconds for kind in self.kinds], axis=0)
        if not seconds.any():
            return low
        weights = (1 + HEAVY * seconds / seconds.max()).tolist()
        numbers = [kind.number for kind in self.kinds]
        center = seconds / seconds.sum()
        best, rest = self._price(center, (low + high) / 2)
        self._cover(rest, (low + high) / 2)
        low = max(low, min(high, best.bound()))
        idle = 0
        while high - low > CLOSE * self.known and idle < PATIENCE and self.effort.spend(0):
            proven = low
            target = (low + high) / 2
            carried = [share for share, load in self.shares.items() if load <= target]
            worth = np.array(covering_prices(weights, numbers, carried))
            if worth.sum() <= 1 + ROUNDING:
                high = target
                continue
            before = len(self.shares)
            for mix in MIXES:
                tried = mix * center + (1 - mix) * worth / worth.sum()
                curve, rest = self._price(tried, target)
                low = max(low, min(high, curve.bound()))
                if curve.within(target) < best.within(target):
                    center, best = tried, curve
                if low >= target or len(self.shares) > before:
                    break
            if low < target:
                self._cover(rest, target)
                if len(self.shares) == before:
                    high = target
            idle = 0 if low > proven else idle + 1
        return low

    def _price(self, worth: Floats, limit: float) -> tuple[_Curve, Floats]:
        """What the devices are worth, and the worths of what their best shares leave."""
        rest = worth.copy()
        found = [self._best(kind, worth, limit, rest) for kind in range(len(self.kinds))]
        loads = np.unique(np.concatenate([shares.loads for shares in found]))
        worths = np.zeros(len(loads))
        for kind, shares in zip(self.kinds, found, strict=True):
            at = np.searchsorted(shares.loads, loads, side="right") - 1
            worths += kind.number * shares.worths[at]
        return _Curve(loads, worths / worth.sum()), rest

    def _cover(self, rest: Floats, limit: float) -> None:
        """Shares of the other devices, each the best one of what is left."""
        for index, kind in enumerate(self.kinds):
            for _ in range(kind.number - 1):
                if rest.any() and self.effort.spend(0):
                    self._best(index, rest, limit, rest)

    def _best(self, index: int, worth: Floats, limit: float, rest: Floats) -> Shares:
        """The best shares of a kind; the one within the limit is kept, and takes its worths."""
        kind = self.kinds[index]
        shares = Shares(kind.line, kind.seconds, worth, self.known, self.buckets)
        self.effort.spend(kind.line.arcs * self.buckets / ENTRIES_A_UNIT)
        groups, load = shares.within(limit)
        key = index, tuple(groups)
        self.shares[key] = min(load, self.shares.get(key, inf))
        rest[groups] = 0.0
        return shares


def _kinds(tables: Tables, known: float) -> list[_Kind] | None:
    """Devices by kind; `None` where the graph is too wide."""
    table = group_table(tables)
    lines: dict[bool, Line | None] = {}
    kinds = []
    for devices in device_kinds(tables):
        pays = tables.problem.pays(devices[0])
        if pays not in lines:
            lines[pays] = narrow_line(tables, known, pays=pays)
        line = lines[pays]
        if line is None:
            return None
        kinds.append(_Kind(len(devices), table[:, devices[0]], line))
    return kinds
