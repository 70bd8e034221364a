"""What follows from the stages of a pipeline: its timetable, transfers and busiest part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from partitioner.capture import Captured
from partitioner.graph import WEIGHT_SHARE, Meetings, StagePart, split_stages, weighted_nodes
from partitioner.graph.cost_graph import CostGraph
from partitioner.placement.parts import AllReduce, LinkTraffic, PipelineRecord, Transfer
from partitioner.placement.replicas import (
    Traffic,
    add_rings,
    all_reduces,
    check_alike,
    sums_begin,
)
from partitioner.schedule import (
    StageSeconds,
    Timetable,
    backward_parts,
    orders,
    receives_ahead,
    simulate,
)
from partitioner.spec import Cluster


@dataclass(frozen=True)
class Pipelined:
    """A pipeline, counted from its cost graph.

    Attributes:
        parts: the stages.
        seconds: by stage, of one micro-batch.
        timetable: of one step, up to the last gradient of each replica.
        step_seconds: with the sums over replicas.
        transfers: of one micro-batch of the first replica, in the order in which they happen.
        bottleneck_seconds: what the busiest rank, or link, has to do in one step.
        all_reduce: by rank, where there are replicas.
        sums_begin: when each of these does.
        traffic: by link, where there are replicas.
    """

    parts: tuple[StagePart, ...]
    seconds: tuple[StageSeconds, ...]
    timetable: Timetable
    step_seconds: float
    transfers: tuple[Transfer, ...]
    bottleneck_seconds: float
    all_reduce: tuple[AllReduce, ...] = ()
    sums_begin: tuple[float, ...] = ()
    traffic: tuple[LinkTraffic, ...] = ()

    def recorded(self, record: PipelineRecord) -> PipelineRecord:
        """The record with what was counted."""
        return replace(
            record,
            bubble=self.timetable.bubble,
            all_reduce=self.all_reduce,
            traffic=self.traffic,
        )


def pipelined(
    captured: Captured, graph: CostGraph, cluster: Cluster, record: PipelineRecord
) -> Pipelined:
    """Count a pipeline.

    Raises:
        PlanError: the stages do not fit the recording.
        SpecError: the schedule does not take these numbers, or the replicas are not alike.
    """
    parts = split_stages(captured, record.stages)
    moves = _transfers(graph, cluster, record, parts)
    weighted, meetings = weighted_nodes(graph), Meetings(graph)
    seconds = tuple(
        _seconds(graph, cluster, record, part, weighted, meetings.split(part)) for part in parts
    )
    plan = orders(
        record.schedule,
        len(record.ranks),
        record.micro_batches,
        stages_per_rank=record.stages_per_rank,
        training=captured.training,
    )
    table = simulate(plan, seconds, ahead=receives_ahead(record.schedule))
    traffic = Traffic(cluster)
    place = {name: rank for rank, name in enumerate(record.ranks)}
    for devices in record.pipelines:
        for move in moves:
            source, destination = devices[place[move.source]], devices[place[move.destination]]
            traffic.add(source, destination, move.nbytes, record.micro_batches)
    sums: tuple[AllReduce, ...] = ()
    begins: tuple[float, ...] = ()
    step = table.seconds
    if record.replicas:
        check_alike(cluster, record.pipelines)
        nbytes = _gradient_nbytes(captured, parts, len(record.ranks))
        sums = all_reduces(cluster, record.pipelines, nbytes)
        add_rings(traffic, record.pipelines, nbytes)
        begins = sums_begin(cluster, record.pipelines, table)
        step = max(step, *(b + each.seconds for b, each in zip(begins, sums, strict=True)))
    return Pipelined(
        parts,
        seconds,
        table,
        step,
        moves,
        max((*table.busy_seconds, *traffic.busy.values()), default=0.0),
        sums,
        begins,
        tuple(traffic.links.values()) if record.replicas else (),
    )


def _gradient_nbytes(captured: Captured, parts: Sequence[StagePart], ranks: int) -> tuple[int, ...]:
    """By rank, the bytes of its parameters' gradients."""
    found = [0] * ranks
    for part in parts:
        tensors = (captured.state[name].tensor for name in part.state)
        found[part.index % ranks] += sum(t.nbytes for t in tensors if t.requires_grad)
    return tuple(found) if captured.training else (0,) * ranks


def placement_of_stages(
    captured: Captured, parts: Sequence[StagePart], ranks: Sequence[str]
) -> dict[str, str]:
    """The device of every node; of one that several stages compute, that of the first of them."""
    found: dict[str, str] = {}
    for part in parts:
        for name in part.nodes:
            found.setdefault(name, ranks[part.index % len(ranks)])
    inputs = {str(n.target): n.name for n in captured.graph.nodes if n.op == "placeholder"}
    for part in parts:
        for name in part.inputs:
            found.setdefault(inputs[name], ranks[part.index % len(ranks)])
    return {name: found.get(name, ranks[0]) for name in captured.nodes}


def _seconds(
    graph: CostGraph,
    cluster: Cluster,
    record: PipelineRecord,
    part: StagePart,
    weighted: set[str],
    splits: bool,
) -> StageSeconds:
    ranks = record.ranks
    here = ranks[part.index % len(ranks)]
    backward = sum(graph.cost(node).backward_seconds[here] for node in part.nodes)
    weight = WEIGHT_SHARE * sum(
        graph.cost(node).backward_seconds[here] for node in part.nodes if node in weighted
    )
    apart = backward_parts(part.index, backward, weight, splits)
    last = part.index == max(record.stages.values())
    after, before = ranks[(part.index + 1) % len(ranks)], ranks[(part.index - 1) % len(ranks)]
    out = 0 if last else sum(graph.tensor(node).nbytes for node in part.wires_out)
    back = sum(graph.tensor(node).gradient_nbytes for node in part.wires_in)
    return StageSeconds(
        forward=sum(graph.cost(node).forward_seconds[here] for node in part.nodes),
        backward_input=apart[0],
        backward_weight=apart[1],
        send=cluster.transfer_seconds(here, after, out) if out and here != after else 0.0,
        send_back=cluster.transfer_seconds(here, before, back) if back and here != before else 0.0,
    )


def _transfers(
    graph: CostGraph, cluster: Cluster, record: PipelineRecord, parts: Sequence[StagePart]
) -> tuple[Transfer, ...]:
    """The wires of one micro-batch, forth and back."""
    forward, backward = [], []
    for part in parts[1:]:
        before = record.ranks[(part.index - 1) % len(record.ranks)]
        here = record.ranks[part.index % len(record.ranks)]
        for node in part.wires_in if before != here else ():
            tensor = graph.tensor(node)
            if tensor.nbytes:
                seconds = cluster.transfer_seconds(before, here, tensor.nbytes)
                forward.append(Transfer(node, before, here, tensor.nbytes, seconds, "forward"))
            if tensor.gradient_nbytes:
                nbytes = tensor.gradient_nbytes
                seconds = cluster.transfer_seconds(here, before, nbytes)
                backward.append(Transfer(node, here, before, nbytes, seconds, "backward"))
    return (*forward, *reversed(backward))
