"""Why a plan is like this, in a screenful."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence

from partitioner.placement import MemoryUse, PlanDocument
from partitioner.report.folding import whole_modules
from partitioner.report.partition_graph import PartitionGraph
from partitioner.report.reading import partition_graph
from partitioner.report.wording import (
    assumptions,
    busy_seconds,
    devices_used,
    like_it,
    listed,
    moved,
    passes,
    percent,
    pipeline_text,
    quality,
    title,
    verdict,
)
from partitioner.spec import format_nbytes, format_seconds

COLUMNS = 90
SHOWN = 3
"""How many examples a sentence names."""


def explain(document: PlanDocument, outlook: Sequence[str] = ()) -> str:
    """Why the plan is like this: where it is cut, where time and memory go, what limits it.

    Args:
        document: the plan.
        outlook: further sentences, beside those of the plan.
    """
    lines = [title(document), verdict(document), ""]
    for point in reasons(document, outlook):
        lines += textwrap.wrap(
            point, COLUMNS, initial_indent="- ", subsequent_indent="  ", break_long_words=False
        )
    return "\n".join(lines)


def reasons(document: PlanDocument, outlook: Sequence[str] = ()) -> list[str]:
    """The same, as sentences."""
    graph = partition_graph(document)
    return [
        *_why(document),
        *_whole(document),
        *_cut(document, graph),
        _time(document, graph),
        *_replicas(document),
        *_memory(document),
        *_cache(document),
        *document.outlook,
        *outlook,
        *(f"Note: {text}." for text in assumptions(document)),
    ]


def _why(document: PlanDocument) -> Iterator[str]:
    """Why one device, or why more than one."""
    used = devices_used(document)
    proof = quality(document.certificate)
    if "" in document.program.opaque and len(used) == 1:
        yield f"All of it is on {used[0]}: the model cannot be split."
    elif len(used) == 1:
        yield f"All of it fits on {used[0]}: nothing has to be split."
        if len(document.devices) > 1 and document.objective == "latency":
            claim = "no split is faster" if proof == "proved best" else "no faster split was found"
            yield (
                "A second device would save no time: what could run there at the same time gains "
                f"less than moving the values costs; {claim}."
            )
    else:
        yield _why_split(document)
    if document.constraints:
        yield f"Demanded by you: {'; '.join(document.constraints)}."
    if document.certificate.status != "optimal":
        yield f"The search ended early: the plan is {proof}. More time may find a better one."


def _cache(document: PlanDocument) -> Iterator[str]:
    if document.cache_tokens is not None:
        yield (
            f"The memory is that of `generate` with a key-value cache of {document.cache_tokens} "
            "tokens."
        )


def _whole(document: PlanDocument) -> Iterator[str]:
    """Which parts are called whole, since no graph stands for them, and why."""
    parts = list(document.program.opaque.items())
    if len(devices_used(document)) > 1 and "" in document.program.opaque:
        yield (
            f"The model runs its own code, since no graph stands for it ({parts[0][1]}): it was "
            "planned along one way through it, and values follow the weights."
        )
        parts = [(path, reason) for path, reason in parts if path]
    named = [f"{_quoted(path)} ({reason})" for path, reason in parts[:SHOWN]]
    more = f", and so are {len(parts) - SHOWN} more" if len(parts) > SHOWN else ""
    if named:
        verb = "is" if len(parts) == 1 else "are"
        yield f"Called whole, as one unit each, {verb} {listed(named)}{more}."


def _quoted(path: str) -> str:
    return f"'{path}'" if path else "the model"


def _cut(document: PlanDocument, graph: PartitionGraph) -> Iterator[str]:
    """Where values cross, and what that costs."""
    if not graph.crossings:
        return
    readers: dict[tuple[str, str], list[str]] = {}
    for source, target in graph.edges:
        device = document.placement.get(target, "")
        readers.setdefault((source, device), []).append(target)
    largest = sorted(graph.crossings, key=lambda crossing: -crossing.nbytes)[:SHOWN]
    examples = []
    for crossing in largest:
        targets = listed(readers[crossing.tensor, crossing.destination][:SHOWN])
        sizes = format_nbytes(crossing.nbytes)
        if crossing.gradient_nbytes:
            sizes += f", gradient back {format_nbytes(crossing.gradient_nbytes)}"
        examples.append(f"{crossing.tensor} goes to {targets} on {crossing.destination} ({sizes})")
    seconds = passes(document) * sum(transfer.seconds for transfer in document.transfers)
    more = len(graph.crossings) - len(examples)
    yield (
        f"It is cut where {'; '.join(examples)}"
        + (f"; and {more} smaller or equal ones" if more else "")
        + f". In a step {moved(document)} keep the links busy for {format_seconds(seconds)}"
        + (
            f", {percent(seconds / document.step_seconds)} of the step."
            if seconds < document.step_seconds
            else "."
        )
    )


def _time(document: PlanDocument, graph: PartitionGraph) -> str:
    """Which parts take the time."""
    total = sum(operation.seconds for operation in graph.operations) or 1.0
    slowest = sorted(whole_modules(graph), key=lambda box: -box.seconds)[:SHOWN]
    parts = [f"{box.full_name} ({percent(box.seconds / total)})" for box in slowest if box.seconds]
    busy = busy_seconds(document)
    used = devices_used(document)
    same = like_it(document)
    shares = [
        f"{device} computes for {format_seconds(busy[device])}" for device in used if device in same
    ]
    return f"Of a step of {format_seconds(document.step_seconds)}, {listed(shares)}" + (
        f"; most of it in {listed(parts)}." if len(parts) > 1 else "."
    )


def _replicas(document: PlanDocument) -> Iterator[str]:
    """What training several copies of a pipeline costs and brings."""
    pipeline = document.pipeline
    if pipeline is None or not pipeline.all_reduce:
        return
    count = len(pipeline.pipelines)
    longest = max(pipeline.all_reduce, key=lambda sum_: sum_.seconds)
    busiest = max(pipeline.traffic, key=lambda link: link.seconds)
    yield (
        f"{count} replicas take a batch each, {format_seconds(document.step_seconds / count)} for "
        f"one. At the end of a step their gradients are summed in rings, rank by rank: "
        f"{format_nbytes(longest.nbytes)} in {format_seconds(longest.seconds)} where it takes "
        f"longest. The busiest of {len(pipeline.traffic)} links is that from {busiest.source} to "
        f"{busiest.destination}, with {format_nbytes(busiest.nbytes)} in "
        f"{format_seconds(busiest.seconds)}."
    )


def _memory(document: PlanDocument) -> Iterator[str]:
    """How full the fullest device is, and of what."""
    limited = {d: u for d, u in document.memory.items() if u.limit and u.peak}
    if not limited:
        return
    device, use = max(limited.items(), key=lambda item: item[1].peak / (item[1].limit or 1))
    parts = sorted(
        (
            ("weights", use.parameters),
            ("gradients", use.gradients),
            ("optimizer state", use.optimizer),
            ("activations", use.activations),
            ("workspace", use.workspace),
        ),
        key=lambda part: -part[1],
    )
    holds = listed([f"{name} {format_nbytes(nbytes)}" for name, nbytes in parts if nbytes][:SHOWN])
    yield f"{device} is the fullest: {_peak(use)}, mostly {holds}."


def _peak(use: MemoryUse) -> str:
    if not use.limit:
        return f"its peak is {format_nbytes(use.peak)}, without a limit"
    free = use.limit - use.peak
    return (
        f"its peak is {format_nbytes(use.peak)}, {percent(use.peak / use.limit)} of its limit, "
        f"and {format_nbytes(free)} stay free"
    )


def _why_split(document: PlanDocument) -> str:
    """What the split gains, or what forces it.

    On one device nothing waits for a transfer: a step there takes the sum of all seconds. A plan
    for latency that takes longer was not free to choose that.
    """
    device, alone = _fastest_alone(document)
    if document.pipeline is not None:
        return (
            f"It is a pipeline of {pipeline_text(document.pipeline)}: a batch takes "
            f"{format_seconds(document.step_seconds)} by the schedule's timetable; {device} alone "
            f"would compute for {format_seconds(alone)}."
        )
    if document.objective == "memory":
        share = percent(document.certificate.objective)
        return f"It is split so that the fullest device is as empty as it can be: {share} full."
    if document.objective == "throughput":
        return (
            "It is split so that in a steady pipeline no device or link is busy for longer than "
            f"{format_seconds(document.bottleneck_seconds)} a step; {device} alone would be for "
            f"{format_seconds(alone)}."
        )
    together = sum(use.peak for use in document.memory.values())
    limits = [use.limit for use in document.memory.values() if use.limit is not None]
    hopeless = len(limits) == len(document.memory) and together > max(limits)
    if document.step_seconds <= alone and hopeless:
        return (
            f"No device could hold it alone: the peaks add up to {format_nbytes(together)}, the "
            f"largest limit is {format_nbytes(max(limits))}. The split costs no time, since parts "
            f"run at the same time: {device} alone would take {format_seconds(alone)}."
        )
    if document.step_seconds <= alone:
        return (
            f"It is split since parts can run at the same time: on {device} alone a step would "
            f"take {format_seconds(alone)}."
        )
    limit = document.memory[device].limit
    size = f"{format_nbytes(limit)} are" if limit is not None else "its memory is"
    who = "Memory or a constraint" if document.constraints else "Memory"
    return (
        f"{who} forces the split: on {device} alone a step would take {format_seconds(alone)}, but "
        f"{size} too little for {_contents(document)} together."
    )


def _contents(document: PlanDocument) -> str:
    if document.mode == "inference":
        return "weights and activations"
    state = ", optimizer state" if document.optimizer else ""
    return f"weights, gradients{state} and activations"


def _fastest_alone(document: PlanDocument) -> tuple[str, float]:
    """The device that would take the least time for everything, and that time."""
    seconds = {
        device: sum(
            cost.forward_seconds.get(device, math.inf) + cost.backward_seconds.get(device, 0.0)
            for cost in document.costs.values()
        )
        * passes(document)
        for device in document.devices
    }
    device = min(seconds, key=lambda name: seconds[name])
    return device, seconds[device]
