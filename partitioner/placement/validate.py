"""What a plan document must satisfy by itself, with no model or cost graph at hand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from math import isclose, isfinite
from typing import TYPE_CHECKING

import torch

from partitioner.errors import SpecError
from partitioner.placement.memory import LEVELS
from partitioner.spec import MODES, OBJECTIVES, device_name, hint, parse_constraint

if TYPE_CHECKING:
    from partitioner.placement.document import PlanDocument
    from partitioner.placement.parts import Transfer

ROLES = ("parameter", "buffer", "constant")
RELATIVE_TOLERANCE = 1e-6


def faults(document: PlanDocument) -> Iterator[str]:
    """The contradictions in a document, each beginning with the key where it is."""
    yield from _words(document)
    yield from _loss(document)
    yield from _devices(document)
    yield from _placement(document)
    yield from _parameters(document)
    yield from _costs(document)
    yield from _transfers(document)
    yield from _memory(document)
    yield from _numbers(document)
    yield from _constraints(document)


def first_few(found: Iterable[str]) -> str:
    """The first three faults in one text; empty when there is none."""
    few = list(islice(found, 4))
    return "; ".join(few[:3]) + ("; and more" if len(few) > 3 else "")


def _words(document: PlanDocument) -> Iterator[str]:
    for key, word, known in (
        ("objective", document.objective, OBJECTIVES),
        ("mode", document.mode, MODES),
        *(("model.state", state.role, ROLES) for state in document.model.state),
    ):
        if word not in known:
            yield f"{key}: there is no {word!r}; {hint(word, known)}"


def _loss(document: PlanDocument) -> Iterator[str]:
    for target in () if document.loss is None else document.loss.targets or ():
        if not isinstance(getattr(torch, target.dtype, None), torch.dtype):
            yield f"loss.targets: there is no type {target.dtype!r}"


def _devices(document: PlanDocument) -> Iterator[str]:
    if not document.devices:
        yield "devices: there is none"
    for i, name in enumerate(document.devices):
        try:
            known = device_name(name) == name
        except SpecError as error:
            yield f"devices: {error}"
            continue
        if not known:
            yield f"devices: {name!r} is not spelt as {device_name(name)!r}"
        if name in document.devices[:i]:
            yield f"devices: {name!r} is there twice"
    declared = tuple(device.name for device in document.cluster.devices)
    if declared != document.devices:
        yield f"cluster.devices: names {declared} differ from the plan's devices {document.devices}"
    try:
        document.virtual_cluster()
    except SpecError as error:
        yield f"cluster.links: {error}"


def _placement(document: PlanDocument) -> Iterator[str]:
    yield from _known_devices("placement", document.placement, document.devices)
    nodes = [node.name for node in document.program.nodes if node.op != "output"]
    yield from _same_keys("placement", document.placement, dict.fromkeys(nodes), "the program")


def _parameters(document: PlanDocument) -> Iterator[str]:
    yield from _known_devices("parameters", document.parameters, document.devices)
    names = [
        name for state in document.model.state if state.role != "constant" for name in state.names
    ]
    yield from _same_keys("parameters", document.parameters, dict.fromkeys(names), "model.state")
    for state in document.model.state:
        homes = {document.parameters.get(name) for name in state.names}
        if len(homes) > 1:
            yield f"parameters: {state.names} are one tensor and must be on one device"


def _costs(document: PlanDocument) -> Iterator[str]:
    yield from _same_keys("costs", document.costs, document.placement, "the placement")
    for node, costs in document.costs.items():
        for key in ("forward_seconds", "backward_seconds"):
            seconds: Mapping[str, float] = getattr(costs, key)
            for name in seconds:
                if name not in document.devices:
                    yield f"costs.{node}.{key}: unknown device {name!r}"
            device = document.placement.get(node)
            if device in document.devices and device not in seconds:
                yield f"costs.{node}.{key}: nothing is said of '{device}', where the node is placed"
            if not all(isfinite(value) for value in seconds.values()):
                yield f"costs.{node}.{key}: a time is not finite"


def _transfers(document: PlanDocument) -> Iterator[str]:
    seen: set[tuple[str, str, str]] = set()
    for i, transfer in enumerate(document.transfers):
        where = f"transfers[{i}]"
        for key in ("source", "destination"):
            name = getattr(transfer, key)
            if name not in document.devices:
                yield f"{where}.{key}: unknown device {name!r}; {hint(name, document.devices)}"
        if transfer.source == transfer.destination:
            yield f"{where}: from '{transfer.source}' to itself"
        home = transfer.source if transfer.phase == "forward" else transfer.destination
        routed = document.pipeline is not None
        if transfer.tensor not in document.placement:
            yield f"{where}.tensor: the program has no node {transfer.tensor!r}"
        elif document.placement[transfer.tensor] != home and not routed:
            yield (
                f"{where}: '{transfer.tensor}' is placed on "
                f"'{document.placement[transfer.tensor]}', not on '{home}'"
            )
        if _key(transfer) in seen and not routed:
            yield f"{where}: '{transfer.tensor}' moves twice to one device"
        seen.add(_key(transfer))


def _key(transfer: Transfer) -> tuple[str, str, str]:
    away = transfer.destination if transfer.phase == "forward" else transfer.source
    return transfer.tensor, away, transfer.phase


def _memory(document: PlanDocument) -> Iterator[str]:
    yield from _same_keys(
        "memory", document.memory, dict.fromkeys(document.devices), "the plan's devices"
    )
    for name, use in document.memory.items():
        if use.limit is not None and use.peak > use.limit:
            yield f"memory.{name}: a peak of {use.peak} bytes passes the limit of {use.limit} bytes"
    for name, curve in document.memory_curves.items():
        key = f"memory_curves.{name}"
        if name not in document.devices:
            yield f"{key}: unknown device {name!r}; {hint(name, document.devices)}"
        if any(len(getattr(curve, role)) != len(curve.seconds) for role in LEVELS):
            yield f"{key}: there is not one number of bytes for each of its times"
        if list(curve.seconds) != sorted(curve.seconds) or not all(map(isfinite, curve.seconds)):
            yield f"{key}.seconds: the times do not ascend"


def _numbers(document: PlanDocument) -> Iterator[str]:
    certificate = document.certificate
    numbers = {
        "step_seconds": document.step_seconds,
        "bottleneck_seconds": document.bottleneck_seconds,
        "certificate.objective": certificate.objective,
        "certificate.bound": certificate.bound,
        "certificate.gap": certificate.gap,
    }
    for key, number in numbers.items():
        if not (isfinite(number) and number >= 0):
            yield f"{key}: {number} is no finite number of at least 0"
    objective, bound = certificate.objective, certificate.bound
    if bound > objective * (1 + RELATIVE_TOLERANCE):
        yield f"certificate.bound: {bound} is above the objective {objective}"
    gap = max(0.0, objective - bound) / objective if objective else 0.0
    if not isclose(certificate.gap, gap, abs_tol=RELATIVE_TOLERANCE):
        yield f"certificate.gap: {certificate.gap} does not follow from objective and bound"
    claimed = {
        "latency": document.step_seconds,
        "throughput": document.bottleneck_seconds
        if document.pipeline is None
        else document.step_seconds,
    }
    if document.objective in claimed and not isclose(
        objective, claimed[document.objective], rel_tol=RELATIVE_TOLERANCE
    ):
        yield (
            f"certificate.objective: {objective} is not the {document.objective} "
            f"of {claimed[document.objective]} seconds"
        )


def _constraints(document: PlanDocument) -> Iterator[str]:
    for i, text in enumerate(document.constraints):
        try:
            parse_constraint(text)
        except SpecError as error:
            yield f"constraints[{i}]: {error}"


def _known_devices(key: str, names: Mapping[str, str], devices: tuple[str, ...]) -> Iterator[str]:
    for name, device in names.items():
        if device not in devices:
            yield f"{key}.{name}: unknown device {device!r}; {hint(device, devices)}"


def _same_keys(
    key: str, found: Mapping[str, object], wanted: Mapping[str, object], where: str
) -> Iterator[str]:
    for name in wanted:
        if name not in found:
            yield f"{key}: {name!r} is missing, which {where} has"
    for name in found:
        if name not in wanted:
            yield f"{key}.{name}: {where} has no such name; {hint(name, tuple(wanted))}"
