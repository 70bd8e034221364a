"""`Network`: machines full of devices, described without a link for each pair.

::

    node 0: cuda:0 ◄─► cuda:1     inside a node, each device is joined to each other
               │          │
              card 0    card 1    network cards: each carries one transfer at a time, in and out
               └────┬─────┘
                 network          the cards' bandwidth, the network's latency
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from partitioner.errors import SpecError
from partitioner.spec.device import device_name, positive
from partitioner.spec.link import Link
from partitioner.spec.sizes import parse_bandwidth, parse_seconds


@dataclass(frozen=True, slots=True)
class Node:
    """One machine.

    Attributes:
        devices: their names.
        bandwidth: bytes per second from any of them to any other; a text such as `"450GB/s"` is
            accepted and normalised.
        latency: seconds; a text such as `"3us"` likewise.
        cards: network cards, among which the devices are divided in order; `None` is one for each.

    Raises:
        SpecError: there is no device, or a figure makes no sense.
    """

    devices: tuple[str, ...]
    bandwidth: float | str
    latency: float | str = 0.0
    cards: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "devices", tuple(map(device_name, self.devices)))
        if not self.devices:
            raise SpecError("a node has at least one device")
        _normalise(self, f"the node of '{self.devices[0]}'")
        if self.cards is not None and not 1 <= self.cards <= len(self.devices):
            raise SpecError(
                f"the node of '{self.devices[0]}': cards must be from 1 to the number of its "
                f"devices ({len(self.devices)}), not {self.cards}"
            )

    def card(self, device: str) -> int:
        """Which of its network cards a device has."""
        count = len(self.devices)
        return self.devices.index(device) * (self.cards or count) // count


@dataclass(frozen=True, slots=True)
class Network:
    """Nodes and what joins them.

    Attributes:
        nodes: in order; a device is in one of them.
        bandwidth: of a network card in each direction, in bytes per second; a text is normalised.
        latency: seconds from node to node.

    Raises:
        SpecError: a device is in two nodes, or a figure makes no sense.
    """

    nodes: tuple[Node, ...]
    bandwidth: float | str
    latency: float | str = 0.0
    _node_of: Mapping[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "nodes", tuple(self.nodes))
        _normalise(self, "the network")
        node_of: dict[str, int] = {}
        for index, node in enumerate(self.nodes):
            for name in node.devices:
                if name in node_of:
                    raise SpecError(f"device '{name}' is in two nodes, or twice in one")
                node_of[name] = index
        object.__setattr__(self, "_node_of", node_of)

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices of all nodes."""
        return tuple(self._node_of)

    def link(self, source: str, destination: str) -> Link | None:
        """What joins one device to another; `None` where one of them is in no node."""
        here, there = self._node_of.get(source), self._node_of.get(destination)
        if here is None or there is None:
            return None
        if here == there:
            node = self.nodes[here]
            return Link(
                bandwidth=node.bandwidth,
                latency=node.latency,
                source=source,
                destination=destination,
            )
        return Link(
            bandwidth=self.bandwidth,
            latency=self.latency,
            source=source,
            destination=destination,
            shared=(
                f"node {here} card {self.nodes[here].card(source)} out",
                f"node {there} card {self.nodes[there].card(destination)} in",
            ),
        )

    def with_twins(self, name: str, twins: Sequence[str]) -> Network:
        """The same network with further devices in the node of `name`."""
        return replace(
            self,
            nodes=tuple(
                replace(node, devices=(*node.devices, *twins)) if name in node.devices else node
                for node in self.nodes
            ),
        )


def _normalise(figures: Node | Network, where: str) -> None:
    bandwidth = positive(figures.bandwidth, parse_bandwidth, f"{where}: bandwidth")
    latency = positive(figures.latency, parse_seconds, f"{where}: latency", zero=True)
    object.__setattr__(figures, "bandwidth", bandwidth)
    object.__setattr__(figures, "latency", latency)
