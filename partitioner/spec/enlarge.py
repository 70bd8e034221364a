"""More of what there is: further devices like a given one, joined to the others as it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from partitioner.spec.cluster import Cluster
from partitioner.spec.device import Device
from partitioner.spec.link import Link, is_host


def with_twins(cluster: Cluster, name: str, count: int = 1) -> Cluster:
    """`count` more devices of the kind, memory and links of the device `name`.

    A twin is joined to the original as the original is to the first other device, not a host, to
    which it has a link.
    """
    original = cluster.device(name)
    devices, links = list(cluster.devices), list(cluster.links)
    twins = _new_names(cluster, name, count)
    for twin in twins:
        own = [link for link in links if name in link.ends]
        links += [_renamed(link, {name: twin}) for link in own]
        for first in [end for link in own for end in link.ends if _is_peer(end, name)][:1]:
            links += [_renamed(link, {first: twin}) for link in own if first in link.ends]
        devices.append(replace(original, name=twin))
    network = cluster.network.with_twins(name, twins) if cluster.network is not None else None
    return Cluster(tuple(devices), tuple(links), network)


def _renamed(link: Link, names: Mapping[str, str]) -> Link:
    """The same link between other devices."""
    first, second = (names.get(end, end) for end in link.ends)
    if link.between is not None:
        return replace(link, between=(first, second))
    return replace(link, source=first, destination=second)


def _is_peer(end: str, name: str) -> bool:
    """Whether it is another device, and not a host."""
    return end != name and not is_host(end)


def _new_names(cluster: Cluster, name: str, count: int) -> list[str]:
    """Names of the same type that are still free."""
    kind = name.partition(":")[0]
    taken = {int(n.partition(":")[2] or 0) for n in cluster.names if n.partition(":")[0] == kind}
    first = max(taken) + 1
    return [f"{kind}:{first + index}" for index in range(count)]


def most_roomy(cluster: Cluster) -> str:
    """The first of the devices with the most memory; a GPU where there is one."""
    gpus = [device for device in cluster.devices if not device.name.startswith("cpu")]

    def room(device: Device) -> float:
        return device.memory if isinstance(device.memory, int) else float("inf")

    return max(gpus or cluster.devices, key=room).name
