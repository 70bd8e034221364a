"""The share of a graph that is worth most among those that one device can carry.

A share is a set of groups on one device, and its load is their work, plus the price of every flow
that has ends within it and ends without, where the device pays for those. Groups have worths, and
what is asked for is the largest worth of a share for every limit on its load: a knapsack problem
whose contents are a cut as well.

Groups are taken one after the other along a narrow line (`narrow.py`), and loads fall into buckets.
Of all shares with one state and one bucket, the least load and the largest worth are kept, even
where they are those of two shares: so no worth is below the truth.
"""

from __future__ import annotations

from math import inf

import numpy as np
from numpy.typing import NDArray

from partitioner.solve.narrow import Arcs, Line, Step

Floats = NDArray[np.float64]


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
