"""One sample's latency as the published problems count it, and a search for a small one.

Accelerators run pieces: the nodes of one accelerator, cut into the fewest pieces between which
something outside has to happen. A piece starts when all of its outside inputs are there, takes what
comes in, all of its work and what goes out, and all of it finishes together; pieces of one
accelerator wait for nothing but their inputs. Nodes on CPUs run as soon as their inputs are there.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator, Sequence
from math import inf

from benchmarks.published_pieces import Sequences, best_sequence, sequence_bound
from partitioner.solve import Problem, Solution, Status
from partitioner.solve.evaluate import count
from partitioner.solve.intervals import Costs, best_cuts, lines
from partitioner.solve.state import Tables

LINES = 40
"""Linear orders that are divided into intervals."""
EVALUATIONS = 6_000
"""Of the search without a time limit."""
PATIENT = 10_000_000
"""With one, at most so many."""
WARMTH = 0.005
"""How much worse the search goes at first, as a share of the best value (it cools down to 0)."""

Unit = tuple[int, int]


class Pieces:
    """A problem of the largest load, seen as one sample's way through it."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        size = len(problem.nodes)
        self.inputs: list[list[int]] = [[] for _ in range(size)]
        self.outputs: list[list[int]] = [[] for _ in range(size)]
        self.price = [0.0] * size
        for flow in problem.flows:
            self.price[flow.source] = flow.endpoint_seconds
            self.outputs[flow.source] = list(flow.targets)
            for target in flow.targets:
                self.inputs[target].append(flow.source)

    def bound(self) -> float:
        """The longest path, every node where it is fastest."""
        finish = [0.0] * len(self.inputs)
        for node, sources in enumerate(self.inputs):
            ready = max((finish[source] for source in sources), default=0.0)
            finish[node] = ready + min(self.problem.forward_seconds[node])
        return max(finish)

    def latency(self, placed: Sequence[int]) -> float:
        """Seconds from input to result."""
        units = self._units(placed)
        finish: dict[Unit, float] = {}
        members: dict[Unit, list[int]] = {}
        for node, unit in enumerate(units):
            members.setdefault(unit, []).append(node)
        feeds: dict[Unit, set[Unit]] = {unit: set() for unit in members}
        waiting = dict.fromkeys(members, 0)
        for node, targets in enumerate(self.outputs):
            for target in targets:
                first, second = units[node], units[target]
                if first != second and second not in feeds[first]:
                    feeds[first].add(second)
                    waiting[second] += 1
        ready = [unit for unit, number in waiting.items() if not number]
        while ready:
            unit = ready.pop()
            finish[unit] = self._finish(unit, members[unit], units, finish)
            for other in feeds[unit]:
                waiting[other] -= 1
                if not waiting[other]:
                    ready.append(other)
        return max(finish.values()) if len(finish) == len(members) else inf

    def _units(self, placed: Sequence[int]) -> list[Unit]:
        """By node, the piece that it is in; a node on a CPU is a piece of its own."""
        units = [(-1, node) for node in range(len(placed))]
        first = {device: placed.index(device) for device in set(placed)}
        for device in sorted(first):
            if not self.problem.pays(device):
                continue
            piece = [0] * len(placed)
            for node in range(first[device], len(placed)):
                sources = self.inputs[node]
                here = placed[node] == device
                piece[node] = int(here)
                for source in sources:
                    later = piece[source] + (here and placed[source] != device)
                    piece[node] = max(piece[node], later)
                if here:
                    units[node] = (device, piece[node])
        return units

    def _finish(
        self,
        unit: Unit,
        nodes: Sequence[int],
        units: Sequence[Unit],
        finish: dict[Unit, float],
    ) -> float:
        inside = set(nodes)
        sources = {source for node in nodes for source in self.inputs[node]} - inside
        start = max((finish[units[source]] for source in sources), default=0.0)
        if unit[0] < 0:
            return start + min(
                seconds
                for device, seconds in enumerate(self.problem.forward_seconds[nodes[0]])
                if not self.problem.pays(device)
            )
        return (
            start
            + sum(self.price[source] for source in sorted(sources))
            + sum(self.problem.forward_seconds[node][unit[0]] for node in nodes)
            + sum(
                self.price[node]
                for node in nodes
                if any(target not in inside for target in self.outputs[node])
            )
        )


def solve_latency(problem: Problem, *, time_limit: float | None = None, seed: int = 0) -> Solution:
    """A small latency, with a bound; by sequences, intervals of many lines, then single moves."""
    started = time.monotonic()
    pieces, tables = Pieces(problem), Tables(problem)
    sequences = Sequences(problem)
    bound = pieces.bound()
    best: tuple[float, list[int]] = (inf, [])
    if sequences.applies:
        bound = max(bound, sequence_bound(sequences))
    for placed in _starts(tables, sequences, seed):
        if count(problem, placed).feasible:
            best = min(best, (pieces.latency(placed), placed))
        if best[0] <= bound * (1 + 1e-9):
            break
    generator = random.Random(seed)
    at = best
    for turn in range(EVALUATIONS if time_limit is None else PATIENT):
        spent = turn / EVALUATIONS
        if time_limit is not None:
            spent = (time.monotonic() - started) / (0.95 * time_limit)
        if spent >= 1 or best[0] <= bound * (1 + 1e-9):
            break
        placed = _neighbour(tables, at[1], generator)
        value = pieces.latency(placed)
        margin = -WARMTH * best[0] * (1 - spent) ** 2 * math.log(1 - generator.random())
        if value < at[0] + margin and count(problem, placed).feasible:
            at = (value, placed)
            best = min(best, at)
    names = [problem.devices[device] for device in best[1]]
    return Solution(
        status=Status.OPTIMAL if best[0] <= bound * (1 + 1e-9) else Status.FEASIBLE,
        assignment=dict(zip(problem.nodes, names, strict=True)),
        objective=best[0],
        bound=min(bound, best[0]),
        seconds=time.monotonic() - started,
        solver="sequences, intervals and moves",
    )


def _starts(tables: Tables, sequences: Sequences, seed: int) -> Iterator[list[int]]:
    """Everything on a CPU, the best sequence, intervals of many lines."""
    yield [sequences.cpu] * len(tables.problem.nodes)
    if sequences.applies:
        yield best_sequence(sequences)
    for line in lines(tables, seed, LINES):
        yield _intervals(tables, line)


def _intervals(tables: Tables, line: Sequence[int]) -> list[int]:
    """Intervals for a CPU and the accelerators in turn, with the least sum of all pieces."""
    problem = tables.problem
    place = {group: index for index, group in enumerate(line)}
    costs = Costs(tables, [place[group] for group in range(len(line))])
    cpu = next(d for d in range(len(problem.devices)) if not problem.pays(d))
    sequence = [cpu]
    for device in range(len(problem.devices)):
        if problem.pays(device):
            sequence += [device, cpu]
    options = []
    for device in sequence:
        cost = costs.work[device][None, :] - costs.work[device][:, None]
        if problem.pays(device):
            cost = cost + costs.inward + costs.outward
        capacity = problem.capacity_nbytes[device]
        cost[costs.peak > (inf if capacity is None else capacity)] = inf
        for index in range(costs.size + 1):
            cost[index, index] = 0.0
            cost[index, :index] = inf
        options.append(cost)
    cuts = best_cuts(options, total=True)
    if cuts is None:
        return [cpu] * len(problem.nodes)
    by_place = [cpu] * costs.size
    for device, (first, last) in zip(sequence, cuts, strict=True):
        by_place[first:last] = [device] * (last - first)
    return [by_place[place[group]] for group in tables.group_of]


def _neighbour(tables: Tables, placed: Sequence[int], generator: random.Random) -> list[int]:
    """A few connected groups on another device, mostly one that a neighbour is on."""
    changed = list(placed)
    group = generator.randrange(len(tables.groups))
    ball = [group]
    for one in ball:
        for near in tables.neighbours[one]:
            if len(ball) < generator.choice((1, 1, 2, 3, 6)) and near not in ball:
                ball.append(near)
    near = [placed[tables.groups[other][0]] for other in tables.neighbours[group]]
    anywhere = list(range(len(tables.problem.devices)))
    device = generator.choice(near if near and generator.random() < 0.8 else anywhere)
    for one in ball:
        if device in tables.choices[one]:
            for node in tables.groups[one]:
                changed[node] = device
    return changed
