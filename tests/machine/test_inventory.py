"""The links of this machine, on virtual GPUs under recorded topologies."""

from __future__ import annotations

from pathlib import Path

import pytest
from recorded import NVSWITCH, SLOTS, SWITCHES, TWO_CONSUMER

from partitioner import Cluster, Link, virtual_gpus
from partitioner.machine import Inventory, Topology, inventory, parse_slots, parse_topology


def topology(text: str, slots: str = "") -> Topology:
    return Topology(parse_topology(text), parse_slots(slots or plain_slots()))


def plain_slots(generation: int = 4) -> str:
    return "".join(f"{i}, GPU-cuda:{i}, {generation}, 16\n" for i in range(8))


def found(devices: object, told: Topology) -> Inventory:
    with virtual_gpus(devices):  # type: ignore[arg-type]
        return inventory(told)


def test_nvlinks_are_counted() -> None:
    machine = found(2, topology(NVSWITCH))  # virtual GPUs are of A100's generation
    link = machine.cluster.link("cuda:0", "cuda:1")
    assert link.bytes_per_second == 12 * 25e9
    assert link.between == ("cuda:0", "cuda:1")
    assert machine.notes[link] == "NV12: 12 NVLinks of 25 GB/s"


def test_cards_without_peer_access_are_staged() -> None:
    machine = found("2xrtx-5090", topology(TWO_CONSUMER, plain_slots(5)))
    assert machine.cluster.link("cuda:0", "cuda:1").via == "cpu"
    road = machine.cluster.road("cuda:1", "cuda:0")
    assert [link.ends for link in road] == [("cuda:1", "cpu"), ("cpu", "cuda:0")]
    assert [link.bytes_per_second for link in road] == [63e9, 63e9]


def test_cards_with_peer_access_are_not() -> None:
    machine = found("2xa100-40gb", topology(TWO_CONSUMER))
    (link,) = machine.cluster.road("cuda:0", "cuda:1")
    assert link.bytes_per_second == 31.5e9
    assert link.shared == ()


def test_gpus_are_matched_by_uuid_and_the_slower_slot_counts() -> None:
    machine = found(4, topology(SWITCHES, SLOTS))
    assert machine.cluster.link("cuda:0", "cuda:1").bytes_per_second == 15.75e9  # PCIe 3 x16
    assert machine.cluster.link("cuda:1", "cuda:2").bytes_per_second == 15.75e9  # PCIe 4 x8
    assert machine.cluster.link("cuda:1", "cpu").bytes_per_second == 31.5e9


def test_what_leaves_a_switch_shares_its_way_up() -> None:
    cluster = found(4, topology(SWITCHES)).cluster
    assert cluster.link("cuda:0", "cuda:1").shared == ()
    assert cluster.link("cuda:0", "cuda:2").shared == ("pcie-switch-0 up", "pcie-switch-1 down")
    assert cluster.link("cuda:1", "cpu").shared == ("pcie-switch-0 up",)
    assert cluster.link("cpu", "cuda:3").shared == ("pcie-switch-1 down",)


def test_nothing_is_made_up_where_nothing_tells() -> None:
    machine = found(3, Topology())
    assert machine.cluster.links == ()
    assert machine.notes == {}


@pytest.mark.parametrize("text", [TWO_CONSUMER, SWITCHES, NVSWITCH])
def test_the_file_reads_back_equal(text: str, tmp_path: Path) -> None:
    machine = found("2xa100-40gb", topology(text))
    path = tmp_path / "cluster.toml"
    path.write_text(machine.to_toml())
    assert Cluster.of(path) == machine.cluster


def test_a_link_that_was_read_counts_for_more_than_the_rule_for_its_kind(tmp_path: Path) -> None:
    path = tmp_path / "cluster.toml"
    cards = Cluster.of("2xrtx-3090").devices
    path.write_text(Cluster(cards, (Link(("cuda:0", "cuda:1"), "56.25GB/s"),)).to_toml())
    assert Cluster.of(path).link("cuda:1", "cuda:0").via is None
