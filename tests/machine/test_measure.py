"""Measured links, and copies that arrive changed, on virtual GPUs."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch

from partitioner import Cluster, Device, Link, SpecError, virtual_gpus
from partitioner.machine import Inventory, LinkMeasurement, inventory, measure_links, surveyed
from partitioner.machine.topology import Topology

NAMES = ("cuda:0", "cuda:1", "cuda:2")


def machine(*links: Link) -> Cluster:
    """Three small GPUs: the largest copies are of 64 KiB."""
    return Cluster(tuple(Device(name, memory="512KiB") for name in NAMES), links)


def survey(cluster: Cluster, copy: object = None) -> Inventory:
    with virtual_gpus(cluster):
        measured = measure_links(cluster.names, copy=copy)  # type: ignore[arg-type]
        return surveyed(inventory(Topology()), measured)


def test_every_pair_and_the_host_are_measured_in_both_directions() -> None:
    with virtual_gpus(machine()) as gpus:
        found = measure_links(NAMES)
        assert all(gpu.allocated_nbytes == 0 for gpu in gpus.values())
    assert {(m.source, m.destination) for m in found} == set(permutations((*NAMES, "cpu"), 2))
    for measurement in found:
        assert measurement.bytes_per_second > 0
        assert measurement.latency_seconds > 0
        assert measurement.spread >= 0
        assert measurement.damaged_nbytes == ()


@pytest.mark.parametrize("pair", [("cuda:0", "cuda:1"), ("cuda:2", "cuda:1")])
def test_only_the_broken_direction_is_found(pair: tuple[str, str]) -> None:
    found = survey(machine(Link(source=pair[0], destination=pair[1], broken=True)))
    assert [link.ends for link in found.cluster.links if link.broken] == [pair]
    (warning,) = found.warnings
    assert f"from '{pair[0]}' to '{pair[1]}' is broken" in warning
    for ends in (pair, pair[::-1]):
        assert len(found.cluster.road(*ends)) == 2


def test_a_fault_that_only_large_copies_have_is_found() -> None:
    def faulty(tensor: torch.Tensor, device: str) -> torch.Tensor:
        copy = tensor.to(device, copy=True)
        if (tensor.device, device) == (torch.device("cuda:0"), "cuda:2") and len(copy) > 2**15:
            copy[2**15] ^= 1
        return copy

    with virtual_gpus(machine()):
        found = measure_links(NAMES, copy=faulty)
    damaged = {(m.source, m.destination): m.damaged_nbytes for m in found if m.damaged_nbytes}
    assert damaged == {("cuda:0", "cuda:2"): (2**16,)}


def test_a_gpu_that_the_host_cannot_reach_is_left_out() -> None:
    def faulty(tensor: torch.Tensor, device: str) -> torch.Tensor:
        copy = tensor.to(device, copy=True)
        return copy.zero_() if (tensor.device.type, device) == ("cpu", "cuda:1") else copy

    found = survey(machine(), faulty)
    assert found.cluster.names == ("cuda:0", "cuda:2")
    assert not any("cuda:1" in link.ends for link in found.cluster.links)
    assert "'cuda:1' is left out" in found.warnings[0]


def test_no_gpu_left_is_an_error() -> None:
    read = Inventory(machine())
    bad = [LinkMeasurement(name, "cpu", 1e9, 1e-6, 0.0, (1,)) for name in NAMES]
    with pytest.raises(SpecError, match="no GPU can be used"):
        surveyed(read, bad)


def test_what_is_staged_keeps_its_share_of_the_links_to_the_host() -> None:
    cluster = survey(machine(Link(("cuda:0", "cuda:1"), via="cpu"))).cluster
    (staged,) = cluster.road("cuda:0", "cuda:1")
    assert staged.shared == ("cuda:0 → cpu", "cpu → cuda:1")
    assert cluster.link("cuda:0", "cpu").shared == ("cuda:0 → cpu",)
    assert cluster.link("cpu", "cuda:1").shared == ("cpu → cuda:1",)
    assert cluster.link("cuda:1", "cuda:2").shared == ()
