"""`PlanDocument`: the plan as data, and its JSON.

The JSON is versioned and canonical: equal plans give equal bytes, floats are exact, and wall-clock
times are left out. Nothing in it is ever executed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Self, TypeVar

import msgspec

from partitioner.capture import Inputs, Program
from partitioner.errors import PlanError
from partitioner.placement.check import disagreements
from partitioner.placement.parts import (
    Certificate,
    ClusterRecord,
    LossRecord,
    MemoryCurve,
    MemoryUse,
    ModelIdentity,
    NodeCosts,
    PipelineRecord,
    Rehearsal,
    Seconds,
    Transfer,
)
from partitioner.placement.restore import cost_graph_of
from partitioner.placement.validate import faults, first_few
from partitioner.spec import Cluster, Device

SCHEMA = 1
WIDTH = 100
"""Columns within which the JSON keeps a list or an object on one line."""

Decoded = TypeVar("Decoded")


class PlanDocument(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
):
    """Where every node, parameter and transfer goes, and how good that is.

    Attributes:
        schema: version of the document, 1.
        objective: `"latency"`, `"throughput"` or `"memory"`.
        mode: `"train"` or `"inference"`.
        optimizer: name, where one was given.
        loss: where one was given; else the model's own scalar, or the mean square of its outputs.
        devices: names, in the cluster's order.
        placement: device name by node name, in execution order; every node but `output`.
        parameters: device name by parameter or buffer name, tied names included.
        transfers: between planned devices, in the order in which they happen.
        memory: by device name.
        step_seconds: from input to result, and in training back to the last gradient.
        bottleneck_seconds: the busiest device or link in one step.
        certificate: see `Certificate`.
        constraints: texts, as `partitioner.spec.parse_constraint` reads them.
        cluster: what the plan was made for.
        model: which model it is for.
        inputs: the example call, enough to record the model again.
        program: the recorded graph.
        costs: by node name.
        pipeline: its stages and schedule, where the plan is for several micro-batches;
            `step_seconds` is that of its timetable then, `transfers` are those of one micro-batch,
            and values pass from each stage to the next one only.
        outlook: sentences on what limits the plan, and what more devices or memory would bring.
        unpriced: operators whose seconds were reckoned from the bytes that they touch alone, which
            may be too few.
        cache_tokens: how many tokens of a key-value cache `memory` holds; `None` without one.
        memory_curves: by device name, how full it is in the course of a step; older plans have
            none.
        rehearsal: what the promised memory was measured with: `"sizes"` alone; where the model
            decides by its data, the example's `"values"`, or both `"stand-ins"` for each where
            there were none; `"none"` where nothing was measured, and memory is predicted.
    """

    schema: int = SCHEMA
    objective: str
    mode: str
    optimizer: str | None
    devices: tuple[str, ...]
    placement: Mapping[str, str]
    parameters: Mapping[str, str]
    transfers: tuple[Transfer, ...]
    memory: Mapping[str, MemoryUse]
    step_seconds: Seconds
    bottleneck_seconds: Seconds
    certificate: Certificate
    constraints: tuple[str, ...]
    cluster: ClusterRecord
    model: ModelIdentity
    inputs: Inputs
    program: Program
    costs: Mapping[str, NodeCosts]
    loss: LossRecord | None = None
    pipeline: PipelineRecord | None = None
    outlook: tuple[str, ...] = ()
    unpriced: tuple[str, ...] = ()
    cache_tokens: int | None = None
    memory_curves: Mapping[str, MemoryCurve] = {}
    rehearsal: Rehearsal = "sizes"

    def to_json(self) -> str:
        """The document as canonical JSON; equal plans give equal text."""
        timeless = msgspec.structs.replace(
            self, certificate=msgspec.structs.replace(self.certificate, seconds=None)
        )
        content = msgspec.to_builtins(timeless)
        for key in ("cache_tokens", "loss", "memory_curves", "pipeline", "unpriced"):
            if not content[key]:
                del content[key]
        if self.rehearsal == "sizes":
            del content["rehearsal"]
        return _layout(content) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read a document.

        Raises:
            PlanError: it is damaged (the message has the line) or says something that no plan can
                (the message has the key).
        """
        _check_schema(_decoded(text, _Header))
        document = _decoded(text, cls)
        if found := first_few(faults(document)):
            raise PlanError(f"this plan contradicts itself: {found}")
        if found := first_few(disagreements(document, cost_graph_of(document))):
            raise PlanError(f"this plan contradicts itself: {found}")
        return document

    def virtual_cluster(self) -> Cluster:
        """The planned devices by name, memory and links, for running without them."""
        return Cluster(
            devices=tuple(Device(d.name, memory=d.memory) for d in self.cluster.devices),
            links=self.cluster.declared_links(),
            network=self.cluster.declared_network(),
        )

    @property
    def detours(self) -> dict[tuple[str, str], str]:
        """By source and destination, the host over which data goes round a broken link."""
        return self.virtual_cluster().detours


class _Header(msgspec.Struct):
    schema: int | None = None


def _decoded(text: str | bytes, kind: type[Decoded]) -> Decoded:
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.ValidationError as error:
        raise PlanError(f"this is no plan that can be read: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PlanError(f"this is no JSON document: {_position(text, error)}") from error


def _position(text: str | bytes, error: Exception) -> str:
    """Where and why a text is no JSON, in lines and columns."""
    try:
        json.loads(text)
    except json.JSONDecodeError as found:
        return f"{found.msg} in line {found.lineno}, column {found.colno}"
    except (UnicodeDecodeError, RecursionError) as found:
        return str(found)
    return str(error)


def _check_schema(header: _Header) -> None:
    if header.schema is None:
        raise PlanError("this is no plan: the key 'schema' is missing")
    if header.schema != SCHEMA:
        raise PlanError(
            f"the plan has schema {header.schema}, and only schema {SCHEMA} can be read; "
            "plan again with this version"
        )


def _layout(value: object, indent: int = 0) -> str:
    """JSON with what fits on a line on one line."""
    if isinstance(value, dict):
        items = [f"{_text(key)}: {_layout(item, indent + 2)}" for key, item in value.items()]
        opening, closing = "{", "}"
    elif isinstance(value, list | tuple):
        items = [_layout(item, indent + 2) for item in value]
        opening, closing = "[", "]"
    else:
        return _text(value)
    if indent + sum(map(len, items)) + 2 * len(items) <= WIDTH and "\n" not in "".join(items):
        return f"{opening}{', '.join(items)}{closing}"
    margin = "\n" + " " * (indent + 2)
    return f"{opening}{margin}{f',{margin}'.join(items)}\n{' ' * indent}{closing}"


_text = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
