"""`inventory`: the devices of this machine and their links, as far as anything tells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import permutations

import torch

from cost_models import DEFAULT_LINK, nvlink_bytes_per_second, pcie_bytes_per_second
from partitioner.machine.topology import Slot, Topology, read_topology
from partitioner.spec import HOST, Cluster, Link

PCIE_LATENCY_SECONDS = DEFAULT_LINK.latency_seconds
NVLINK_LATENCY_SECONDS = 5e-6
"""The order of what a copy of a few bytes takes, as in `cost_models.LINK_KINDS`."""


@dataclass(frozen=True)
class Inventory:
    """What is in this machine.

    Attributes:
        cluster: its devices and links.
        notes: by link, where its figures are from.
        warnings: what its owner should know.
    """

    cluster: Cluster
    notes: Mapping[Link, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def to_toml(self) -> str:
        """The cluster file, with the notes as comments."""
        return self.cluster.to_toml(self.notes)


def inventory(topology: Topology | None = None) -> Inventory:
    """The GPUs that `torch.cuda` sees, or else the CPU.

    Two GPUs between which CUDA offers no peer access are linked over the host. The others have
    what `topology` (`None`: what `nvidia-smi` says) tells of NVLink and PCI Express. Where it does
    not tell, there is no link, and plans take the stated default.
    """
    names = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    if not names:
        return Inventory(Cluster.of([HOST]))
    devices = Cluster.of(names).devices
    reader = _Reader(names, read_topology() if topology is None else topology)
    notes = dict(_merged(dict(reader.links())))
    return Inventory(Cluster(devices, tuple(notes)), notes)


class _Reader:
    """Reads one topology, by the names that PyTorch gives the GPUs."""

    def __init__(self, names: list[str], topology: Topology) -> None:
        self.names = names
        self.topology = topology
        numbers = {slot.uuid: number for number, slot in topology.slots.items()}
        self.number = {name: numbers.get(_uuid(name), -1) for name in names}
        here = {number: name for name, number in self.number.items()}
        self.ports = {
            here[number]: f"pcie-switch-{index}"
            for index, group in enumerate(topology.under_one_port())
            for number in group
            if number in here
        }

    def links(self) -> Iterator[tuple[tuple[str, str], tuple[Link, str]]]:
        """By source and destination, the link and where its figures are from."""
        for pair in permutations((*self.names, HOST), 2):
            found = self._over_pcie(*pair, "") if HOST in pair else self._between(*pair)
            if found is not None:
                yield pair, found

    def _between(self, source: str, destination: str) -> tuple[Link, str] | None:
        joint = self.topology.joints.get((self.number[source], self.number[destination]), "")
        if joint.startswith("NV") and joint[2:].isdigit():
            figure = nvlink_bytes_per_second(torch.cuda.get_device_capability(source))
            if figure is not None:
                link = Link(
                    source=source,
                    destination=destination,
                    bandwidth=int(joint[2:]) * figure,
                    latency=NVLINK_LATENCY_SECONDS,
                )
                return link, f"{joint}: {joint[2:]} NVLinks of {figure / 1e9:g} GB/s"
        if not torch.cuda.can_device_access_peer(source, destination):
            link = Link(source=source, destination=destination, via=HOST)
            return link, f"{joint or 'no NVLink'}: CUDA offers no peer access"
        return self._over_pcie(source, destination, joint)

    def _over_pcie(self, source: str, destination: str, joint: str) -> tuple[Link, str] | None:
        slots = [self._slot(name) for name in (source, destination) if name != HOST]
        figures = [pcie_bytes_per_second(slot.generation, slot.lanes) for slot in slots]
        known = [figure for figure in figures if figure is not None]
        shared = self._ports(source, destination)
        if not (known or shared or joint):
            return None
        link = Link(
            source=source,
            destination=destination,
            bandwidth=min(known, default=DEFAULT_LINK.bytes_per_second),
            latency=PCIE_LATENCY_SECONDS,
            shared=shared,
        )
        told = min(zip(figures, slots, strict=True), key=lambda pair: pair[0] or 0)[1]
        what = f"PCIe {told.generation}.0 x{told.lanes}" if known else f"as '{DEFAULT_LINK.name}'"
        return link, f"{joint}: {what}" if joint else what

    def _ports(self, source: str, destination: str) -> tuple[str, ...]:
        """What leaves a switch, or enters it, shares the switch's one way to the host."""
        up, down = self.ports.get(source), self.ports.get(destination)
        if up == down:
            return ()
        return (*([f"{up} up"] if up else []), *([f"{down} down"] if down else []))

    def _slot(self, name: str) -> Slot:
        return self.topology.slots.get(self.number[name], Slot(""))


def _uuid(name: str) -> str:
    return str(getattr(torch.cuda.get_device_properties(name), "uuid", name))


def _merged(
    links: Mapping[tuple[str, str], tuple[Link, str]],
) -> Iterator[tuple[Link, str]]:
    """Both directions as one link where they are alike and share nothing."""
    merged = set()
    for (source, destination), (link, note) in links.items():
        if (source, destination) in merged:
            continue
        there = (replace(link, source=destination, destination=source), note)
        if link.shared or links.get((destination, source)) != there:
            yield link, note
            continue
        merged.add((destination, source))
        yield replace(link, between=(source, destination), source=None, destination=None), note
