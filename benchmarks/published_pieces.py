"""Pieces one after the other: a small published latency and a bound, for graphs that are nearly
chains.

An ideal holds, with each node, all that feeds it; a piece is the difference of two. A *waist* is a
node that all others come before or after.

- `best_sequence`: accelerators' pieces and stretches on CPUs in a sequence, the best of all,

      best[k, J] = min over ideals I of J of  best[k-1, I] + piece(J - I),  best[k, I] + cpu(J - I)

- `sequence_bound`: in any plan, the pieces that hold waists come one after the other, and so do
  they and the waists on CPUs. What lies between two of them takes at least its longest path, each
  node of it where the path has it cheapest. Pieces keep the memory of one accelerator; how many
  accelerators there are is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf

from partitioner.solve import Problem

MOST_IDEALS = 2_000
"""Beyond, pairs of ideals are too many."""
STRETCH = 24
"""Nodes of a stretch on CPUs between two ideals."""

Step = tuple[int, int, int]
"""The ideal before a step and the accelerators before it; whether it is on an accelerator."""


class Sequences:
    """A problem of the largest load as sequences of pieces; `applies` tells whether it is one."""

    def __init__(self, problem: Problem) -> None:
        size = len(problem.nodes)
        self.problem = problem
        self.accelerators = [d for d in range(len(problem.devices)) if problem.pays(d)]
        cpus = [d for d in range(len(problem.devices)) if not problem.pays(d)]
        self.cpu = cpus[0]
        self.on_cpu = [min(row[d] for d in cpus) for row in problem.forward_seconds]
        self.on_accelerator = [
            row[self.accelerators[0]] if self.accelerators else inf
            for row in problem.forward_seconds
        ]
        self.room = problem.capacity_nbytes[self.accelerators[0]] if self.accelerators else 0
        self.nbytes = [0] * size
        for hold in problem.holds:
            self.nbytes[hold.nodes[0]] += hold.nbytes
        self.inputs = [0] * size
        self.outputs = [0] * size
        self.price = [0.0] * size
        for flow in problem.flows:
            self.price[flow.source] = flow.endpoint_seconds
            for target in flow.targets:
                self.inputs[target] |= 1 << flow.source
                self.outputs[flow.source] |= 1 << target
        self.everything = (1 << size) - 1
        self.ideals = self._ideals()
        self.waists = list(self._waists())

    @property
    def applies(self) -> bool:
        """Whether the ideals are few, and no two nodes are bound to share a device."""
        return bool(self.ideals) and all(len(group) == 1 for group in self.problem.colocated)

    def _ideals(self) -> list[int]:
        """All ideals, smaller ones first; none if there are too many."""
        found = {0: None}
        waiting = [0]
        for ideal in waiting:
            for node, inputs in enumerate(self.inputs):
                grown = ideal | 1 << node
                if grown not in found and inputs & ~ideal == 0:
                    found[grown] = None
                    waiting.append(grown)
            if len(found) > MOST_IDEALS:
                return []
        return sorted(found, key=lambda ideal: (ideal.bit_count(), ideal))

    def _waists(self) -> Iterator[int]:
        size = len(self.inputs)
        before, after = [0] * size, [0] * size
        for node in range(size):
            for source in bits(self.inputs[node]):
                before[node] |= before[source] | 1 << source
        for node in reversed(range(size)):
            for target in bits(self.outputs[node]):
                after[node] |= after[target] | 1 << target
        for node in range(size):
            if before[node] | after[node] | 1 << node == self.everything:
                yield node

    def piece(self, nodes: int) -> float:
        """Seconds of a piece; `inf` where it does not fit."""
        members = list(bits(nodes))
        if self.room is not None and sum(self.nbytes[node] for node in members) > self.room:
            return inf
        sources = 0
        seconds = 0.0
        for node in members:
            sources |= self.inputs[node] & ~nodes
            seconds += self.on_accelerator[node]
            if self.outputs[node] & ~nodes:
                seconds += self.price[node]
        return seconds + sum(self.price[source] for source in bits(sources))

    def stretch(self, nodes: int) -> float:
        """Seconds of the longest path through nodes that are all on CPUs."""
        finish: dict[int, float] = {}
        for node in bits(nodes):
            ready = max((finish[s] for s in bits(self.inputs[node] & nodes)), default=0.0)
            finish[node] = ready + self.on_cpu[node]
        return max(finish.values(), default=0.0)

    def between(self, nodes: int) -> float:
        """Seconds that it takes at least to come through nodes whose neighbours are in others."""
        cpu: dict[int, float] = {}
        accelerator: dict[int, float] = {}
        longest = 0.0
        for node in bits(nodes):
            ready_cpu = ready_accelerator = 0.0
            for source in bits(self.inputs[node]):
                price = self.price[source]
                at_cpu, at_accelerator = cpu.get(source, 0.0), accelerator.get(source, inf)
                ready_cpu = max(ready_cpu, min(at_cpu, at_accelerator + price))
                ready_accelerator = max(ready_accelerator, min(at_cpu + price, at_accelerator))
            cpu[node] = ready_cpu + self.on_cpu[node]
            accelerator[node] = ready_accelerator + self.on_accelerator[node]
            leaving = self.price[node] if self.outputs[node] & ~nodes else 0.0
            longest = max(longest, min(cpu[node], accelerator[node] + leaving))
        return longest


def bits(mask: int) -> Iterator[int]:
    """The places of the ones, ascending."""
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest


def best_sequence(sequences: Sequences) -> list[int]:
    """The assignment with the least sum over a sequence of pieces and stretches."""
    most = len(sequences.accelerators)
    best: dict[int, list[float]] = {0: [0.0] + [inf] * most}
    origins: dict[tuple[int, int], Step] = {}
    for place, ideal in enumerate(sequences.ideals[1:], start=1):
        row = [inf] * (most + 1)
        for before in sequences.ideals[:place]:
            nodes = ideal & ~before
            if before & ~ideal:
                continue
            options = [(1, sequences.piece(nodes))]
            if nodes.bit_count() <= STRETCH:
                options.append((0, sequences.stretch(nodes)))
            for taken, seconds in options:
                for used in range(most + 1 - taken):
                    value = best[before][used] + seconds
                    if value < row[used + taken]:
                        row[used + taken] = value
                        origins[ideal, used + taken] = (before, used, taken)
        best[ideal] = row
    placed = [sequences.cpu] * len(sequences.inputs)
    at = sequences.everything
    used = min(range(most + 1), key=lambda number: best[at][number])
    while at and best[at][used] < inf:
        before, fewer, taken = origins[at, used]
        if taken:
            for node in bits(at & ~before):
                placed[node] = sequences.accelerators[fewer]
        at, used = before, fewer
    return placed


def sequence_bound(sequences: Sequences) -> float:
    """Seconds that no plan is below."""
    waists = sequences.waists
    ends: list[dict[int, float]] = [{} for _ in range(len(waists) + 1)]
    ends[0][0] = 0.0
    for place, waist in enumerate([*waists, None]):
        limit = _inside(sequences, waists, place)
        if waist is None:
            return min(
                seconds + sequences.between(limit & ~ideal)
                for ideal, seconds in ends[place].items()
            )
        starts: dict[int, float] = {}
        for first in sequences.ideals:
            if first >> waist & 1 or (place and not first >> waists[place - 1] & 1):
                continue
            starts[first] = min(
                (
                    seconds + sequences.between(limit & first & ~ideal)
                    for ideal, seconds in ends[place].items()
                    if ideal & ~first == 0
                ),
                default=inf,
            )
        upto = starts[max(starts, key=int.bit_count)] + sequences.on_cpu[waist]
        after = max(starts, key=int.bit_count) | 1 << waist
        _keep(ends[place + 1], after, upto)
        for first, start in starts.items():
            if start == inf:
                continue
            for last in sequences.ideals:
                if last >> waist & 1 and first & ~last == 0:
                    seconds = start + sequences.piece(last & ~first)
                    if seconds < inf:
                        _keep(ends[_held(waists, last)], last, seconds)
    return inf


def _inside(sequences: Sequences, waists: Sequence[int], place: int) -> int:
    """The nodes between two neighbouring waists; ideals decide which of them."""
    nodes = sequences.everything
    for waist in waists:
        nodes &= ~(1 << waist)
    if place:
        nodes &= ~_upto(sequences, waists[place - 1])
    if place < len(waists):
        nodes &= _upto(sequences, waists[place])
    return nodes


def _upto(sequences: Sequences, node: int) -> int:
    """A node and all that comes before it."""
    held, waiting = 1 << node, [node]
    for one in waiting:
        for source in bits(sequences.inputs[one] & ~held):
            held |= 1 << source
            waiting.append(source)
    return held


def _held(waists: Sequence[int], ideal: int) -> int:
    return sum(ideal >> waist & 1 for waist in waists)


def _keep(table: dict[int, float], ideal: int, seconds: float) -> None:
    table[ideal] = min(table.get(ideal, inf), seconds)
