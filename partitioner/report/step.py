"""`Step`: who computes and sends what, and when, in one step of a plan."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from partitioner.capture import captured_of
from partitioner.graph.cost_graph import CostGraph
from partitioner.placement import PipelineRecord, PlanDocument, cost_graph_of, pipelined, timeline
from partitioner.schedule import Interval, Kind

PHASES = {
    Kind.FORWARD: "forward",
    Kind.BACKWARD: "backward",
    Kind.BACKWARD_INPUT: "backward of inputs",
    Kind.BACKWARD_WEIGHT: "backward of weights",
}


@dataclass(frozen=True, slots=True)
class Work:
    """What occupies a device for a while: a node, or a stage of a pipeline.

    Attributes:
        device: its name.
        what: the node's name, or `"stage 0"`.
        phase: such as `"forward"`.
        start_seconds: from the beginning of the step.
        end_seconds: likewise.
        micro_batch: its number, in a pipeline.
    """

    device: str
    what: str
    phase: str
    start_seconds: float
    end_seconds: float
    micro_batch: int | None = None


@dataclass(frozen=True, slots=True)
class Sending:
    """What is on a link for a while.

    Attributes:
        source: a device's name; of the second hop over a host, the host's.
        destination: likewise.
        what: the node whose value or gradient it is, or `"stage 0"` whose results they are.
        phase: `"forward"`, `"backward"`, or `"all-reduce"` for the sum over replicas.
        nbytes: carried; of an all-reduce, those of the gradients.
        start_seconds: from the beginning of the step.
        end_seconds: likewise.
        made_by: index of the `Work` that it waited for; `None` of a second hop.
        awaited_by: index of the `Work` that waits for it; `None` where nothing does.
        micro_batch: its number, in a pipeline.
    """

    source: str
    destination: str
    what: str
    phase: str
    nbytes: int
    start_seconds: float
    end_seconds: float
    made_by: int | None = None
    awaited_by: int | None = None
    micro_batch: int | None = None


@dataclass(frozen=True)
class Step:
    """One step, as the plan promises it.

    Attributes:
        devices: names, in the cluster's order.
        work: by device and then by time.
        sendings: by time.
        seconds: of the whole step.
    """

    devices: tuple[str, ...]
    work: tuple[Work, ...]
    sendings: tuple[Sending, ...]
    seconds: float


def step_of(document: PlanDocument) -> Step:
    """Simulate a step of a plan anew, from its costs and its cluster."""
    graph = cost_graph_of(document)
    if document.pipeline is not None:
        return _of_pipeline(document, document.pipeline, graph)
    found = timeline(graph, document.placement, document.cluster.cluster())
    work = [
        Work(span.lane, span.what, span.phase, span.start_seconds, span.end_seconds)
        for span in found.spans
        if span.kind == "node"
    ]
    work.sort(key=lambda item: (document.devices.index(item.device), item.start_seconds))
    index = {(item.what, item.phase): i for i, item in enumerate(work)}
    sendings = []
    for span in found.spans:
        if span.kind == "node":
            continue
        source, _, destination = span.lane.partition(" → ")
        forward, tensor = span.phase == "forward", graph.tensor(span.what)
        readers = [
            index[reader, span.phase]
            for reader in graph.graph.successors(span.what)
            if (reader, span.phase) in index
        ]
        away = destination if forward else source
        there = [i for i in readers if work[i].device == away]
        own = index.get((span.what, span.phase))
        made, awaited = (
            (own, min(there, default=None)) if forward else (max(there, default=None), own)
        )
        sendings.append(
            Sending(
                source,
                destination,
                span.what,
                span.phase,
                tensor.nbytes if forward else tensor.gradient_nbytes,
                span.start_seconds,
                span.end_seconds,
                made if made is not None and work[made].device == source else None,
                awaited if awaited is not None and work[awaited].device == destination else None,
            )
        )
    sendings.sort(key=lambda item: item.start_seconds)
    return Step(document.devices, tuple(work), tuple(sendings), found.step_seconds)


def _of_pipeline(document: PlanDocument, record: PipelineRecord, graph: CostGraph) -> Step:
    """All replicas at work side by side, and in the end the sums of their gradients."""
    found = pipelined(captured_of(document.program), graph, document.cluster.cluster(), record)
    table = found.timetable
    work = [
        Work(
            ranks[rank],
            f"stage {interval.action.stage}",
            PHASES[interval.action.kind],
            interval.start,
            interval.end,
            interval.action.micro_batch,
        )
        for ranks in record.pipelines
        for rank, intervals in enumerate(table.compute)
        for interval in intervals
    ]
    work.sort(key=lambda item: (document.devices.index(item.device), item.start_seconds))
    index = {
        (item.device, item.what, item.micro_batch, item.phase): i for i, item in enumerate(work)
    }

    def sent(ranks: Sequence[str], rank: int, interval: Interval) -> Sending:
        action = interval.action
        forward, part = action.kind == Kind.FORWARD, found.parts[action.stage]
        to = action.stage + (1 if forward else -1)
        source, destination = ranks[rank], ranks[to % len(ranks)]
        nbytes = (
            sum(graph.tensor(node).nbytes for node in part.wires_out)
            if forward
            else sum(graph.tensor(node).gradient_nbytes for node in part.wires_in)
        )
        key = action.micro_batch, PHASES[action.kind]
        return Sending(
            source,
            destination,
            f"stage {action.stage}",
            "forward" if forward else "backward",
            nbytes,
            interval.start,
            interval.end,
            index[source, f"stage {action.stage}", *key],
            index.get((destination, f"stage {to}", *key)),
            action.micro_batch,
        )

    sendings = [
        sent(ranks, rank, interval)
        for ranks in record.pipelines
        for rank, intervals in enumerate(table.transfers)
        for interval in intervals
    ]
    for rank, total in enumerate(found.all_reduce):
        ring = [ranks[rank] for ranks in record.pipelines]
        start = found.sums_begin[rank]
        for source, destination in zip(ring, (*ring[1:], ring[0]), strict=True):
            what = f"gradients of rank {rank}"
            end = start + total.seconds
            sending = Sending(source, destination, what, "all-reduce", total.nbytes, start, end)
            sendings.append(sending)
    sendings.sort(key=lambda item: item.start_seconds)
    return Step(document.devices, tuple(work), tuple(sendings), found.step_seconds)


def lanes(sendings: Sequence[Sending]) -> dict[tuple[str, str, int], list[int]]:
    """Indices of sendings by source, destination and track, none of which overlap.

    What is on one link at the same time is put on tracks of its own.
    """
    ends: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    found: defaultdict[tuple[str, str, int], list[int]] = defaultdict(list)
    for i, sending in enumerate(sendings):
        link = (sending.source, sending.destination)
        free = (t for t, end in enumerate(ends[link]) if end <= sending.start_seconds)
        track = next(free, len(ends[link]))
        ends[link][track : track + 1] = [sending.end_seconds]
        found[*link, track].append(i)
    order = {link: i for i, link in enumerate(ends)}
    return dict(sorted(found.items(), key=lambda lane: (order[lane[0][:2]], lane[0][2])))


def merged(work: Iterable[Work], shortest_seconds: float) -> Iterator[tuple[Work, ...]]:
    """Neighbours on a device, until they last so long together; for pictures of a fixed width.

    Args:
        work: by device and then by time.
        shortest_seconds: what is longer stands alone, and so does what comes after a longer gap.
    """
    group: list[Work] = []
    for item in work:
        if group and (
            (group[-1].device, group[-1].phase) != (item.device, item.phase)
            or item.end_seconds - group[0].start_seconds > shortest_seconds
            or item.start_seconds - group[-1].end_seconds > shortest_seconds
        ):
            yield tuple(group)
            group = []
        group.append(item)
    if group:
        yield tuple(group)
