"""Smaller problems with the same optimum, and the way back.

Colocated nodes move together, so they are one decision. Where the order of execution has no
part in the objective (`throughput`, `memory`) they become one node; for `latency` they stay apart,
since the schedule is made of single nodes. Memory keeps only the program points that can decide.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite

import networkx as nx

from partitioner.solve.problem import Flow, Hold, Problem


@dataclass(frozen=True, slots=True)
class Contraction:
    """Which nodes became one, in the order of their first members."""

    groups: tuple[tuple[int, ...], ...]

    def expand(self, placed: Sequence[int]) -> list[int]:
        """The device of every original node, from the device of every group."""
        expanded = [0] * sum(map(len, self.groups))
        for group, device in zip(self.groups, placed, strict=True):
            for node in group:
                expanded[node] = device
        return expanded

    def shrink(self, placed: Sequence[int]) -> list[int]:
        """The device of every group, from the device of its first node."""
        return [placed[group[0]] for group in self.groups]


def contract(problem: Problem) -> tuple[Problem, Contraction]:
    """Merge what must stay together, where that changes nothing else."""
    if problem.objective == "latency":
        single = Contraction(tuple((node,) for node in range(len(problem.nodes))))
        return decisive_points(problem), single
    groups = colocation_groups(problem)
    if problem.contiguous:
        groups = _without_cycles(problem, groups)
    contraction = Contraction(groups)
    return decisive_points(merge(problem, contraction)), contraction


def colocation_groups(problem: Problem) -> tuple[tuple[int, ...], ...]:
    """All nodes in groups that share a device, by first member."""
    return join(len(problem.nodes), problem.colocated)


def join(size: int, together: Iterable[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    """The classes of `0..size-1` when every sequence in `together` is in one class."""
    leader = list(range(size))

    def find(node: int) -> int:
        while leader[node] != node:
            leader[node] = leader[leader[node]]
            node = leader[node]
        return node

    for sequence in together:
        for node in sequence[1:]:
            first, second = sorted((find(sequence[0]), find(node)))
            leader[second] = first
    members: dict[int, list[int]] = {}
    for node in range(size):
        members.setdefault(find(node), []).append(node)
    return tuple(tuple(group) for group in members.values())


def merge(problem: Problem, contraction: Contraction) -> Problem:
    """The problem whose nodes are the groups; the order of execution loses its meaning."""
    groups = contraction.groups
    devices = range(len(problem.devices))
    home = {node: index for index, group in enumerate(groups) for node in group}
    able = [
        {
            device
            for device in problem.allowed[node]
            if isfinite(
                problem.forward_seconds[node][device] + problem.backward_seconds[node][device]
            )
        }
        for node in range(len(problem.nodes))
    ]
    allowed = tuple(
        tuple(sorted(set.intersection(*(able[node] for node in group)))) for group in groups
    )

    def total(table: Sequence[Sequence[float]]) -> tuple[tuple[float, ...], ...]:
        return tuple(
            tuple(sum(table[node][device] for node in group) for device in devices)
            for group in groups
        )

    flows = [
        Flow(
            home[flow.source],
            tuple(node for node in _homes(home, flow.targets) if node != home[flow.source]),
            flow.nbytes,
            flow.gradient_nbytes,
            flow.endpoint_seconds,
        )
        for flow in problem.flows
    ]
    return replace(
        problem,
        nodes=tuple(problem.nodes[group[0]] for group in groups),
        forward_seconds=total(problem.forward_seconds),
        backward_seconds=total(problem.backward_seconds),
        flows=_united(problem, [flow for flow in flows if flow.targets]),
        holds=tuple(replace(hold, nodes=_homes(home, hold.nodes)) for hold in problem.holds),
        allowed=allowed,
        colocated=(),
        demands=(),
        separated=tuple(
            (_homes(home, one), _homes(home, other)) for one, other in problem.separated
        ),
        precedences=_pairs(home, problem.ordered_pairs()) if problem.contiguous else None,
    )


def _homes(home: Mapping[int, int], nodes: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted({home[node] for node in nodes}))


def _pairs(
    home: Mapping[int, int], pairs: Iterable[tuple[int, int]]
) -> tuple[tuple[int, int], ...]:
    """Pairs of different groups, each once."""
    mapped = ((home[first], home[second]) for first, second in pairs)
    return tuple(dict.fromkeys(pair for pair in mapped if pair[0] != pair[1]))


def _united(problem: Problem, flows: Sequence[Flow]) -> tuple[Flow, ...]:
    """Flows with the same ends as one, unless each travels or pays the latency for itself."""
    if problem.objective == "latency" or any(any(row) for row in problem.latency_seconds):
        return tuple(flows)
    united: dict[tuple[int, tuple[int, ...]], Flow] = {}
    for flow in flows:
        ends = (flow.source, flow.targets)
        before = united.get(ends, Flow(*ends, nbytes=0))
        united[ends] = replace(
            before,
            nbytes=before.nbytes + flow.nbytes,
            gradient_nbytes=before.gradient_nbytes + flow.gradient_nbytes,
            endpoint_seconds=before.endpoint_seconds + flow.endpoint_seconds,
        )
    return tuple(united.values())


def _without_cycles(
    problem: Problem, groups: tuple[tuple[int, ...], ...]
) -> tuple[tuple[int, ...], ...]:
    """Groups that precede each other in a circle share a device when devices are ordered."""
    home = {node: index for index, group in enumerate(groups) for node in group}
    graph: nx.DiGraph[int] = nx.DiGraph()
    graph.add_nodes_from(range(len(groups)))
    graph.add_edges_from(_pairs(home, problem.ordered_pairs()))
    circles = sorted(sorted(circle) for circle in nx.strongly_connected_components(graph))
    classes = join(len(groups), circles)
    return tuple(
        tuple(sorted(node for index in members for node in groups[index])) for members in classes
    )


def decisive_points(problem: Problem) -> Problem:
    """Only the program points at which memory can be tightest, and equal holds as one.

    Between a point where something is let go and the one before, nothing is held that is not held
    at one of the points kept: of all points since the last release, the last one holds most.
    """
    starts = {hold.first for hold in problem.holds}
    kept: list[int] = []
    fresh = False
    ends = {hold.last for hold in problem.holds}
    for point in range(problem.points):
        fresh = fresh or point in starts
        if fresh and point in ends:
            kept.append(point)
            fresh = False
    united: dict[tuple[tuple[int, ...], int, int], int] = {}
    for hold in problem.holds:
        key = (
            tuple(sorted(set(hold.nodes))),
            bisect_left(kept, hold.first),
            bisect_right(kept, hold.last) - 1,
        )
        united[key] = united.get(key, 0) + hold.nbytes
    return replace(
        problem,
        holds=tuple(
            Hold(nodes, nbytes, first, last)
            for (nodes, first, last), nbytes in united.items()
            if nbytes
        ),
        points=max(1, len(kept)),
    )
