"""When each node runs and each value moves: a step, simulated.

Nodes run in the recorded order on their device, one at a time. A transfer begins when its value is
there and does not occupy a device. Where links are shared, transfers follow each other in the order
of the nodes that make them (for one node, of the nodes that read them; in the backward the other
way round); elsewhere they do not wait.

::

    forward     cuda:0  │ lin1 │relu│
                        0→1         ╰─relu─╮                lin2 starts when its device is free
                cuda:1                     │ lin2 │         and all of its inputs have arrived
    backward    cuda:1                            │ lin2 │
                        1→0                              ╰─relu─╮     the gradient goes back
                cuda:0                                          │relu│ lin1 │

The backward runs the same nodes in reversed order, after the whole forward, since a loss joins all
outputs. A node waits there for the gradients of its value: from each device that holds readers of
it, one gradient, once the last of those readers is done.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from partitioner.graph.cost_graph import CostGraph
from partitioner.placement.transfers import transfers
from partitioner.spec import Cluster, Link


@dataclass(frozen=True, slots=True)
class Span:
    """One thing that happens in a step.

    Attributes:
        kind: `"node"`, which occupies a device, or `"transfer"`.
        lane: the device's name; of a transfer `"cuda:0 → cuda:1"`. One that is staged over the
            host is two spans, one for each hop.
        what: the node's name.
        phase: `"forward"` or `"backward"`.
        start_seconds: from the beginning of the step.
        end_seconds: likewise.
    """

    kind: Literal["node", "transfer"]
    lane: str
    what: str
    phase: Literal["forward", "backward"]
    start_seconds: float
    end_seconds: float


@dataclass(frozen=True, slots=True)
class Timeline:
    """One step.

    Attributes:
        spans: in the order in which the simulation met them: by phase, then by node.
        forward_seconds: when the last node of the forward is done.
        backward_seconds: how much longer the last node of the backward takes; 0 in inference.
    """

    spans: tuple[Span, ...]
    forward_seconds: float
    backward_seconds: float

    @property
    def step_seconds(self) -> float:
        """Both phases together."""
        return self.forward_seconds + self.backward_seconds


def timeline(graph: CostGraph, placement: Mapping[str, str], cluster: Cluster) -> Timeline:
    """Simulate one step of a placement."""
    forward, forward_seconds = _forward(graph, placement, cluster)
    backward, end_seconds = _backward(graph, placement, cluster, forward_seconds)
    return Timeline((*forward, *backward), forward_seconds, end_seconds - forward_seconds)


def step_seconds(graph: CostGraph, placement: Mapping[str, str], cluster: Cluster) -> float:
    """From the beginning of the forward to the end of the backward (in inference, the forward)."""
    return timeline(graph, placement, cluster).step_seconds


def bottleneck_seconds(graph: CostGraph, placement: Mapping[str, str], cluster: Cluster) -> float:
    """What the busiest device, directed link, or thing that links share, has to do for one step.

    It is the time per step of a pipeline that is always full.
    """
    busy: dict[str, float] = dict.fromkeys(graph.devices, 0.0)
    for node in graph.order:
        device, cost = placement[node], graph.cost(node)
        busy[device] += cost.forward_seconds[device] + cost.backward_seconds[device]
    for transfer in transfers(graph, placement, cluster):
        for link in cluster.road(transfer.source, transfer.destination):
            for lane in link.lanes or (_lane(link),):
                busy[lane] = busy.get(lane, 0.0) + link.seconds(transfer.nbytes)
    return max(busy.values())


class _Traffic:
    """The transfers of one phase, in the order in which they are sent."""

    def __init__(self, cluster: Cluster, phase: Literal["forward", "backward"]) -> None:
        self.cluster = cluster
        self.phase = phase
        self.spans: list[Span] = []
        self.free: dict[str, float] = {}

    def send(self, what: str, nbytes: int, source: str, destination: str, ready: float) -> float:
        """When a value arrives that can leave at `ready`."""
        for link in self.cluster.road(source, destination) if nbytes else ():
            begin = max([ready, *(self.free.get(lane, 0.0) for lane in link.lanes)])
            ready = begin + link.seconds(nbytes)
            self.free.update(dict.fromkeys(link.lanes, ready))
            self.spans.append(Span("transfer", _lane(link), what, self.phase, begin, ready))
        return ready


def _forward(
    graph: CostGraph, placement: Mapping[str, str], cluster: Cluster
) -> tuple[list[Span], float]:
    traffic, leaving = _Traffic(cluster, "forward"), _leaving(graph, placement)
    free = dict.fromkeys(graph.devices, 0.0)
    arrival: dict[tuple[str, str], float] = {}
    for node in graph.order:
        device = placement[node]
        arrivals = [arrival[source, device] for source in graph.graph.predecessors(node)]
        start = max([free[device], *arrivals])
        end = start + graph.cost(node).forward_seconds[device]
        free[device] = arrival[node, device] = end
        traffic.spans.append(Span("node", device, node, "forward", start, end))
        nbytes = graph.tensor(node).nbytes
        for away in leaving[node]:
            arrival[node, away] = traffic.send(node, nbytes, device, away, end)
    return traffic.spans, max(free.values())


def _backward(
    graph: CostGraph, placement: Mapping[str, str], cluster: Cluster, start_seconds: float
) -> tuple[list[Span], float]:
    traffic, leaving = _Traffic(cluster, "backward"), _leaving(graph, placement)
    free = dict.fromkeys(graph.devices, start_seconds)
    done: dict[str, float] = {}
    for node in reversed(graph.order):
        device, nbytes = placement[node], graph.tensor(node).gradient_nbytes
        start = free[device]
        for away in reversed(leaving[node]) if nbytes else ():
            readers = graph.graph.successors(node)
            ready = max(done[reader] for reader in readers if placement[reader] == away)
            start = max(start, traffic.send(node, nbytes, away, device, ready))
        seconds = graph.cost(node).backward_seconds[device]
        done[node] = free[device] = start + seconds
        if seconds:
            traffic.spans.append(Span("node", device, node, "backward", start, done[node]))
    return traffic.spans, max(free.values())


def _leaving(graph: CostGraph, placement: Mapping[str, str]) -> dict[str, dict[str, None]]:
    """By node, the devices to which its value goes, in the order in which its readers run."""
    leaving: dict[str, dict[str, None]] = {node: {} for node in graph.order}
    for reader in graph.order:
        for node in graph.graph.predecessors(reader):
            if placement[reader] != placement[node]:
                leaving[node][placement[reader]] = None
    return leaving


def _lane(link: Link) -> str:
    source, destination = link.ends
    return f"{source} → {destination}"
