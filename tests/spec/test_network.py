"""Clusters of many equal nodes: how they are written, and what joins which devices."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partitioner.errors import SpecError
from partitioner.placement import ClusterRecord
from partitioner.spec import Cluster, Device, Link, Network, Node, with_twins

FILE = """
[[node]]
count = 3
devices = "4xh100-sxm"
bandwidth = "450GB/s"
latency = "3us"
cards = 2

[network]
bandwidth = "50GB/s"
latency = "5us"
"""


def cluster_of(text: str, tmp_path: Path) -> Cluster:
    path = tmp_path / "cluster.toml"
    path.write_text(text)
    return Cluster.of(path)


def test_equal_nodes_are_numbered_through(tmp_path: Path) -> None:
    cluster = cluster_of(FILE, tmp_path)
    assert cluster.names == tuple(f"cuda:{i}" for i in range(12))
    assert {device.kind for device in cluster.devices} == {"h100-sxm"}
    for one, other in permutations(range(12), 2):
        link = cluster.link(f"cuda:{one}", f"cuda:{other}")
        inside = one // 4 == other // 4
        assert link.bytes_per_second == (450e9 if inside else 50e9)
        assert link.latency_seconds == (3e-6 if inside else 5e-6)
        assert bool(link.lanes) != inside


def test_devices_of_a_network_card_share_it_in_each_direction(tmp_path: Path) -> None:
    cluster = cluster_of(FILE, tmp_path)

    def lanes(source: int, destination: int) -> set[str]:
        return set(cluster.link(f"cuda:{source}", f"cuda:{destination}").lanes)

    assert lanes(0, 4) & lanes(1, 8)  # both leave by the first card of the first node
    assert not lanes(0, 4) & lanes(2, 8)
    assert not lanes(0, 4) & lanes(4, 0)
    assert lanes(0, 4) & lanes(8, 5)


@st.composite
def networks(draw: st.DrawFn) -> Cluster:
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    names = [f"cuda:{i}" for i in range(sum(sizes))]
    nodes, start = [], 0
    for size in sizes:
        cards = draw(st.none() | st.integers(1, size))
        bandwidth = draw(st.sampled_from(["450GB/s", 1.5e11]))
        nodes.append(Node(tuple(names[start : start + size]), bandwidth, "3us", cards))
        start += size
    network = Network(tuple(nodes), draw(st.sampled_from(["50GB/s", 123456789.0])), 5e-6)
    links = (Link(("cuda:0", "cuda:1"), "7GB/s"),) if len(names) > 1 and draw(st.booleans()) else ()
    return Cluster(tuple(Device(name, memory="1GiB") for name in names), links, network)


@settings(max_examples=25)
@given(networks())
def test_a_network_survives_its_file_and_its_record(
    tmp_path_factory: pytest.TempPathFactory, cluster: Cluster
) -> None:
    assert cluster_of(cluster.to_toml(), tmp_path_factory.mktemp("clusters")) == cluster
    assert ClusterRecord.of(cluster).cluster() == cluster


def test_a_declared_link_overrules_the_network(tmp_path: Path) -> None:
    text = FILE + '[[link]]\nbetween = ["cuda:0", "cuda:1"]\nbandwidth = "1GB/s"\n'
    cluster = cluster_of(text, tmp_path)
    assert cluster.link("cuda:0", "cuda:1").bytes_per_second == 1e9
    assert cluster.link("cuda:0", "cuda:2").bytes_per_second == 450e9


def test_cards_of_a_kind_without_peer_access_are_joined_as_the_node_says(tmp_path: Path) -> None:
    cluster = cluster_of(FILE.replace("h100-sxm", "rtx-4090"), tmp_path)
    assert cluster.detour("cuda:0", "cuda:1") is None


def test_a_twin_is_in_the_node_of_its_original(tmp_path: Path) -> None:
    cluster = with_twins(cluster_of(FILE, tmp_path), "cuda:4", 2)
    assert cluster.link("cuda:12", "cuda:5").bytes_per_second == 450e9
    assert cluster.link("cuda:12", "cuda:0").bytes_per_second == 50e9
    assert cluster.link("cuda:12", "cuda:13").bytes_per_second == 450e9


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[network]", "[net]", "unknown key 'net'"),
        ('[network]\nbandwidth = "50GB/s"\nlatency = "5us"', "", r"3 nodes; write a \[network\]"),
        ("cards = 2", "cards = 5", "cards must be from 1 to the number of its devices"),
        ("count = 3", "count = 0", "from 1 to 4096 devices"),
        ("count = 3", "count = 5000", "from 1 to 4096 devices"),
        ('"4xh100-sxm"', '"cuda:0"', "a count of a kind or size, such as '8xh200'"),
        ('"4xh100-sxm"', '"4xh100"', "unknown kind 'h100'"),
        ('"4xh100-sxm"', '["cuda:0"]', "leave out 'count'"),
        ('"4xh100-sxm"', "4", "'devices' must be a text or list of names, not 4"),
        (
            'count = 3\ndevices = "4xh100-sxm"',
            'devices = ["cuda:7", "cuda:8"]',
            "there is no device",
        ),
        ('bandwidth = "450GB/s"', "", "node 1: the key 'bandwidth' is missing"),
        ('bandwidth = "450GB/s"', 'bandwidth = "0GB/s"', "bandwidth must be above 0"),
        ("[[node]]", "[[device]]", "unknown key 'count'"),
    ],
)
def test_bad_files_are_told(old: str, new: str, message: str, tmp_path: Path) -> None:
    assert old in FILE
    with pytest.raises(SpecError, match=message):
        cluster_of(FILE.replace(old, new), tmp_path)


def test_hundreds_of_devices_have_names_of_their_own(tmp_path: Path) -> None:
    """PyTorch itself keeps an index in one byte."""
    cluster = cluster_of(FILE.replace("count = 3", "count = 80"), tmp_path)
    assert cluster.names == tuple(f"cuda:{i}" for i in range(320))
    assert cluster.link("cuda:300", "cuda:303").bytes_per_second == 450e9
    assert Cluster.of("200x16GiB").names[-1] == "cuda:199"


def test_a_device_is_in_one_node() -> None:
    node = Node(("cuda:0",), "1GB/s")
    with pytest.raises(SpecError, match="'cuda:0' is in two nodes"):
        Network((node, node), "1GB/s")
