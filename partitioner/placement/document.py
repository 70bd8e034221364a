"""`PlanDocument`: the plan as data, and its JSON.

The JSON is versioned and canonical: equal plans give equal bytes, floats are exact, and wall-clock
times are left out. Nothing in it is ever executed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

import msgspec

from partitioner.errors import PlanError
from partitioner.placement._records import Inputs, Program
from partitioner.placement.validate import faults, first_few
from partitioner.spec import Cluster, Device, Link

SCHEMA = 1
WIDTH = 100
"""Columns within which the JSON keeps a list or an object on one line."""

Count = Annotated[int, msgspec.Meta(ge=0)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]
Decoded = TypeVar("Decoded")
Phase = Literal["forward", "backward"]


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A frozen part of the document."""


class Transfer(_Part, frozen=True):
    """One tensor that moves from one planned device to another in every step.

    Attributes:
        tensor: name of the node whose value (in the backward: its gradient) moves.
        source: device name.
        destination: device name.
        nbytes: carried.
        seconds: that the link takes for it, when nothing else is on it.
        phase: `"forward"` or `"backward"`.
    """

    tensor: str
    source: str
    destination: str
    nbytes: Count
    seconds: Seconds
    phase: Phase = "forward"


class MemoryUse(_Part, frozen=True):
    """Bytes on one device.

    Attributes:
        parameters: with buffers and constants.
        gradients: of parameters, when all of them are there.
        optimizer: its state after a step.
        activations: when most of them are there.
        workspace: what the peak holds beyond all of these.
        peak: the most at any moment: the promise. Less than the sum where not all is there at once.
        limit: that the plan had to keep to; `None` is without limit.
    """

    parameters: Count
    gradients: Count
    optimizer: Count
    activations: Count
    workspace: Count
    peak: Count
    limit: Count | None


class Certificate(_Part, frozen=True, eq=False):
    """How good the plan is, and who says so.

    Attributes:
        status: `"optimal"` or `"feasible"`.
        objective: seconds for `"latency"` and `"throughput"`, the fullest device's share of its
            memory for `"memory"`.
        bound: no placement can have a smaller objective.
        gap: `(objective - bound) / objective`.
        solver: name and version.
        seconds: wall-clock time of the search; not in the JSON, nor in equality.
    """

    status: Literal["optimal", "feasible"]
    objective: Seconds
    bound: Seconds
    gap: Seconds
    solver: str
    seconds: float | None = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Certificate):
            return NotImplemented
        return msgspec.structs.astuple(self)[:-1] == msgspec.structs.astuple(other)[:-1]

    def __hash__(self) -> int:
        return hash(msgspec.structs.astuple(self)[:-1])


class NodeCosts(_Part, frozen=True):
    """What the cost model said of one node; see `partitioner.graph.NodeCost` and `TensorCost`."""

    operator: str
    module_path: str
    forward_seconds: Mapping[str, Seconds]
    backward_seconds: Mapping[str, Seconds]
    nbytes: Count
    gradient_nbytes: Count
    flops: Count


class TensorRecord(_Part, frozen=True):
    """A tensor's shape and type."""

    shape: tuple[Count, ...]
    dtype: str
    nbytes: Count
    requires_grad: bool


class StateRecord(_Part, frozen=True):
    """A parameter, buffer or constant of the planned model; see `partitioner.capture.StateSpec`."""

    names: tuple[str, ...]
    role: str
    tensor: TensorRecord


class ModelIdentity(_Part, frozen=True):
    """Which model was planned.

    Attributes:
        class_name: qualified name of its class; `"class"` in the JSON.
        state: its parameters, buffers and constants, in the model's order.
    """

    class_name: str = msgspec.field(name="class")
    state: tuple[StateRecord, ...]


class DeviceRecord(_Part, frozen=True):
    """A device as it was declared; see `partitioner.spec.Device`. No kind: it was assumed."""

    name: str
    kind: str | None
    memory: Count | None
    flops_per_second: Seconds | None
    memory_bandwidth: Seconds | None


class LinkRecord(_Part, frozen=True):
    """A link as it was declared; see `partitioner.spec.Link`."""

    between: tuple[str, str]
    bandwidth: Seconds
    latency: Seconds


class ClusterRecord(_Part, frozen=True):
    """What the plan was made for. Pairs without a link had the stated default."""

    devices: tuple[DeviceRecord, ...]
    links: tuple[LinkRecord, ...]

    @classmethod
    def of(cls, cluster: Cluster) -> Self:
        """The record of a cluster."""
        return cls(
            devices=tuple(
                DeviceRecord(
                    name=device.name,
                    kind=device.kind,
                    memory=_number(device.memory, int),
                    flops_per_second=_number(device.flops_per_second, float),
                    memory_bandwidth=_number(device.memory_bandwidth, float),
                )
                for device in cluster.devices
            ),
            links=tuple(
                LinkRecord(link.between, link.bytes_per_second, link.latency_seconds)
                for link in cluster.links
            ),
        )


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

    def to_json(self) -> str:
        """The document as canonical JSON; equal plans give equal text."""
        timeless = msgspec.structs.replace(
            self, certificate=msgspec.structs.replace(self.certificate, seconds=None)
        )
        return _layout(msgspec.to_builtins(timeless)) + "\n"

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
        return document

    def virtual_cluster(self) -> Cluster:
        """The planned devices by name, memory and links, for running without them."""
        return Cluster(
            devices=tuple(Device(d.name, memory=d.memory) for d in self.cluster.devices),
            links=tuple(
                Link(link.between, link.bandwidth, link.latency) for link in self.cluster.links
            ),
        )


class _Header(msgspec.Struct):
    schema: int | None = None


def _number(value: Any, kind: type) -> Any:
    """A normalised field of a `Device`, never a text."""
    return value if value is None else kind(value)


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
