"""`Problem`: tables of numbers, all that a solver sees. `Solution`: what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Flow:
    """One value that other nodes read, and that crosses to each device at most once.

    Attributes:
        source: index of the node that makes it.
        targets: indices of the nodes that read it, ascending.
        nbytes: carried in the forward to every device that holds a target but not the source.
        gradient_nbytes: carried back in the backward from each of those devices.
        endpoint_seconds: time that a crossing takes from the source's device (once) and from each
            device that receives it, where devices pay for communication themselves (published
            max-load workloads); 0 where links carry it.
    """

    source: int
    targets: tuple[int, ...]
    nbytes: int
    gradient_nbytes: int = 0
    endpoint_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Hop:
    """One stretch of a road whose transfers must have something to themselves meanwhile.

    Attributes:
        latency_seconds: of the stretch.
        seconds_per_byte: likewise.
        lanes: indices into `Problem.lanes`: what the transfer holds until it has arrived.
    """

    latency_seconds: float
    seconds_per_byte: float
    lanes: tuple[int, ...]

    def seconds(self, nbytes: int) -> float:
        """How long it is held for `nbytes`."""
        return self.latency_seconds + nbytes * self.seconds_per_byte


@dataclass(frozen=True, slots=True)
class Hold:
    """`nbytes` on a device at points `first..last` when any of `nodes` is placed there."""

    nodes: tuple[int, ...]
    nbytes: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Demand:
    """One constraint of the user's, in terms of nodes.

    Attributes:
        constraint: as the user gave it.
        pinned: device index by node index.
        colocated: groups of nodes that share a device.
        separated: pairs of groups that share none.
        contiguous: the devices can be ordered.
    """

    constraint: object
    pinned: tuple[tuple[int, int], ...] = ()
    colocated: tuple[tuple[int, ...], ...] = ()
    separated: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = ()
    contiguous: bool = False


@dataclass(frozen=True)
class Problem:
    """Assign every node to one device.

    Nodes are in execution order, which is a topological order, and which every device follows
    among its own nodes. Indices are into `nodes` and `devices`.

    Attributes:
        objective: `"latency"`, `"throughput"` or `"memory"`.
        nodes: names.
        devices: names.
        forward_seconds: `[node][device]`; `inf` where the device cannot run the node.
        backward_seconds: `[node][device]`; zeros in inference.
        flows: values that may cross.
        latency_seconds: `[source device][destination device]`, of all hops on the way together.
        seconds_per_byte: likewise.
        holds: what takes memory, and when.
        points: number of program points.
        capacity_nbytes: by device; `None` is without limit.
        allowed: `[node]` -> device indices that pins leave open, ascending.
        colocated: groups of node indices that share a device.
        separated: pairs of groups; no node of one shares a device with a node of the other.
        contiguous: the devices can be ordered so that no flow goes back in that order.
        pays_endpoint: by device, whether `Flow.endpoint_seconds` is charged to it; empty when no
            device is charged.
        precedences: the pairs of nodes whose order of devices `contiguous` watches; `None` stands
            for every source and target of `flows`. (Published workloads have backward nodes, which
            are left out.)
        lanes: names of what several pairs of devices share, one transfer at a time.
        roads: `[source device][destination device]`, the hops on the way; no hops where a pair has
            a link of its own, on which transfers do not wait. Empty where no pair shares anything.
    """

    objective: str
    nodes: tuple[str, ...]
    devices: tuple[str, ...]
    forward_seconds: tuple[tuple[float, ...], ...]
    backward_seconds: tuple[tuple[float, ...], ...]
    flows: tuple[Flow, ...]
    latency_seconds: tuple[tuple[float, ...], ...]
    seconds_per_byte: tuple[tuple[float, ...], ...]
    holds: tuple[Hold, ...]
    points: int
    capacity_nbytes: tuple[int | None, ...]
    allowed: tuple[tuple[int, ...], ...]
    colocated: tuple[tuple[int, ...], ...] = ()
    separated: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = ()
    contiguous: bool = False
    pays_endpoint: tuple[bool, ...] = ()
    precedences: tuple[tuple[int, int], ...] | None = None
    lanes: tuple[str, ...] = ()
    roads: tuple[tuple[tuple[Hop, ...], ...], ...] = ()
    demands: tuple[Demand, ...] = ()

    def transfer_seconds(self, source: int, destination: int, nbytes: int) -> float:
        """Seconds that `nbytes` take from one device to another; 0 where nothing has to move."""
        if source == destination or nbytes == 0:
            return 0.0
        return (
            self.latency_seconds[source][destination]
            + nbytes * self.seconds_per_byte[source][destination]
        )

    def hops(self, source: int, destination: int) -> tuple[Hop, ...]:
        """The hops from one device to another that others may have to wait for."""
        return self.roads[source][destination] if self.roads else ()

    def ordered_pairs(self) -> tuple[tuple[int, int], ...]:
        """The pairs that `contiguous` watches, whether or not it is asked for."""
        if self.precedences is not None:
            return self.precedences
        return tuple((flow.source, target) for flow in self.flows for target in flow.targets)

    def pays(self, device: int) -> bool:
        """Whether a device is charged for what crosses its border."""
        return bool(self.pays_endpoint) and self.pays_endpoint[device]


class Status(StrEnum):
    """How a search ended."""

    OPTIMAL = "optimal"
    FEASIBLE = "feasible"


@dataclass(frozen=True, slots=True)
class Solution:
    """An assignment and the proof of its worth.

    Attributes:
        assignment: device name by node name.
        objective: recounted in plain Python from the problem's tables.
        bound: no assignment at all can have a smaller objective.
        seconds: wall-clock time of the search.
        solver: what found it, such as `"HiGHS 1.16.0"`.
        interrupted: the search was broken off, and this is the best that it had.
    """

    status: Status
    assignment: Mapping[str, str]
    objective: float
    bound: float
    seconds: float
    solver: str
    interrupted: bool = False

    @property
    def gap(self) -> float:
        """`(objective - bound) / objective`; 0 when both are 0."""
        return (self.objective - self.bound) / self.objective if self.objective else 0.0
