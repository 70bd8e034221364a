"""What the user has: devices and the links between them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import tomli_w
import torch

from cost_models import DEVICE_KINDS, local_device
from partitioner.errors import SpecError
from partitioner.spec.device import (
    ASSUMED_CPU_KIND,
    ASSUMED_KIND,
    ASSUMED_LINK,
    Device,
    Link,
    device_name,
    positive,
)
from partitioner.spec.names import check_name
from partitioner.spec.reading import looks_like_file, read_cluster_file, read_shorthand
from partitioner.spec.sizes import exact_nbytes, parse_nbytes

__all__ = ["Cluster", "Device", "Link"]

Memory = int | str | Mapping[str, int | str] | None


@dataclass(frozen=True, slots=True)
class Cluster:
    """Devices and links. Pairs without a declared link get the stated default.

    Raises:
        SpecError: no devices, a name twice, or a link that does not join two of them, once.
    """

    devices: tuple[Device, ...]
    links: tuple[Link, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "devices", tuple(self.devices))
        object.__setattr__(self, "links", tuple(self.links))
        if not self.devices:
            raise SpecError("there is no device; give at least one, such as 'cuda:0'")
        for i, name in enumerate(self.names):
            if name in self.names[:i]:
                raise SpecError(f"device '{name}' is there twice; names must differ")
        joined: set[frozenset[str]] = set()
        for link in self.links:
            for name in link.between:
                check_name("device", name, self.names)
            if frozenset(link.between) in joined:
                first, second = link.between
                raise SpecError(f"there are two links between '{first}' and '{second}'")
            joined.add(frozenset(link.between))

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
        found, links = _parts(devices)
        limits = _limits(memory, [device.name for device in found])
        return cls(tuple(_resolved(device, limits.get(device.name)) for device in found), links)

    @property
    def names(self) -> tuple[str, ...]:
        """The devices' names, in order."""
        return tuple(device.name for device in self.devices)

    def device(self, name: str) -> Device:
        """The device of that name.

        Raises:
            SpecError: there is none.
        """
        check_name("device", name, self.names)
        return self.devices[self.names.index(name)]

    def link(self, source: str, destination: str) -> Link:
        """The road from one named device to another; the stated default where none is declared."""
        check_name("device", source, self.names)
        check_name("device", destination, self.names)
        for link in self.links:
            if set(link.between) == {source, destination}:
                return link
        return Link(
            (source, destination), ASSUMED_LINK.bytes_per_second, ASSUMED_LINK.latency_seconds
        )

    def transfer_seconds(self, source: str, destination: str, nbytes: int) -> float:
        """Seconds to move `nbytes` from one named device to another; 0 if nothing has to move."""
        if source == destination or nbytes == 0:
            return 0.0
        return self.link(source, destination).seconds(nbytes)

    def without_limits(self) -> Self:
        """The same devices and links, with no memory limit on any."""
        unlimited = tuple(replace(device, memory=None) for device in self.devices)
        return replace(self, devices=unlimited)

    def to_toml(self) -> str:
        """The cluster as the text of a cluster file, which reads back equal."""
        tables = [("device", _device_table(device)) for device in self.devices]
        tables += [("link", _link_table(link)) for link in self.links]
        return "\n".join(f"[[{key}]]\n{tomli_w.dumps(table)}" for key, table in tables)


def _parts(devices: object) -> tuple[tuple[Device, ...], tuple[Link, ...]]:
    match devices:
        case Cluster():
            return devices.devices, devices.links
        case bool():
            raise SpecError(f"cannot read {devices!r} as devices")
        case int():
            return tuple(Device(f"cuda:{i}") for i in range(devices)), ()
        case str() if looks_like_file(devices):
            return read_cluster_file(devices)
        case str():
            return read_shorthand(devices), ()
        case os.PathLike():
            return read_cluster_file(Path(devices))
        case Device() | torch.device():
            return (_device(devices),), ()
        case Mapping():
            raise SpecError(f"devices must be a sequence, not {type(devices).__name__}")
        case Iterable():
            return tuple(_device(device) for device in devices), ()
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
    return {
        "between": list(link.between),
        "bandwidth": link.bandwidth,
        "latency": link.latency,
    }
