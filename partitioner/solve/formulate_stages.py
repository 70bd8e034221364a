"""`CostGraph` -> `StageProblem`: nodes become units in a line, nothing is decided."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from math import inf

from partitioner.graph import WEIGHT_SHARE, Meetings, weighted_nodes
from partitioner.graph.cost_graph import CostGraph, Holding
from partitioner.solve.formulate import capacity_nbytes, link_tables, roads_between
from partitioner.solve.stages import StageHold, StageProblem
from partitioner.spec import Cluster, Demands

MOST_UNITS = 500
"""Places at which a long model may be cut."""


def formulate_stages(
    graph: CostGraph,
    cluster: Cluster,
    units: Sequence[tuple[str, ...]],
    returned: Sequence[str],
    demands: Demands,
    *,
    schedule: str,
    micro_batches: int,
    stages_per_rank: int,
) -> tuple[StageProblem, tuple[tuple[str, ...], ...]]:
    """The tables of one pipeline problem.

    Args:
        graph: the costs of one micro-batch.
        cluster: devices with their memory, and links.
        units: groups of nodes that one stage holds, each after those that it reads; nodes that are
            in none follow their readers.
        returned: nodes whose values the model returns.
        demands: of the user's constraints.
        schedule: of `partitioner.schedule`.
        micro_batches: in a step.
        stages_per_rank: how many stages each device has.

    Returns:
        The problem, and its units, some of them joined where a model is long.
    """
    line = _joined(graph, units, returned)
    place = {node: i for i, unit in enumerate(line) for node in unit}
    devices = graph.devices
    readers = _reading_units(graph, place)
    extra: list[list[str]] = [[] for _ in line]
    for node in graph.order:
        if node not in place and readers[node]:
            extra[min(readers[node])].append(node)
    training = graph.points > len(graph.order)
    weighted = weighted_nodes(graph)

    def forward(unit: int, device: str) -> float:
        nodes = (*line[unit], *extra[unit])
        return sum(graph.cost(node).forward_seconds.get(device, inf) for node in nodes)

    def backward(unit: int, device: str) -> float:
        nodes = (*line[unit], *extra[unit])
        return sum(graph.cost(node).backward_seconds.get(device, inf) for node in nodes)

    def weight(unit: int, device: str) -> float:
        return WEIGHT_SHARE * sum(
            graph.cost(node).backward_seconds.get(device, 0.0)
            for node in line[unit]
            if node in weighted
        )

    wires, gradients = _crossing(graph, line, place, returned)
    pinned = {node: device for node, device in demands.pinned.items() if node in place}
    index = {name: i for i, name in enumerate(devices)}
    every = tuple(range(len(devices)))
    latency_seconds, seconds_per_byte = link_tables(devices, roads_between(cluster, devices))
    barred = cluster.detours
    problem = StageProblem(
        units=tuple(unit[0] for unit in line),
        forward_seconds=tuple(
            tuple(forward(unit, device) for device in devices) for unit in range(len(line))
        ),
        backward_seconds=tuple(
            tuple(backward(unit, device) for device in devices) for unit in range(len(line))
        ),
        weight_seconds=tuple(
            tuple(weight(unit, device) for device in devices) for unit in range(len(line))
        ),
        wire_nbytes=wires,
        gradient_nbytes=gradients,
        holds=tuple(_holds(graph, place, readers)),
        capacity_nbytes=tuple(capacity_nbytes(cluster, name) for name in devices),
        allowed=tuple(
            tuple(d for d in every if all(index[pinned.get(n, devices[d])] == d for n in unit))
            for unit in line
        ),
        separated=tuple(
            (_places(one, place), _places(other, place)) for one, other in demands.separated
        ),
        splits_until=_splits_until(graph, line) if schedule == "zero-bubble" else (),
        latency_seconds=tuple(
            tuple(
                inf if (source, target) in barred else seconds
                for target, seconds in zip(devices, row, strict=True)
            )
            for source, row in zip(devices, latency_seconds, strict=True)
        ),
        seconds_per_byte=seconds_per_byte,
        schedule=schedule,
        micro_batches=micro_batches,
        stages_per_rank=stages_per_rank,
        training=training,
    )
    return problem, line


def _places(nodes: Iterable[str], place: dict[str, int]) -> tuple[int, ...]:
    return tuple(sorted({place[node] for node in nodes if node in place}))


def _reading_units(graph: CostGraph, place: dict[str, int]) -> dict[str, set[int]]:
    """By node, the units that compute it: its own, or those that read it at length."""
    found: dict[str, set[int]] = {}
    for node in reversed(graph.order):
        if node in place:
            found[node] = {place[node]}
        else:
            readers = (found[reader] for reader in graph.graph.successors(node))
            found[node] = set().union(*readers)
    return found


def _splits_until(graph: CostGraph, line: Sequence[tuple[str, ...]]) -> tuple[int, ...]:
    """By first unit, where a parameter meets again what came from before it."""
    meetings = Meetings(graph)
    nodes = [node for unit in line for node in unit]
    unit_of = [*(i for i, unit in enumerate(line) for _ in unit), len(line)]
    starts = accumulate(map(len, line[:-1]), initial=0)
    return tuple(unit_of[start + meetings.first_again(nodes[start:])] for start in starts)


def _crossing(
    graph: CostGraph,
    line: Sequence[tuple[str, ...]],
    place: dict[str, int],
    returned: Sequence[str],
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """By place, the bytes that go over it in the forward, and back in the backward."""
    size = len(line)
    changes = [[0] * (size + 1), [0] * (size + 1)]
    for node, home in place.items():
        last = max((place[r] for r in graph.graph.successors(node) if r in place), default=home)
        if node in returned:
            last = size - 1
        if last > home:
            tensor = graph.tensor(node)
            for change, nbytes in zip(
                changes, (tensor.nbytes, tensor.gradient_nbytes), strict=True
            ):
                change[home + 1] += nbytes
                change[last + 1] -= nbytes
    wires, gradients = (tuple(accumulate(change)) for change in changes)
    return wires, gradients


def _holds(
    graph: CostGraph, place: dict[str, int], readers: dict[str, set[int]]
) -> Iterable[StageHold]:
    """What a stage holds, and how often."""
    turn = len(graph.order)
    united: dict[tuple[tuple[int, ...], str], int] = {}
    for holding in graph.holdings:
        units = tuple(sorted(set().union(*(readers[node] for node in holding.nodes))))
        key = (units, _kind(holding, turn))
        united[key] = united.get(key, 0) + holding.nbytes
    for (units, kind), nbytes in united.items():
        if units:
            yield StageHold(units, nbytes, kind)


def _kind(holding: Holding, turn: int) -> str:
    if holding.role in ("parameters", "gradients", "optimizer"):
        return "static"
    return "kept" if holding.first < turn <= holding.last else "passing"


def _joined(
    graph: CostGraph, units: Sequence[tuple[str, ...]], returned: Sequence[str]
) -> tuple[tuple[str, ...], ...]:
    """The units, joined where most crosses, until there are few enough to try all cuts."""
    line = tuple(units)
    if len(line) <= MOST_UNITS:
        return line
    place = {node: i for i, unit in enumerate(line) for node in unit}
    wires, _ = _crossing(graph, line, place, returned)
    window = len(line) / MOST_UNITS
    starts = sorted(
        {
            min(range(int(i * window), int((i + 1) * window)), key=lambda at: (wires[at], at))
            for i in range(MOST_UNITS)
        }
        | {0}
    )
    ends = [*starts[1:], len(line)]
    return tuple(
        tuple(node for unit in line[first:last] for node in unit)
        for first, last in zip(starts, ends, strict=True)
    )
