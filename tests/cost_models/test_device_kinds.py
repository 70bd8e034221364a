"""The catalogue of devices and links, and what this machine has."""

from __future__ import annotations

import re

import pytest

from cost_models import (
    DEFAULT_LINK,
    DEVICE_KINDS,
    LINK_KINDS,
    has_peer_access,
    kind_by_product_name,
    local_device,
    nvlink_bytes_per_second,
    pcie_bytes_per_second,
)

GIB = 2**30


def test_every_kind_has_figures_a_source_and_a_date() -> None:
    assert len(DEVICE_KINDS) >= 25
    for name, kind in DEVICE_KINDS.items():
        assert kind.name == name
        assert kind.type in ("cuda", "cpu")
        assert kind.source
        assert re.fullmatch(r"20\d\d-(0[1-9]|1[0-2])", kind.date), name
        assert kind.memory_nbytes >= 8 * GIB
        assert 1e10 < kind.bytes_per_second < 1e13
        assert 0 < kind.launch_seconds < 1e-4
        assert {"float32", "float64"} <= set(kind.flops_per_second)
        assert all(1e11 < rate < 1e16 for rate in kind.flops_per_second.values()), name


def test_lower_precision_is_never_slower_on_tensor_cores() -> None:
    for kind in DEVICE_KINDS.values():
        rates = kind.flops_per_second
        if "tfloat32" in rates:
            assert rates["float64"] <= rates["float32"] <= rates["tfloat32"]
            assert rates["tfloat32"] < rates["bfloat16"] == rates["float16"] < rates["int8"]


@pytest.mark.parametrize(
    ("name", "dtype", "teraflops", "gib"),
    [
        ("a100-40gb", "bfloat16", 312, 40),
        ("a100-80gb", "float32", 19.5, 80),
        ("h100-sxm", "float16", 989.5, 80),
        ("v100-16gb", "float16", 125, 16),
        ("rtx-4090", "float32", 82.6, 24),
    ],
)
def test_well_known_figures_are_dense_ones(
    name: str, dtype: str, teraflops: float, gib: int
) -> None:
    kind = DEVICE_KINDS[name]
    assert kind.flops_per_second[dtype] == pytest.approx(teraflops * 1e12)
    assert kind.memory_nbytes == gib * GIB


P100 = {"float64": 64, "float32": 128, "float16": 256}
V100 = {"float64": 64, "float32": 128, "float16": 1024}
GP102 = {"float64": 8, "float32": 256, "float16": 4}
TU10X = {"float64": 4, "float32": 128, "float16": 1024, "int8": 2048}
GA100 = {"float64": 128, "float32": 128, "tfloat32": 1024, "float16": 2048, "int8": 4096}
GA10X = {"float64": 4, "float32": 256, "tfloat32": 512, "float16": 1024, "int8": 2048}
GEFORCE = GA10X | {"tfloat32": 256, "float16": 512}
GH100 = {"float64": 256, "float32": 256}
GH100_TENSOR = {"tfloat32": 2048, "float16": 4096, "int8": 8192}
CDNA2 = {"float64": 256, "float32": 256, "float16": 1024, "int8": 1024}
CDNA3 = {"float64": 256, "float32": 256, "tfloat32": 1024, "float16": 2048, "int8": 4096}
"""Operations of one SM or compute unit per cycle, from the vendors' architecture whitepapers."""


@pytest.mark.parametrize(
    ("name", "units", "gigahertz", "per_cycle"),
    [
        ("p100-16gb", 56, 1.480, P100),
        ("v100-16gb", 80, 1.530, V100),
        ("v100-32gb", 80, 1.530, V100),
        ("gtx-1080-ti", 28, 1.582, GP102),
        ("t4", 40, 1.590, TU10X),
        ("quadro-rtx-8000", 72, 1.770, TU10X),
        ("rtx-2080-ti", 68, 1.545, TU10X | {"float16": 512}),
        ("a30", 56, 1.440, GA100),
        ("a100-40gb", 108, 1.410, GA100),
        ("a100-80gb", 108, 1.410, GA100),
        ("a10", 72, 1.695, GA10X),
        ("a40", 84, 1.740, GA10X),
        ("rtx-a4000", 48, 1.560, GA10X),
        ("rtx-a5000", 64, 1.695, GA10X),
        ("rtx-a6000", 84, 1.800, GA10X),
        ("rtx-3080", 68, 1.710, GEFORCE),
        ("rtx-3090", 82, 1.695, GEFORCE),
        ("l4", 58, 2.040, GA10X),
        ("l40s", 142, 2.520, GA10X),
        ("rtx-6000-ada", 142, 2.505, GA10X),
        ("rtx-4080", 76, 2.505, GEFORCE),
        ("rtx-4090", 128, 2.520, GEFORCE),
        ("rtx-5090", 170, 2.407, GEFORCE),
        ("h100-pcie", 114, 1.755, GH100),
        ("h100-pcie", 114, 1.620, GH100_TENSOR),
        ("h100-sxm", 132, 1.980, GH100),
        ("h100-sxm", 132, 1.830, GH100_TENSOR),
        ("h200", 132, 1.980, GH100),
        ("h200", 132, 1.830, GH100_TENSOR),
        ("mi210", 104, 1.700, CDNA2),
        ("mi300x", 304, 2.100, CDNA3),
    ],
)
def test_peaks_follow_from_units_and_clocks(
    name: str, units: int, gigahertz: float, per_cycle: dict[str, int]
) -> None:
    stated = DEVICE_KINDS[name].flops_per_second
    for dtype, operations in per_cycle.items():
        assert stated[dtype] == pytest.approx(units * gigahertz * 1e9 * operations, rel=0.015), (
            dtype
        )


def test_a_tile_product_of_amx_takes_sixteen_cycles() -> None:
    xeon = DEVICE_KINDS["xeon-8480"].flops_per_second
    for dtype, depth in (("bfloat16", 32), ("int8", 64)):
        per_cycle = 2 * 16 * 16 * depth / 16
        assert xeon[dtype] == pytest.approx(56 * 2.0e9 * per_cycle)


def test_there_are_several_generations_and_classes() -> None:
    wanted = {"p100-16gb", "v100-32gb", "t4", "a10", "h200", "b200", "mi300x", "rtx-a6000"}
    assert wanted | {"rtx-2080-ti", "rtx-5090", "generic-gpu", "generic-cpu"} <= set(DEVICE_KINDS)
    assert sum(kind.type == "cpu" for kind in DEVICE_KINDS.values()) >= 4


@pytest.mark.parametrize(
    ("product", "gib", "kind"),
    [
        ("NVIDIA A100-SXM4-40GB", 39.4, "a100-40gb"),
        ("NVIDIA A100 80GB PCIe", 79.2, "a100-80gb"),
        ("NVIDIA H100 PCIe", 79.6, "h100-pcie"),
        ("NVIDIA H100 80GB HBM3", 79.1, "h100-sxm"),
        ("Tesla V100-SXM2-32GB", 31.7, "v100-32gb"),
        ("NVIDIA GeForce RTX 2080 Ti", 10.8, "rtx-2080-ti"),
        ("NVIDIA RTX 6000 Ada Generation", 47.5, "rtx-6000-ada"),
        ("NVIDIA L40S", 44.5, "l40s"),
        ("NVIDIA L4", 22.0, "l4"),
        ("NVIDIA L40", 44.5, None),
        ("NVIDIA GeForce RTX 3080 Ti", 11.8, None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", 15.7, None),
        ("Some Accelerator 9000", 15.7, None),
    ],
)
def test_a_product_name_tells_the_kind(product: str, gib: float, kind: str | None) -> None:
    found = kind_by_product_name(product, int(gib * GIB))
    assert (found and found.name) == kind


def test_the_cpu_is_there_with_its_memory_and_unknown_devices_are_not() -> None:
    cpu = local_device("cpu")
    assert cpu is not None
    assert cpu.name == "generic-cpu"
    assert cpu.memory_nbytes > 2**28
    assert local_device("cuda:99") is None
    assert local_device("toaster") is None


def test_links_have_sources_and_the_default_is_pcie_4() -> None:
    assert DEFAULT_LINK is LINK_KINDS["pcie4-x16"]
    assert DEFAULT_LINK.bytes_per_second == pytest.approx(16 * 16e9 * 128 / 130 / 8, rel=0.001)
    for name, link in LINK_KINDS.items():
        assert link.name == name
        assert link.source
        assert re.fullmatch(r"20\d\d-(0[1-9]|1[0-2])", link.date)
        assert 1e9 < link.bytes_per_second < 1e12
        assert 0 < link.latency_seconds < 1e-3


def test_geforce_rtx_cards_alone_have_no_peer_access() -> None:
    without = {kind.name for kind in DEVICE_KINDS.values() if not has_peer_access(kind.name)}
    assert {"rtx-2080-ti", "rtx-3090", "rtx-4090", "rtx-5090"} <= without
    assert not any("a6000" in name or "ada" in name for name in without)
    assert has_peer_access("gtx-1080-ti")


@pytest.mark.parametrize(
    ("capability", "links", "name"),
    [
        ((6, 0), 4, "nvlink1"),
        ((7, 0), 6, "nvlink2"),
        ((8, 0), 12, "nvlink3"),
        ((8, 6), 4, "nvlink-bridge-a6000"),
        ((9, 0), 18, "nvlink4"),
        ((10, 0), 18, "nvlink5"),
    ],
)
def test_nvlinks_add_up_to_the_datasheets(
    capability: tuple[int, int], links: int, name: str
) -> None:
    figure = nvlink_bytes_per_second(capability)
    assert figure is not None
    assert links * figure == LINK_KINDS[name].bytes_per_second
    assert nvlink_bytes_per_second((1, 0)) is None


def test_pcie_lanes_add_up_to_the_standard() -> None:
    for generation in (3, 4, 5):
        whole = LINK_KINDS[f"pcie{generation}-x16"].bytes_per_second
        assert pcie_bytes_per_second(generation, 16) == pytest.approx(whole)
        assert pcie_bytes_per_second(generation, 8) == pytest.approx(whole / 2)
    assert pcie_bytes_per_second(4, 0) is None
    assert pcie_bytes_per_second(1, 16) is None
