from __future__ import annotations

import copy
import dataclasses
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cost_models import DEVICE_KINDS
from partitioner.errors import SpecError
from partitioner.spec import Cluster, Device, Link
from partitioner.virtual import virtual_gpus

GIB = 2**30

FILE = """
[[device]]
name = "cuda:0"
kind = "a100-40gb"
memory = "38GiB"

[[device]]
name = "cuda:1"
memory = 17179869184
flops_per_second = "19.5TFLOPS"
memory_bandwidth = 900e9

[[link]]
between = ["cuda:0", "cuda:1"]
bandwidth = "300GB/s"
latency = "5us"
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "cluster.toml"
    path.write_text(text)
    return path


def memories(cluster: Cluster) -> dict[str, object]:
    return {device.name: device.memory for device in cluster.devices}


def test_texts_become_numbers() -> None:
    device = Device("cuda", memory="16GiB", flops_per_second="19.5TFLOPS", memory_bandwidth="1TB/s")
    assert device == Device("cuda:0", None, 16 * GIB, 19.5e12, 1e12)
    link = Link(("cuda:0", "cpu:0"), "25GB/s", "5us")
    assert (link.between, link.bandwidth, link.latency) == (("cuda:0", "cpu"), 25e9, 5e-6)


@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        ("2x16GiB", {"cuda:0": 16 * GIB, "cuda:1": 16 * GIB}),
        ("cuda:0=24GiB,cuda:1=16GiB", {"cuda:0": 24 * GIB, "cuda:1": 16 * GIB}),
        ("cuda:1=24GiB, cpu=64GB", {"cuda:1": 24 * GIB, "cpu": 64 * 10**9}),
        ("1x8GiB,1x4GiB", {"cuda:0": 8 * GIB, "cuda:1": 4 * GIB}),
        (Device("cuda:0", memory="1GiB"), {"cuda:0": GIB}),
        ([Device("cuda:3", memory="1GiB")], {"cuda:3": GIB}),
        (Cluster((Device("cuda:0", memory=5),)), {"cuda:0": 5}),
    ],
)
def test_devices_may_be_said_in_many_ways(devices: object, expected: dict[str, int]) -> None:
    assert memories(Cluster.of(devices)) == expected


@pytest.mark.parametrize(
    "devices",
    [
        ["cuda:0", "cuda:1"],
        ("cuda:0", torch.device("cuda:1")),
        (torch.device("cuda", i) for i in range(2)),
        "cuda:0,cuda:1",
        2,
    ],
)
def test_memory_is_given_where_the_machine_does_not_tell(devices: object) -> None:
    cluster = Cluster.of(devices, "16GiB")
    assert memories(cluster) == {"cuda:0": 16 * GIB, "cuda:1": 16 * GIB}


def test_memory_may_be_given_by_device() -> None:
    cluster = Cluster.of(["cuda:0", "cuda:1"], {"cuda:1": "2GiB", "cuda:0": 100})
    assert memories(cluster) == {"cuda:0": 100, "cuda:1": 2 * GIB}


def test_of_two_limits_the_lower_counts() -> None:
    devices = [Device("cuda:0", memory="8GiB"), Device("cuda:1", kind="a100-40gb")]
    assert memories(Cluster.of(devices, "10GiB")) == {"cuda:0": 8 * GIB, "cuda:1": 10 * GIB}


def test_a_kind_tells_its_memory_and_figures() -> None:
    cluster = Cluster.of("2xa100-40gb")
    kind = DEVICE_KINDS["a100-40gb"]
    assert memories(cluster) == {"cuda:0": kind.memory_nbytes, "cuda:1": kind.memory_nbytes}
    assert cluster.device("cuda:1").figures() == kind


def test_figures_override_those_of_the_kind() -> None:
    device = Device("cuda:0", "a100-40gb", "8GiB", 1e12, "1GB/s")
    figures = device.figures()
    assert figures.memory_nbytes == 8 * GIB
    assert set(figures.flops_per_second.values()) == {1e12}
    assert figures.bytes_per_second == 1e9
    assert figures.launch_seconds == DEVICE_KINDS["a100-40gb"].launch_seconds


def test_without_a_kind_a_generic_one_is_assumed() -> None:
    assert Device("cuda:0", memory=5).figures().name == "generic-gpu"
    assert Device("cpu", memory=5).figures().type == "cpu"


def test_a_cluster_file_is_read_by_path_or_text(tmp_path: Path) -> None:
    path = written(tmp_path, FILE)
    expected = Cluster(
        (
            Device("cuda:0", "a100-40gb", 38 * GIB),
            Device("cuda:1", None, 16 * GIB, 19.5e12, 900e9),
        ),
        (Link(("cuda:0", "cuda:1"), 300e9, 5e-6),),
    )
    assert Cluster.of(path) == Cluster.of(str(path)) == expected


devices = st.builds(
    Device,
    name=st.just("cuda:0"),
    kind=st.sampled_from([None, "generic-gpu"]),
    memory=st.integers(1, 2**40),
    flops_per_second=st.none() | st.floats(1.0, 1e18),
    memory_bandwidth=st.none() | st.floats(1.0, 1e15),
)


@settings(max_examples=40, deadline=None)
@given(
    parts=st.lists(devices, min_size=2, max_size=4),
    bandwidth=st.floats(1.0, 1e13),
    latency=st.floats(0.0, 1.0),
)
def test_a_cluster_survives_being_written(
    tmp_path_factory: pytest.TempPathFactory,
    parts: list[Device],
    bandwidth: float,
    latency: float,
) -> None:
    named = tuple(dataclasses.replace(device, name=f"cuda:{i}") for i, device in enumerate(parts))
    cluster = Cluster(named, (Link(("cuda:1", "cuda:0"), bandwidth, latency),))
    path = written(tmp_path_factory.mktemp("cluster"), cluster.to_toml())
    assert Cluster.of(path) == cluster


def test_a_transfer_takes_latency_and_bandwidth_both_ways() -> None:
    cluster = Cluster(
        tuple(Device(f"cuda:{i}", memory=1) for i in range(3)),
        (Link(("cuda:0", "cuda:1"), "1GB/s", "1ms"),),
    )
    assert cluster.transfer_seconds("cuda:0", "cuda:1", 10**9) == 1.001
    assert cluster.transfer_seconds("cuda:1", "cuda:0", 10**9) == 1.001
    assert cluster.transfer_seconds("cuda:1", "cuda:1", 10**9) == 0.0
    assert cluster.transfer_seconds("cuda:0", "cuda:1", 0) == 0.0


def test_undeclared_pairs_have_the_assumed_link() -> None:
    cluster = Cluster.of("2x1GiB")
    pcie = cluster.link("cuda:0", "cuda:1")
    assert pcie.bytes_per_second == 31.5e9
    assert 0 < pcie.latency_seconds < 1e-3


def test_clusters_are_values() -> None:
    cluster = Cluster.of("2xa100-40gb")
    assert copy.deepcopy(cluster) == pickle.loads(pickle.dumps(cluster)) == cluster
    assert hash(cluster) == hash(Cluster.of("2xa100-40gb"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        cluster.devices = ()  # type: ignore[misc]


BAD_DEVICES = [
    ([], None, "there is no device"),
    ("", None, "cannot read ''"),
    (["cuda:0", "cuda:0"], "1GiB", "'cuda:0' is there twice"),
    (["cuda", "cuda:0"], "1GiB", "'cuda:0' is there twice"),
    (["gpu:0"], "1GiB", "knows no device 'gpu:0'"),
    (["cuda:x"], "1GiB", "knows no device 'cuda:x'"),
    (["cuda:-1"], "1GiB", "knows no device 'cuda:-1'"),
    (["meta"], "1GiB", "holds no data"),
    ([3], "1GiB", "not 3"),
    (None, None, "cannot read None"),
    (3.5, None, "cannot read 3.5"),
    (True, None, "cannot read True"),
    ({"cuda:0": "1GiB"}, None, "must be a sequence"),
    (0, "1GiB", "there is no device"),
    ("foo", None, "2xa100-40gb"),
    ("2xa100-40", None, "did you mean 'a100-40gb'"),
    ("2xA100-40GB", None, "did you mean 'a100-40gb'"),
    ("0x16GiB", None, "from 1 to"),
    ("9999999x16GiB", None, "from 1 to"),
    ("2x16", None, "has no unit"),
    ("2x-16GiB", None, "above 0"),
    ("2x0GiB", None, "above 0"),
    ("2x16GiX", None, "unknown unit 'GiX'"),
    ("cuda:0=", None, "'cuda:0='"),
    ("cuda:0=24GiB,cuda:0=16GiB", None, "'cuda:0' is there twice"),
    ("gpu0=24GiB", None, "knows no device 'gpu0'"),
    ("cuda:0=24GiB;cuda:1=16GiB", None, "cannot read '24GiB;cuda:1=16GiB'"),
    ("2x16GiB,", None, "cannot read '2x16GiB,'"),
    ("missing.toml", None, "'missing.toml': No such file"),
    (Path("missing.toml"), None, "'missing.toml': No such file"),
    (Path("."), None, "directory"),
    (["cuda:0"], None, "memory='16GiB'"),
    ("cuda:0,cuda:1", None, "the memory of 'cuda:0' is not known"),
    (["cuda:0", "cuda:1"], {"cuda:0": "1GiB"}, "the memory of 'cuda:1' is not known"),
    (["cuda:0"], {"cuda:1": "1GiB"}, "did you mean 'cuda:0'"),
    (["cuda:0"], 0, "above 0"),
    (["cuda:0"], -5, "above 0"),
    (["cuda:0"], "-1GiB", "above 0"),
    (["cuda:0"], float("nan"), "not finite"),
    (["cuda:0"], "lots", "cannot read 'lots'"),
    (["cuda:0"], [1], "cannot read [1]"),
    ("2x1GiB", {"cuda:7": 1}, "unknown device in memory= 'cuda:7'"),
]


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("partitioner.spec.cluster.local_device", lambda name: None)


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(("devices", "memory", "fragment"), BAD_DEVICES)
def test_bad_devices(devices: object, memory: object, fragment: str) -> None:
    with pytest.raises(SpecError) as error:
        Cluster.of(devices, memory)  # type: ignore[arg-type]
    assert fragment in str(error.value)


BAD_PARTS = [
    (lambda: Device(""), "knows no device ''"),
    (lambda: Device(7), "not 7"),
    (lambda: Device("cuda:0", kind="a100"), "did you mean 'a100-"),
    (lambda: Device("cpu", kind="a100-40gb"), "which is a cuda device"),
    (lambda: Device("cuda:0", memory=0), "device 'cuda:0': memory must be above 0"),
    (lambda: Device("cuda:0", memory=-1), "above 0"),
    (lambda: Device("cuda:0", memory=float("nan")), "not finite"),
    (lambda: Device("cuda:0", memory=float("inf")), "not finite"),
    (lambda: Device("cuda:0", memory="0.1 B"), "above 0"),
    (lambda: Device("cuda:0", "a100-40gb", "80GiB"), "80 GiB is more than the"),
    (lambda: Device("cuda:0", flops_per_second=0), "flops per second must be above 0"),
    (lambda: Device("cuda:0", memory_bandwidth="1GB"), "'cuda:0': memory bandwidth"),
    (lambda: Link(("cuda:0", "cuda:0"), 1), "to itself"),
    (lambda: Link(("cuda", "cuda:0"), 1), "to itself"),
    (lambda: Link(("cuda:0",), 1), "between two devices"),
    (lambda: Link("ab", 1), "between two devices"),
    (lambda: Link(("cuda:0", "gpu"), 1), "knows no device 'gpu'"),
    (lambda: Link(("cuda:0", "cuda:1"), 0), "bandwidth must be above 0"),
    (lambda: Link(("cuda:0", "cuda:1"), "fast"), "bandwidth: cannot read 'fast'"),
    (lambda: Link(("cuda:0", "cuda:1"), 1, -1), "latency must be at least 0"),
    (lambda: Cluster(()), "there is no device"),
    (
        lambda: Cluster((Device("cuda:0"),), (Link(("cuda:0", "cuda:1"), 1),)),
        "unknown device 'cuda:1'; did you mean 'cuda:0'",
    ),
    (
        lambda: Cluster(
            (Device("cuda:0"), Device("cuda:1")),
            (Link(("cuda:0", "cuda:1"), 1), Link(("cuda:1", "cuda:0"), 1)),
        ),
        "two links between 'cuda:1' and 'cuda:0'",
    ),
    (lambda: Cluster.of("2x1GiB").device("cuda:2"), "unknown device 'cuda:2'"),
    (lambda: Cluster.of("2x1GiB").transfer_seconds("cuda:0", "x", 1), "unknown device 'x'"),
]


@pytest.mark.parametrize(("make", "fragment"), BAD_PARTS)
def test_bad_parts(make, fragment: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(SpecError) as error:
        make()
    assert fragment in str(error.value)


DEVICE = '[[device]]\nname = "cuda:0"\nmemory = "1GiB"\n'
TWO = DEVICE + '[[device]]\nname = "cuda:1"\nmemory = "1GiB"\n'

BAD_FILES = [
    ("", "there is no device"),
    ("device = 3", "must be written as [[device]]"),
    ("device = [3]", "device 1 must be a table"),
    ("[device]\nname = 'cuda:0'", "must be written as [[device]]"),
    ("[[device]", "line 1"),
    (DEVICE + "memory =\n", "line 4"),
    (DEVICE + "memory = 1\n", "line 4"),
    ("\x00", "not valid TOML"),
    (DEVICE + "[[devices]]\nname = 'cuda:1'", "unknown key 'devices'; did you mean 'device'"),
    (DEVICE + "memmory = 3", "device 'cuda:0': unknown key 'memmory'; did you mean 'memory'"),
    (DEVICE + "[[link]]\nbetwen = []", "link 1: unknown key 'betwen'; did you mean 'between'"),
    ("[[device]]\nmemory = '1GiB'", "device 1: the key 'name' is missing"),
    (TWO + "[[link]]\nbetween = ['cuda:0', 'cuda:1']", "the key 'bandwidth' is missing"),
    (TWO + "[[link]]\nbandwidth = 3", "the key 'between' is missing"),
    ("[[device]]\nname = 3", "'name' must be a text, not 3"),
    ("[[device]]\nname = 'cuda:0'\nmemory = true", "'memory' must be a text or whole number"),
    ("[[device]]\nname = 'cuda:0'\nmemory = [1]", "'memory' must be a text or whole number"),
    ("[[device]]\nname = 'cuda:0'\nmemory = 1.5", "'memory' must be a text or whole number"),
    ("[[device]]\nname = 'cuda:0'\nmemory = '0GiB'", "above 0"),
    ("[[device]]\nname = 'cuda:0'\nflops_per_second = nan", "not finite"),
    ("[[device]]\nname = 'cuda:0'\nkind = 'a100-40g'", "did you mean 'a100-40gb'"),
    ("[[device]]\nname = 'cuda:0'", "the memory of 'cuda:0' is not known"),
    (DEVICE + DEVICE, "is there twice"),
    (TWO + "[[link]]\nbetween = 'cuda:0'\nbandwidth = 1", "'between' must be a list of two names"),
    (TWO + "[[link]]\nbetween = ['cuda:0']\nbandwidth = 1", "between two devices"),
    (TWO + "[[link]]\nbetween = [1, 2]\nbandwidth = 1", "not 1"),
    (TWO + "[[link]]\nbetween = ['cuda:0', 'cuda:2']\nbandwidth = 1", "unknown device 'cuda:2'"),
    (TWO + "[[link]]\nbetween = ['cuda:0', 'cuda:1']\nbandwidth = -1", "above 0"),
]


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(("text", "fragment"), BAD_FILES)
def test_bad_cluster_files(tmp_path: Path, text: str, fragment: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(SpecError) as error:
        Cluster.of(path)
    assert fragment in str(error.value)


def test_a_bad_cluster_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"cluster\.toml'"):
        Cluster.of(written(tmp_path, "[[device]]\nname = 'cuda:0'\nmemory = 0"))


def test_a_cluster_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cluster.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(SpecError, match="not valid TOML"):
        Cluster.of(path)


def test_a_bare_name_is_looked_up_among_virtual_gpus() -> None:
    with virtual_gpus(2, memory="16GiB"):
        assert memories(Cluster.of(["cuda:0", "cuda:1"])) == {
            "cuda:0": 16 * GIB,
            "cuda:1": 16 * GIB,
        }
        assert memories(Cluster.of("cuda:1", "8GiB")) == {"cuda:1": 8 * GIB}


def test_a_bare_name_takes_the_kind_of_the_gpu_that_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    present = dataclasses.replace(DEVICE_KINDS["a100-40gb"], memory_nbytes=39 * GIB)
    monkeypatch.setattr("partitioner.spec.cluster.local_device", lambda name: present)
    assert Cluster.of("cuda:0").devices == (Device("cuda:0", "a100-40gb", 39 * GIB),)
    assert Cluster.of("cuda:0=8GiB").devices == (Device("cuda:0", None, 8 * GIB),)
