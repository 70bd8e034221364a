"""Sentences that tables, pictures and pages share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import permutations

from cost_models import has_peer_access
from partitioner.placement import Certificate, PipelineRecord, PlanDocument
from partitioner.spec import (
    ASSUMED_CPU_KIND,
    ASSUMED_KIND,
    ASSUMED_LINK,
    format_bandwidth,
    format_nbytes,
    format_seconds,
)


def model_name(document: PlanDocument) -> str:
    """The class of the planned model, without its module."""
    return document.model.class_name.rpartition(".")[2] or "model"


def devices_used(document: PlanDocument) -> tuple[str, ...]:
    """The devices on which something runs, in the cluster's order."""
    used = set(document.placement.values())
    for devices in document.pipeline.replicas if document.pipeline is not None else ():
        used |= set(devices)
    return tuple(device for device in document.devices if device in used)


def title(document: PlanDocument) -> str:
    """What the plan is, such as `"SeqNet on cuda:0 and cuda:1, training with adam"`."""
    work = "inference"
    if document.mode == "train":
        loss = None if document.loss is None else document.loss.name
        given = [name for name in (document.optimizer, loss) if name is not None]
        work = f"training with {listed(given)}" if given else "training"
    used = devices_used(document)
    where = listed(used) if len(used) <= 3 else f"{len(used)} devices"
    unused = len(document.devices) - len(used)
    spare = f" ({unused} more left empty)" if unused else ""
    return f"{model_name(document)} on {where}{spare}, {work}"


def verdict(document: PlanDocument) -> str:
    """Step, bottleneck and how good, such as `"one step 41.2 us · proved best for latency"`."""
    told = [
        f"one step {format_seconds(document.step_seconds)}",
        f"busiest device or link {format_seconds(document.bottleneck_seconds)}",
        f"{quality(document.certificate)} for {document.objective}",
    ]
    if document.pipeline is not None:
        told.insert(1, pipeline_text(document.pipeline))
    return " · ".join(told)


def pipeline_text(pipeline: PipelineRecord) -> str:
    """Such as `"8 micro-batches through 2 stages (1f1b), bubble 12%"`, and the replicas."""
    stages = len(pipeline.ranks) * pipeline.stages_per_rank
    count = len(pipeline.pipelines)
    return (
        f"{pipeline.micro_batches} micro-batches through {stages} "
        f"stage{'s' * (stages != 1)} ({pipeline.schedule}), bubble {percent(pipeline.bubble)}"
    ) + (f", in each of {count} replicas" if count > 1 else "")


def quality(certificate: Certificate) -> str:
    """`"proved best"`, or how far from the best possible it may be."""
    if certificate.status == "optimal":
        return "proved best"
    if certificate.bound <= 0:
        return "best found, with no bound"
    return f"within {percent(certificate.objective / certificate.bound - 1)} of the best possible"


def objective_text(objective: str, value: float) -> str:
    """A value of the objective: seconds, or the share of the fullest device."""
    return percent(value) if objective == "memory" else format_seconds(value)


def percent(share: float) -> str:
    """Such as `"3.1%"`; more digits where they are needed to differ from 0."""
    if 0 < share < 0.0005:
        return "less than 0.1%"
    return f"{100 * share:.1f}".removesuffix(".0") + "%"


def listed(names: Sequence[str], conjunction: str = "and") -> str:
    """`"a"`, `"a and b"`, `"a, b and c"`."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} {conjunction} {names[-1]}"


def kind_text(document: PlanDocument, device: str) -> str:
    """The kind of a device; of one that nobody declared, what was assumed."""
    for record in document.cluster.devices:
        if record.name == device:
            if record.kind is not None:
                return record.kind
            own = record.flops_per_second is not None and record.memory_bandwidth is not None
            return "as declared" if own else assumed_kind(device)
    return ""


def assumed_kind(device: str) -> str:
    """The kind that stands for a device of which only the name is known."""
    return ASSUMED_CPU_KIND if device.startswith("cpu") else ASSUMED_KIND


def assumptions(document: PlanDocument) -> tuple[str, ...]:
    """What the plan took for granted, since nobody declared or knew it."""
    found = []
    guessed: defaultdict[str, list[str]] = defaultdict(list)
    for record in document.cluster.devices:
        if record.kind is None and None in (record.flops_per_second, record.memory_bandwidth):
            guessed[assumed_kind(record.name)].append(record.name)
    for kind, names in guessed.items():
        found.append(f"the kind of {listed(names)} was not declared: reckoned as '{kind}'")
    found += _links(document)
    if document.rehearsal != "sizes":
        found.append(_REHEARSAL[document.rehearsal])
    if document.unpriced:
        found.append(
            f"no formula tells the work of {listed(document.unpriced)}: reckoned by the bytes that "
            "are touched"
        )
    return tuple(found)


_REHEARSAL = {
    "values": "the model decides by its data: its memory was measured on the example's values, and "
    "others may take more",
    "stand-ins": "the model decides by its data: its memory was measured for the one and the other "
    "outcome of each decision, and the larger counts",
    "none": "memory is predicted, not measured in a rehearsal: the model decides by data that it "
    "has not, or its pipeline is too long for one",
}


def curve_note(document: PlanDocument) -> str:
    """What the curves of memory over time are worth, beside the promised peak."""
    told = "Reckoned from the lifetimes of values"
    if document.pipeline is not None:
        told += ", without the buffers for what stages send each other"
    if document.rehearsal == "none":
        return f"{told}; the promised peak was reckoned, too."
    return f"{told}; the promised peak was measured in a rehearsal, and the two may differ."


def _links(document: PlanDocument) -> Iterator[str]:
    """What is bypassed over a host, and which links were assumed."""
    cluster = document.virtual_cluster()
    for link in cluster.links:
        if link.broken:
            yield f"the {link} is broken: what moves there is copied over '{link.detour}' instead"
    staged = sum(link.via is not None for link in cluster.links)
    if staged:
        kinds = {device.kind for device in document.cluster.devices if device.kind is not None}
        alone = sorted(kind for kind in kinds if not has_peer_access(kind))
        pairs = f"{staged} pair{'s' if staged > 1 else ''} of devices"
        why = f" ({listed(alone)} cards copy over the host)" if alone else ""
        yield (
            f"no peer access between {pairs}{why}: what moves there crosses the host's memory and "
            "waits for the links to it"
        )
    joined = set(cluster.network.devices) if cluster.network is not None else set()
    assumed = {
        frozenset(link.ends)
        for pair in permutations(document.devices, 2)
        if not joined.issuperset(pair)
        for link in cluster.road(*pair)
        if cluster.declared_link(*link.ends) is None
    }
    if assumed:
        declared = any(link.bandwidth is not None for link in cluster.links)
        which = f"{len(assumed)} of the links were" if declared else "links were"
        bandwidth = format_bandwidth(ASSUMED_LINK.bytes_per_second)
        latency = format_seconds(ASSUMED_LINK.latency_seconds)
        kind = f"reckoned as '{ASSUMED_LINK.name}', {bandwidth} after {latency}"
        yield f"{which} not declared: {kind}"


def busy_seconds(document: PlanDocument) -> dict[str, float]:
    """How long each device computes in one step."""
    busy = dict.fromkeys(document.devices, 0.0)
    for node, device in document.placement.items():
        cost = document.costs[node]
        busy[device] += cost.forward_seconds.get(device, 0.0)
        busy[device] += cost.backward_seconds.get(device, 0.0)
    if document.pipeline is not None:
        for devices in document.pipeline.replicas:
            busy.update((d, busy[f]) for f, d in zip(document.pipeline.ranks, devices, strict=True))
    return {device: passes(document) * seconds for device, seconds in busy.items()}


def like_it(document: PlanDocument) -> dict[str, tuple[str, ...]]:
    """By device, those that have the same part in other replicas; these are left out."""
    pipeline = document.pipeline
    if pipeline is None or not pipeline.replicas:
        return dict.fromkeys(document.devices, ())
    same = {first: rest for first, *rest in zip(*pipeline.pipelines, strict=True)}
    left_out = {device for devices in pipeline.replicas for device in devices}
    return {d: tuple(same.get(d, ())) for d in document.devices if d not in left_out}


def passes(document: PlanDocument) -> int:
    """How often a step goes through the model: once, or once for each micro-batch."""
    return 1 if document.pipeline is None else document.pipeline.micro_batches


def moved_nbytes(document: PlanDocument) -> int:
    """Bytes that cross between devices in one step."""
    return passes(document) * sum(transfer.nbytes for transfer in document.transfers)


def moved(document: PlanDocument) -> str:
    """The transfers of one step in a few words."""
    count = passes(document) * len(document.transfers)
    if not count:
        return "nothing moves between devices"
    return (
        f"{count} transfer{'s' if count > 1 else ''} "
        f"of {format_nbytes(moved_nbytes(document))} in all"
    )
