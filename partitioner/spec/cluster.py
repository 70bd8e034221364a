"""What the user has: devices and the links between them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Self

import tomli_w
import torch

from cost_models import DEVICE_KINDS, has_peer_access, local_device
from partitioner.errors import SpecError
from partitioner.spec.device import (
    ASSUMED_CPU_KIND,
    ASSUMED_KIND,
    Device,
    device_name,
    positive,
)
from partitioner.spec.link import ASSUMED_LINK, HOST, Link, is_host
from partitioner.spec.names import check_name
from partitioner.spec.network import Network, Node
from partitioner.spec.reading import Parts, looks_like_file, read_cluster_file, read_shorthand
from partitioner.spec.sizes import (
    exact_nbytes,
    format_bandwidth,
    format_seconds,
    parse_bandwidth,
    parse_nbytes,
    parse_seconds,
)

__all__ = ["Cluster", "Device", "Link", "Network", "Node"]

Memory = int | str | Mapping[str, int | str] | None


@dataclass(frozen=True, slots=True)
class Cluster:
    """Devices and links. Pairs without a declared link get the stated default.

    Attributes:
        devices: in order.
        links: one for each pair that is declared by itself; these overrule the network.
        network: the nodes in which devices are, and what joins these; `None` where all is said by
            links.
        names: of the devices, in order.

    Raises:
        SpecError: no devices, a name twice, a link that does not join two of them, once, or one
            that is bypassed over a host to which no good link leads.
    """

    devices: tuple[Device, ...]
    links: tuple[Link, ...] = ()
    network: Network | None = None
    names: tuple[str, ...] = field(init=False, repr=False, compare=False)
    _place: Mapping[str, int] = field(init=False, repr=False, compare=False)
    _declared: Mapping[tuple[str, str], Link] = field(init=False, repr=False, compare=False)
    _staging: frozenset[tuple[str, str]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "devices", tuple(self.devices))
        object.__setattr__(self, "links", tuple(self.links))
        names = tuple(device.name for device in self.devices)
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "_place", {name: index for index, name in enumerate(names)})
        if not self.devices:
            raise SpecError("there is no device; give at least one, such as 'cuda:0'")
        for i, name in enumerate(names):
            if self._place[name] != i:
                raise SpecError(f"device '{name}' is there twice; names must differ")
        for name in self.network.devices if self.network is not None else ():
            self._check(name)
        declared: dict[tuple[str, str], Link] = {}
        for link in self.links:
            for name in link.ends:
                if not is_host(name):
                    self._check(name)
            for pair in link.directions:
                if pair in declared:
                    raise SpecError(f"there are two links {str(link).removeprefix('link ')}")
                declared[pair] = link
        object.__setattr__(self, "_declared", declared)
        staging: dict[tuple[str, str], Link] = {}
        for (source, destination), link in declared.items():
            if host := link.detour:
                staging[source, host] = staging[host, destination] = link
                if link.broken:
                    staging[destination, host] = staging[host, source] = link
        for pair, link in staging.items():
            if pair in declared and declared[pair].detour:
                raise SpecError(
                    f"the {link} is bypassed over '{link.detour}', but the {declared[pair]} "
                    "cannot be crossed either"
                )
        object.__setattr__(self, "_staging", frozenset(staging))

    @classmethod
    def of(cls, devices: object, memory: Memory = None) -> Self:
        """A cluster in which every device's memory is known, from any way of saying it.

        Args:
            devices: a `Cluster`; a `Device`, `torch.device` or name, or a sequence of them; the
                path of a cluster file; a shorthand such as `"2xa100-40gb"`, `"4x24GiB"` or
                `"cuda:0=24GiB,cuda:1=16GiB"`; a number of GPUs. A device of which only the name is
                given is looked up in this machine.
            memory: limit of every device, or by device name; where a device has less, that counts.

        Raises:
            SpecError: something is misspelt or makes no sense, or a device's memory is not known.
        """
        found, links, network = _parts(devices)
        limits = _limits(memory, [device.name for device in found])
        resolved = tuple(_resolved(device, limits.get(device.name)) for device in found)
        return cls(resolved, (*links, *_staged(resolved, links, network)), network)

    def device(self, name: str) -> Device:
        """The device of that name.

        Raises:
            SpecError: there is none.
        """
        self._check(name)
        return self.devices[self._place[name]]

    def _check(self, name: str) -> None:
        if name not in self._place:
            check_name("device", name, self.names)

    def link(self, source: str, destination: str) -> Link:
        """What joins one named device to another; the stated default where none is declared."""
        for name in (source, destination):
            if not is_host(name):
                self._check(name)
        return self.declared_link(source, destination) or Link(
            (source, destination), ASSUMED_LINK.bytes_per_second, ASSUMED_LINK.latency_seconds
        )

    def declared_link(self, source: str, destination: str) -> Link | None:
        """The link from one named device to another, of `links` or of the network."""
        link = self._declared.get((source, destination))
        if link is None and self.network is not None:
            return self.network.link(source, destination)
        return link

    def road(self, source: str, destination: str) -> tuple[Link, ...]:
        """The links that a value crosses, in order, each in its one direction.

        There are two where the way leads over a host, else one. What a transfer must have to
        itself meanwhile is in the `shared` of each; staged transfers have each link to the host in
        common with all others.
        """
        host = self.detour(source, destination)
        if host is None:
            return (self._hop(source, destination),)
        return self._hop(source, host), self._hop(host, destination)

    def detour(self, source: str, destination: str) -> str | None:
        """The host over which the road leads; `None` where it is direct.

        Two devices go round a link that is broken in either direction, since gradients go back the
        way that values came.
        """
        back = self._declared.get((destination, source))
        if back is not None and back.broken:
            return back.detour
        return self.link(source, destination).detour

    @property
    def detours(self) -> dict[tuple[str, str], str]:
        """By source and destination, the host over which data must be moved by hand.

        It must where a link is broken; between GPUs without peer access, CUDA goes there itself.
        """
        return {
            pair: link.detour or HOST
            for link in self.links
            if link.broken
            for pair in (link.ends, link.ends[::-1])
        }

    def _hop(self, source: str, destination: str) -> Link:
        link = self.link(source, destination)
        own = (f"{source} → {destination}",) if (source, destination) in self._staging else ()
        return replace(
            link,
            between=None,
            source=source,
            destination=destination,
            shared=link.shared or own,
        )

    def transfer_seconds(self, source: str, destination: str, nbytes: int) -> float:
        """Seconds to move `nbytes` from one named device to another; 0 if nothing has to move.

        All hops together, with nothing else under way.
        """
        self._check(source)
        self._check(destination)
        if source == destination or nbytes == 0:
            return 0.0
        return sum(link.seconds(nbytes) for link in self.road(source, destination))

    def to_toml(self, notes: Mapping[Link, str] | None = None) -> str:
        """The cluster as the text of a cluster file, which reads back equal.

        `notes` become comments above their links.
        """
        notes = notes or {}
        tables = [f"[[device]]\n{tomli_w.dumps(_device_table(device))}" for device in self.devices]
        tables += [
            _comment(notes.get(link)) + f"[[link]]\n{tomli_w.dumps(_link_table(link))}"
            for link in self.links
        ]
        if self.network is not None:
            tables += [f"[[node]]\n{tomli_w.dumps(_node_table(n))}" for n in self.network.nodes]
            tables.append(f"[network]\n{tomli_w.dumps(_speed_table(self.network))}")
        return "\n".join(tables)


def _parts(devices: object) -> Parts:
    match devices:
        case Cluster():
            return devices.devices, devices.links, devices.network
        case bool():
            raise SpecError(f"cannot read {devices!r} as devices")
        case int():
            return tuple(Device(f"cuda:{i}") for i in range(devices)), (), None
        case str() if looks_like_file(devices):
            return read_cluster_file(devices)
        case str():
            return read_shorthand(devices), (), None
        case os.PathLike():
            return read_cluster_file(Path(devices))
        case Device() | torch.device():
            return (_device(devices),), (), None
        case Mapping():
            raise SpecError(f"devices must be a sequence, not {type(devices).__name__}")
        case Iterable():
            return tuple(_device(device) for device in devices), (), None
        case _:
            raise SpecError(
                f"cannot read {devices!r} as devices; give names such as ['cuda:0', 'cuda:1'], "
                "Devices, a Cluster, a shorthand such as '2x16GiB' or the path of a cluster file"
            )


def _device(device: object) -> Device:
    return device if isinstance(device, Device) else Device(device_name(device))


def _limits(memory: Memory, names: Sequence[str]) -> dict[str, int]:
    """Bytes by device name, as far as `memory=` says."""
    if memory is None:
        return {}
    if isinstance(memory, Mapping):
        given = {device_name(name): limit for name, limit in memory.items()}
        for name in given:
            check_name("device in memory=", name, names)
    else:
        given = dict.fromkeys(names, memory)
    return {name: positive(limit, parse_nbytes, "memory") for name, limit in given.items()}


def _resolved(device: Device, limit: int | None) -> Device:
    """The device with its memory, and its kind where this machine tells."""
    kind, limits = device.kind, [limit] if limit is not None else []
    if isinstance(device.memory, int):
        limits.append(device.memory)
    elif kind is not None:
        limits.append(DEVICE_KINDS[kind].memory_nbytes)
    elif (local := local_device(device.name)) is not None:
        limits.append(local.memory_nbytes)
        if local.name not in (ASSUMED_KIND, ASSUMED_CPU_KIND):
            kind = local.name
            limits.append(DEVICE_KINDS[kind].memory_nbytes)
    if not limits:
        raise SpecError(
            f"the memory of '{device.name}' is not known: this machine has no such device; say "
            f"memory='16GiB', or Device('{device.name}', memory='16GiB'), or name its kind"
        )
    return replace(device, kind=kind, memory=min(limits))


def _staged(
    devices: Sequence[Device], links: Sequence[Link], network: Network | None
) -> Iterator[Link]:
    """Links over the host between GPUs of which a kind has no peer access, where none is declared.

    The rule is `cost_models.has_peer_access`; a declared link overrides it.
    """
    declared = {frozenset(link.ends) for link in links}
    joined = network.devices if network is not None else ()
    alone = {d.name for d in devices if d.kind is not None and not has_peer_access(d.kind)}
    gpus = [device.name for device in devices if not is_host(device.name)] if alone else []
    for pair in combinations(gpus, 2):
        known = frozenset(pair) in declared or set(pair) <= set(joined)
        if not alone.isdisjoint(pair) and not known:
            yield Link(pair, via=HOST)


def _device_table(device: Device) -> dict[str, Any]:
    table = {
        "name": device.name,
        "kind": device.kind,
        "memory": exact_nbytes(device.memory) if isinstance(device.memory, int) else None,
        "flops_per_second": device.flops_per_second,
        "memory_bandwidth": device.memory_bandwidth,
    }
    return {key: value for key, value in table.items() if value is not None}


def _link_table(link: Link) -> dict[str, Any]:
    crossed = link.bandwidth is not None
    table = {
        "between": list(link.between) if link.between is not None else None,
        "from": link.source,
        "to": link.destination,
        "bandwidth": _readable(link.bandwidth, format_bandwidth, parse_bandwidth),
        "latency": _readable(link.latency, format_seconds, parse_seconds) if crossed else None,
        "via": link.via,
        "shared": link.lanes[0] if len(link.lanes) == 1 else list(link.lanes) or None,
        "broken": link.broken or None,
    }
    return {key: value for key, value in table.items() if value is not None}


def _node_table(node: Node) -> dict[str, Any]:
    cards = {} if node.cards is None else {"cards": node.cards}
    return {"devices": list(node.devices), **_speed_table(node), **cards}


def _speed_table(figures: Node | Network) -> dict[str, Any]:
    return {
        "bandwidth": _readable(figures.bandwidth, format_bandwidth, parse_bandwidth),
        "latency": _readable(figures.latency, format_seconds, parse_seconds),
    }


def _readable(
    value: float | str | None,
    written: Callable[[float], str],
    read: Callable[[float | str], float],
) -> float | str | None:
    """A figure as text with its unit where that reads back equal, else the number."""
    if value is None:
        return None
    text = written(float(value)).replace(" ", "")
    return text if read(text) == value else value


def _comment(note: str | None) -> str:
    return "".join(f"# {line}\n" for line in (note or "").splitlines())
