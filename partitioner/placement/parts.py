"""The parts of a plan document: frozen records, which JSON holds as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import msgspec

from partitioner.spec import Cluster, Device, Link, Network, Node

Count = Annotated[int, msgspec.Meta(ge=0)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]
Phase = Literal["forward", "backward"]
Rehearsal = Literal["sizes", "values", "stand-ins", "none"]


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A frozen part of the document."""


class Transfer(_Part, frozen=True):
    """One tensor that moves from one planned device to another in every step.

    Attributes:
        tensor: name of the node whose value (in the backward: its gradient) moves.
        source: device name.
        destination: device name.
        nbytes: carried.
        seconds: that the links on its way take for it, all hops together, when nothing else is on
            them.
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


class Held(_Part, frozen=True):
    """Something that a device holds.

    Attributes:
        what: a parameter's or a node's name, or a few words.
        role: `"parameters"`, `"gradients"`, `"optimizer"`, `"activations"` or `"workspace"`.
        nbytes: that it takes.
    """

    what: str
    role: str
    nbytes: Count


class MemoryCurve(_Part, frozen=True, kw_only=True):
    """How full a device is in the course of a step, reckoned from the lifetimes of values.

    Its top may differ from `MemoryUse.peak`, which the dry run measured.

    Attributes:
        seconds: when it changes, from the beginning of the step, ascending.
        parameters: bytes from each of these times on; likewise the other roles.
        at_peak: the largest things that are held at the fullest moment, largest first.
        others: how many more there are then.
        others_nbytes: that these take.
    """

    seconds: tuple[Seconds, ...]
    parameters: tuple[Count, ...]
    gradients: tuple[Count, ...]
    optimizer: tuple[Count, ...]
    activations: tuple[Count, ...]
    workspace: tuple[Count, ...]
    at_peak: tuple[Held, ...]
    others: Count
    others_nbytes: Count


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


class AllReduce(_Part, frozen=True):
    """How one rank's gradients are summed over all replicas, in a ring.

    Attributes:
        nbytes: of the gradients.
        seconds: that it takes, with the rings of all ranks under way.
    """

    nbytes: Count
    seconds: Seconds


class LinkTraffic(_Part, frozen=True):
    """What goes from one device to another in a step of all replicas.

    Attributes:
        source: device name.
        destination: device name.
        nbytes: carried.
        seconds: that the links on the way are busy.
    """

    source: str
    destination: str
    nbytes: Count
    seconds: Seconds


class PipelineRecord(_Part, frozen=True, omit_defaults=True):
    """A plan for micro-batches that flow through stages.

    Attributes:
        schedule: one of `partitioner.schedule.SCHEDULES`.
        micro_batches: in one step; the plan's costs and inputs are those of one of them.
        ranks: device names; stage `s` is on `ranks[s % len(ranks)]`.
        stages: stage number by node, from 0; nodes that are absent follow their readers.
        bubble: the share of the ranks' time, from the first forward to the last backward, in which
            they do not compute.
        replicas: by further replica, its devices by rank; each takes a batch of its own.
        all_reduce: by rank, of its gradients, where there are replicas.
        traffic: by link, where there are replicas.
    """

    schedule: str
    micro_batches: Annotated[int, msgspec.Meta(ge=1)]
    ranks: tuple[str, ...]
    stages: Mapping[str, Count]
    bubble: Seconds
    replicas: tuple[tuple[str, ...], ...] = ()
    all_reduce: tuple[AllReduce, ...] = ()
    traffic: tuple[LinkTraffic, ...] = ()

    @property
    def pipelines(self) -> tuple[tuple[str, ...], ...]:
        """By replica, its devices by rank."""
        return self.ranks, *self.replicas

    @property
    def stages_per_rank(self) -> int:
        """How many stages each rank has."""
        return (1 + max(self.stages.values(), default=0)) // max(1, len(self.ranks))


class TensorRecord(_Part, frozen=True):
    """A tensor's shape and type."""

    shape: tuple[Count, ...]
    dtype: str
    nbytes: Count
    requires_grad: bool


class LossRecord(_Part, frozen=True):
    """What a training step minimises.

    Attributes:
        name: in `torch.nn.functional`, or where it was found; nothing by this name is imported.
        targets: what the user gave examples of; `None` where they follow from the output.
    """

    name: str
    targets: tuple[TensorRecord, ...] | None = None


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


class LinkRecord(_Part, frozen=True, omit_defaults=True, kw_only=True):
    """A link as it was declared; see `partitioner.spec.Link`. What was not said is left out."""

    between: tuple[str, str] | None = None
    source: str | None = None
    destination: str | None = None
    bandwidth: Seconds | None = None
    latency: Seconds
    via: str | None = None
    shared: tuple[str, ...] = ()
    broken: bool = False


class NodeRecord(_Part, frozen=True, omit_defaults=True):
    """A node as it was declared; see `partitioner.spec.Node`."""

    devices: tuple[str, ...]
    bandwidth: Seconds
    latency: Seconds
    cards: int | None = None


class NetworkRecord(_Part, frozen=True):
    """Nodes and the network between them; see `partitioner.spec.Network`."""

    nodes: tuple[NodeRecord, ...]
    bandwidth: Seconds
    latency: Seconds


class ClusterRecord(_Part, frozen=True, omit_defaults=True):
    """What the plan was made for. Pairs without a link had the stated default."""

    devices: tuple[DeviceRecord, ...]
    links: tuple[LinkRecord, ...]
    network: NetworkRecord | None = None

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
                LinkRecord(
                    between=link.between,
                    source=link.source,
                    destination=link.destination,
                    bandwidth=_number(link.bandwidth, float),
                    latency=link.latency_seconds,
                    via=link.via,
                    shared=link.lanes,
                    broken=link.broken,
                )
                for link in cluster.links
            ),
            network=_network(cluster.network),
        )

    def cluster(self) -> Cluster:
        """The cluster again.

        Raises:
            SpecError: there can be no such cluster.
        """
        devices = (Device(**msgspec.structs.asdict(record)) for record in self.devices)
        return Cluster(tuple(devices), self.declared_links(), self.declared_network())

    def declared_links(self) -> tuple[Link, ...]:
        """The links again.

        Raises:
            SpecError: there can be no such links.
        """
        return tuple(Link(**msgspec.structs.asdict(record)) for record in self.links)

    def declared_network(self) -> Network | None:
        """The network again.

        Raises:
            SpecError: there can be no such network.
        """
        if self.network is None:
            return None
        nodes = tuple(Node(**msgspec.structs.asdict(node)) for node in self.network.nodes)
        return Network(nodes, self.network.bandwidth, self.network.latency)


def _network(network: Network | None) -> NetworkRecord | None:
    if network is None:
        return None
    return NetworkRecord(
        nodes=tuple(
            NodeRecord(node.devices, float(node.bandwidth), float(node.latency), node.cards)
            for node in network.nodes
        ),
        bandwidth=float(network.bandwidth),
        latency=float(network.latency),
    )


def _number(value: Any, kind: type) -> Any:
    """A normalised field of a `Device`, never a text."""
    return value if value is None else kind(value)
