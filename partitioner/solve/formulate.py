"""`CostGraph` + what the user declares -> `Problem`: names become indices, nothing is decided."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from math import inf

from partitioner.graph.cost_graph import CostGraph
from partitioner.solve.problem import Demand, Flow, Hold, Hop, Problem
from partitioner.solve.state import Matrix
from partitioner.spec import OBJECTIVES, Cluster, Constraint, Link, Targets, check_name, resolve

Ways = Mapping[tuple[str, str], Sequence[Link]]


def formulate(
    cost_graph: CostGraph,
    cluster: Cluster,
    objective: str,
    constraints: Iterable[Constraint] = (),
) -> Problem:
    """The tables of one placement problem.

    Args:
        cost_graph: what nodes and tensors cost on the cluster's devices.
        cluster: devices with their memory, and links.
        objective: `"latency"`, `"throughput"` or `"memory"`.
        constraints: patterns are matched on module paths, parameters and nodes.

    Raises:
        SpecError: an unknown objective, a pattern that matches nothing, or two constraints that
            contradict each other.
    """
    check_name("objective", objective, OBJECTIVES)
    constraints = tuple(constraints)
    devices = cost_graph.devices
    index = {name: place for place, name in enumerate(cost_graph.order)}
    names = targets(cost_graph)
    resolve(constraints, names, devices, cost_graph.colocated)
    demands = tuple(_demand(constraint, names, devices, index) for constraint in constraints)
    ways = roads_between(cluster, devices)
    lanes, roads = _shared(devices, ways)
    latency_seconds, seconds_per_byte = link_tables(devices, ways)
    problem = Problem(
        objective=objective,
        nodes=cost_graph.order,
        devices=devices,
        forward_seconds=tuple(
            tuple(cost_graph.cost(node).forward_seconds.get(device, inf) for device in devices)
            for node in cost_graph.order
        ),
        backward_seconds=tuple(
            tuple(cost_graph.cost(node).backward_seconds.get(device, inf) for device in devices)
            for node in cost_graph.order
        ),
        flows=tuple(_flows(cost_graph, index)),
        latency_seconds=latency_seconds,
        seconds_per_byte=seconds_per_byte,
        lanes=lanes,
        roads=roads,
        holds=tuple(
            Hold(
                tuple(index[node] for node in holding.nodes),
                holding.nbytes,
                holding.first,
                holding.last,
            )
            for holding in cost_graph.holdings
            if holding.nodes
        ),
        points=cost_graph.points,
        capacity_nbytes=tuple(capacity_nbytes(cluster, device) for device in devices),
        allowed=(tuple(range(len(devices))),) * len(cost_graph.order),
        colocated=tuple(
            tuple(sorted(index[node] for node in group)) for group in cost_graph.colocated if group
        ),
    )
    return with_demands(problem, demands)


def roads_between(cluster: Cluster, devices: Sequence[str]) -> Ways:
    """The links that a value crosses, by source and destination."""
    return {
        (source, target): cluster.road(source, target)
        for source in devices
        for target in devices
        if source != target
    }


def link_tables(devices: Sequence[str], ways: Ways) -> tuple[Matrix, Matrix]:
    """Seconds of latency, and seconds for each byte: `[source][destination]`."""

    def table(of: Callable[[Link], float]) -> Matrix:
        return tuple(
            tuple(sum(map(of, ways.get((source, target), ()))) for target in devices)
            for source in devices
        )

    return table(lambda link: link.latency_seconds), table(lambda link: 1 / link.bytes_per_second)


def _shared(
    devices: Sequence[str], ways: Ways
) -> tuple[tuple[str, ...], tuple[tuple[tuple[Hop, ...], ...], ...]]:
    """What several links share, and the hops of every pair that takes part in it."""
    lanes = tuple(
        dict.fromkeys(lane for way in ways.values() for link in way for lane in link.lanes)
    )
    if not lanes:
        return (), ()
    place = {lane: index for index, lane in enumerate(lanes)}

    def hops(way: Sequence[Link]) -> tuple[Hop, ...]:
        if not any(link.lanes for link in way):
            return ()
        return tuple(
            Hop(
                link.latency_seconds,
                1 / link.bytes_per_second,
                tuple(place[lane] for lane in link.lanes),
            )
            for link in way
        )

    return lanes, tuple(
        tuple(hops(ways.get((source, target), ())) for target in devices) for source in devices
    )


def targets(cost_graph: CostGraph) -> Targets:
    """What the patterns of constraints can match."""
    return Targets(
        nodes={node: cost_graph.cost(node).module_path for node in cost_graph.order},
        parameters=cost_graph.owners,
    )


def with_demands(problem: Problem, demands: Sequence[Demand]) -> Problem:
    """The problem under other demands of the user; those of the model itself stay."""
    every = range(len(problem.devices))
    pinned: dict[int, set[int]] = {}
    for demand in demands:
        for node, device in demand.pinned:
            pinned[node] = pinned.get(node, set(every)) & {device}
    own = list(problem.colocated)
    for demand in problem.demands:
        for group in demand.colocated:
            own.remove(group)
    base = {node for demand in problem.demands for node, _ in demand.pinned}
    return replace(
        problem,
        allowed=tuple(
            tuple(sorted(pinned[node]))
            if node in pinned
            else (tuple(every) if node in base else problem.allowed[node])
            for node in range(len(problem.nodes))
        ),
        colocated=(*own, *(group for demand in demands for group in demand.colocated)),
        separated=tuple(pair for demand in demands for pair in demand.separated),
        contiguous=any(demand.contiguous for demand in demands),
        demands=tuple(demands),
    )


def _demand(
    constraint: Constraint, names: Targets, devices: Sequence[str], index: dict[str, int]
) -> Demand:
    alone = resolve([constraint], names, devices)
    return Demand(
        constraint,
        pinned=tuple((index[node], devices.index(name)) for node, name in alone.pinned.items()),
        colocated=tuple(tuple(sorted(index[n] for n in group)) for group in alone.colocated),
        separated=tuple(
            (tuple(sorted(index[n] for n in one)), tuple(sorted(index[n] for n in other)))
            for one, other in alone.separated
        ),
        contiguous=alone.contiguous,
    )


def _flows(cost_graph: CostGraph, index: dict[str, int]) -> Iterable[Flow]:
    for node in cost_graph.order:
        readers = sorted({index[reader] for reader in cost_graph.graph.successors(node)})
        if readers:
            tensor = cost_graph.tensor(node)
            yield Flow(index[node], tuple(readers), tensor.nbytes, tensor.gradient_nbytes)


def capacity_nbytes(cluster: Cluster, name: str) -> int | None:
    """The memory of a device; `None` is without limit."""
    memory = cluster.device(name).memory
    return memory if isinstance(memory, int) else None
