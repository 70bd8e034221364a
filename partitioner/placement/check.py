"""The re-check: everything that a solver said, counted again in plain Python.

Nothing here is shared with the solver. A plan that does not pass is never shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, zip_longest
from math import isclose
from typing import TYPE_CHECKING

import networkx as nx
from msgspec.structs import replace

from partitioner.capture import captured_of
from partitioner.errors import PlanError, SolverError, SpecError
from partitioner.graph.cost_graph import CostGraph
from partitioner.placement.memory import Measured, fullness, peak_nbytes
from partitioner.placement.parts import AllReduce, LinkTraffic, PipelineRecord, Transfer
from partitioner.placement.pipeline import Pipelined, pipelined
from partitioner.placement.timeline import bottleneck_seconds, step_seconds
from partitioner.placement.transfers import receivers
from partitioner.placement.validate import faults, first_few
from partitioner.spec import (
    Cluster,
    Constraint,
    Demands,
    Targets,
    format_nbytes,
    parse_constraint,
    resolve,
)

if TYPE_CHECKING:
    from partitioner.placement.document import PlanDocument

RELATIVE_TOLERANCE = 1e-6


def check_placement(
    graph: CostGraph,
    cluster: Cluster,
    placement: Mapping[str, str],
    constraints: Sequence[Constraint] = (),
    measured: Mapping[str, Measured] | None = None,
) -> None:
    """Check that a placement is a placement at all, and keeps to limits and constraints.

    Limits hold for the peaks that were `measured`, by device name, or else for the predicted ones.

    Raises:
        SolverError: it does not; the message names what is broken.
        SpecError: the constraints themselves make no sense.
    """
    demands = resolve(constraints, targets(graph), cluster.names, graph.colocated)
    _refuse(_misplaced(graph, placement))
    _refuse(
        chain(
            _torn(graph, placement),
            _violated(graph, demands, placement),
            _too_full(graph, cluster, placement, measured),
        )
    )


def check(
    document: PlanDocument,
    graph: CostGraph,
    cluster: Cluster,
    measured: Mapping[str, Measured] | None = None,
) -> None:
    """Check a plan and all that it claims against the cost graph, and peaks that were `measured`.

    Raises:
        SolverError: anything is broken; the message names it.
    """
    placement = document.placement
    constraints = [*map(parse_constraint, document.constraints)]
    if document.pipeline is not None:
        _refuse(chain(_misplaced(graph, placement), faults(document)))
        _refuse(chain(disagreements(document, graph), _wrong_bound(document)))
        return
    check_placement(graph, cluster, placement, constraints, measured)
    _refuse(
        chain(
            _wrong_transfers(graph, placement, document.transfers),
            _wrong_seconds(graph, cluster, document),
            _wrong_certificate(graph, cluster, placement, document),
            faults(document),
        )
    )


def disagreements(document: PlanDocument, graph: CostGraph) -> Iterator[str]:
    """Where a plan's placement, transfers and constraints do not fit a graph of its program."""
    placement = document.placement
    for name, nodes in graph.owners.items() if document.pipeline is None else ():
        for node in nodes:
            home = document.parameters.get(name, placement[node])
            if home != placement[node]:
                yield f"parameters.{name}: on '{home}', but '{node}', which owns it, is not"
    try:
        constraints = [*map(parse_constraint, document.constraints)]
        demands = resolve(constraints, targets(graph), document.devices, graph.colocated)
    except SpecError as error:
        yield f"constraints: {error}"
        return
    yield from _torn(graph, placement)
    yield from _violated(graph, demands, placement)
    if document.pipeline is None:
        yield from _wrong_transfers(graph, placement, document.transfers)
    else:
        yield from _wrong_pipeline(graph, document.pipeline, document)


def objective_value(
    graph: CostGraph, cluster: Cluster, placement: Mapping[str, str], objective: str
) -> float:
    """What a placement is worth: seconds, or for `"memory"` the fullest device's share."""
    match objective:
        case "latency":
            return step_seconds(graph, placement, cluster)
        case "throughput":
            return bottleneck_seconds(graph, placement, cluster)
        case "memory":
            return fullness(peak_nbytes(graph, placement), cluster)
        case _:
            raise ValueError(f"no such objective: {objective!r}")


def targets(graph: CostGraph) -> Targets:
    """What constraint patterns can match in a cost graph."""
    return Targets(
        nodes={node: graph.cost(node).module_path for node in graph.order},
        parameters=graph.owners,
    )


def _misplaced(graph: CostGraph, placement: Mapping[str, str]) -> Iterator[str]:
    for node in graph.order:
        device = placement.get(node)
        if device is None:
            yield f"'{node}' is on no device"
        elif device not in graph.devices:
            yield f"'{node}' is on '{device}', which is not there"
        elif device not in graph.cost(node).forward_seconds:
            yield f"'{node}' cannot run on '{device}'"
    for node in placement:
        if node not in graph.graph:
            yield f"'{node}' is placed, but no node of the graph"


def _torn(graph: CostGraph, placement: Mapping[str, str]) -> Iterator[str]:
    for group in graph.colocated:
        if len({placement[node] for node in group}) > 1:
            yield f"{_spread(group, placement)} must share a device"


def _violated(graph: CostGraph, demands: Demands, placement: Mapping[str, str]) -> Iterator[str]:
    for node, device in demands.pinned.items():
        if placement[node] != device:
            yield f"'{node}' is on '{placement[node]}', but pinned to '{device}'"
    for group in demands.colocated:
        if len({placement[node] for node in group}) > 1:
            yield f"{_spread(group, placement)} were to be colocated"
    for first, second in demands.separated:
        homes = {placement[node]: node for node in first}
        for node in second:
            if placement[node] in homes:
                other = homes[placement[node]]
                yield f"'{other}' and '{node}' were to be separate, and share '{placement[node]}'"
                break
    if demands.contiguous:
        yield from _back_and_forth(graph, placement)


def _back_and_forth(graph: CostGraph, placement: Mapping[str, str]) -> Iterator[str]:
    between: nx.DiGraph[str] = nx.DiGraph()
    for node in graph.order:
        if graph.tensor(node).nbytes:
            between.add_edges_from(
                (placement[node], away) for away in receivers(graph, placement, node)
            )
    if not nx.is_directed_acyclic_graph(between):
        around = " → ".join(edge[0] for edge in nx.find_cycle(between))
        yield f"values go round in a circle of devices, {around} →, but were to be contiguous"


def _too_full(
    graph: CostGraph,
    cluster: Cluster,
    placement: Mapping[str, str],
    measured: Mapping[str, Measured] | None,
) -> Iterator[str]:
    peaks = peak_nbytes(graph, placement)
    if measured is not None:
        peaks = {name: found.peak for name, found in measured.items()}
    for name, peak in peaks.items():
        limit = cluster.device(name).memory
        if isinstance(limit, int) and peak > limit:
            yield (
                f"'{name}' holds {peak} bytes ({format_nbytes(peak)}) at its peak, "
                f"{peak - limit} more than its limit"
            )


def _wrong_transfers(
    graph: CostGraph, placement: Mapping[str, str], transfers: Sequence[Transfer]
) -> Iterator[str]:
    wanted: Counter[str] = Counter()
    for node in graph.order:
        home, tensor = placement[node], graph.tensor(node)
        for away in {placement[reader] for reader in graph.graph.successors(node)} - {home}:
            if tensor.nbytes:
                wanted[_move("forward", node, tensor.nbytes, home, away)] += 1
            if tensor.gradient_nbytes:
                wanted[_move("backward", node, tensor.gradient_nbytes, away, home)] += 1
    found = Counter(_move(t.phase, t.tensor, t.nbytes, t.source, t.destination) for t in transfers)
    for move, count in (found - wanted).items():
        yield f"{move} is there {found[move]} times, {count} too many"
    for move in wanted - found:
        yield f"{move} is missing"


def _wrong_wires(
    graph: CostGraph, pipeline: PipelineRecord, document: PlanDocument
) -> Iterator[str]:
    """Values pass from each stage to the next one only, and each place once."""
    wanted: Counter[str] = Counter()
    output = next(iter(reversed(captured_of(document.program).graph.nodes)))
    returned = {node.name for node in output.all_input_nodes}
    last = max(pipeline.stages.values())
    for node, stage in pipeline.stages.items():
        readers = [pipeline.stages.get(reader, stage) for reader in graph.graph.successors(node)]
        until = last if node in returned else max(readers, default=stage)
        tensor = graph.tensor(node)
        for place in range(stage, until):
            source, target = (pipeline.ranks[s % len(pipeline.ranks)] for s in (place, place + 1))
            if source == target:
                continue
            if tensor.nbytes:
                wanted[_move("forward", node, tensor.nbytes, source, target)] += 1
            if tensor.gradient_nbytes:
                wanted[_move("backward", node, tensor.gradient_nbytes, target, source)] += 1
    found = Counter(
        _move(t.phase, t.tensor, t.nbytes, t.source, t.destination) for t in document.transfers
    )
    for move in found - wanted:
        yield f"{move} is not needed"
    for move in wanted - found:
        yield f"{move} is missing"


def _wrong_seconds(graph: CostGraph, cluster: Cluster, document: PlanDocument) -> Iterator[str]:
    for transfer in document.transfers:
        source, destination = transfer.source, transfer.destination
        seconds = cluster.transfer_seconds(source, destination, transfer.nbytes)
        if not isclose(seconds, transfer.seconds, rel_tol=RELATIVE_TOLERANCE):
            yield f"moving '{transfer.tensor}' takes {seconds:.9g} s, not {transfer.seconds:.9g} s"
    for key, counted in (
        ("step_seconds", step_seconds(graph, document.placement, cluster)),
        ("bottleneck_seconds", bottleneck_seconds(graph, document.placement, cluster)),
    ):
        claimed: float = getattr(document, key)
        if not isclose(counted, claimed, rel_tol=RELATIVE_TOLERANCE):
            yield f"{key} is {counted:.9g}, not {claimed:.9g}"


def _wrong_pipeline(
    graph: CostGraph, pipeline: PipelineRecord, document: PlanDocument
) -> Iterator[str]:
    """Stages, schedule, times and wires, where they make a pipeline at all."""
    told = False
    for fault in _wrong_stages(pipeline, document):
        told = True
        yield fault
    if told:
        return
    cluster = document.cluster.cluster()
    try:
        found = pipelined(captured_of(document.program), graph, cluster, pipeline)
    except (PlanError, SpecError) as error:
        yield f"pipeline: {error}"
        return
    for key, counted, claimed in (
        ("step_seconds", found.step_seconds, document.step_seconds),
        ("bottleneck_seconds", found.bottleneck_seconds, document.bottleneck_seconds),
        ("pipeline.bubble", found.timetable.bubble, pipeline.bubble),
    ):
        if not isclose(counted, claimed, rel_tol=RELATIVE_TOLERANCE, abs_tol=1e-12):
            yield f"{key} is {counted:.9g}, not {claimed:.9g}"
    yield from _wrong_sums(pipeline, found)
    yield from _wrong_wires(graph, pipeline, document)


def _wrong_sums(pipeline: PipelineRecord, found: Pipelined) -> Iterator[str]:
    """Sums over replicas and the traffic of links, where they differ from what was counted."""
    for key, counted, claimed in (
        ("all_reduce", found.all_reduce, pipeline.all_reduce),
        ("traffic", found.traffic, pipeline.traffic),
    ):
        one, other = ([_rounded(part) for part in parts] for parts in (counted, claimed))
        if one != other:
            yield f"pipeline.{key}: {first_few(_unequal(one, other))}"


def _rounded(part: AllReduce | LinkTraffic) -> str:
    return str(replace(part, seconds=float(f"{part.seconds:.6g}")))


def _unequal(counted: Sequence[str], claimed: Sequence[str]) -> Iterator[str]:
    for one, other in zip_longest(counted, claimed, fillvalue="nothing"):
        if one != other:
            yield f"{one} was counted, not {other}"


def _wrong_stages(pipeline: PipelineRecord, document: PlanDocument) -> Iterator[str]:
    if not pipeline.ranks or not pipeline.stages:
        yield "pipeline: there is no stage, or no rank"
        return
    for devices in pipeline.pipelines:
        if len(devices) != len(pipeline.ranks):
            yield f"pipeline.replicas: {devices} are not as many as there are ranks"
    named = [name for devices in pipeline.pipelines for name in devices]
    for rank in named:
        if rank not in document.devices:
            yield f"pipeline.ranks: '{rank}' is no device of the plan"
    if len(set(named)) < len(named):
        yield "pipeline.ranks: a device is named twice"
    stages = 1 + max(pipeline.stages.values())
    if stages % len(pipeline.ranks):
        yield f"pipeline.stages: {stages} cannot be divided equally among the ranks"
    for node in pipeline.stages:
        if node not in document.placement:
            yield f"pipeline.stages: '{node}' is no node of the plan"


def _move(phase: str, tensor: str, nbytes: int, source: str, destination: str) -> str:
    return f"the {phase}'s move of '{tensor}' ({nbytes} bytes) from '{source}' to '{destination}'"


def _wrong_certificate(
    graph: CostGraph,
    cluster: Cluster,
    placement: Mapping[str, str],
    document: PlanDocument,
) -> Iterator[str]:
    objective, certificate = document.objective, document.certificate
    counted = objective_value(graph, cluster, placement, objective)
    if not isclose(counted, certificate.objective, rel_tol=RELATIVE_TOLERANCE):
        yield (
            f"the solver claims {certificate.objective:.9g} as {objective}, "
            f"and the placement comes to {counted:.9g}"
        )
    yield from _wrong_bound(document)


def _wrong_bound(document: PlanDocument) -> Iterator[str]:
    certificate = document.certificate
    if not certificate.bound <= certificate.objective * (1 + RELATIVE_TOLERANCE):
        yield (
            f"the solver claims that nothing is below {certificate.bound:.9g}, "
            f"and its own placement is, at {certificate.objective:.9g}"
        )


def _spread(group: Sequence[str], placement: Mapping[str, str]) -> str:
    shown = [f"'{node}' (on '{placement[node]}')" for node in group[:4]]
    return ", ".join(shown) + (f" and {len(group) - 4} more" if len(group) > 4 else "")


def _refuse(faults: Iterable[str]) -> None:
    if found := first_few(faults):
        raise SolverError(f"the placement does not survive its re-check: {found}")
