"""Kinds of links between devices, and the one that is assumed where none is declared.

Bandwidths are per direction, as the standard or the vendor states them: after line coding, before
packet headers. Latency is no datasheet figure: it is the order of what a copy of a few bytes takes
from the call to its end.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LinkKind:
    """A kind of link.

    Attributes:
        name: such as `"pcie4-x16"`.
        bytes_per_second: in one direction.
        latency_seconds: before the first byte arrives.
        source: where the bandwidth is stated.
        date: of the source, `YYYY-MM`.
    """

    name: str
    bytes_per_second: float
    latency_seconds: float
    source: str
    date: str


_LINKS = (
    LinkKind("pcie3-x16", 15.75e9, 10e-6, "PCI Express 3.0: 16 x 8 GT/s, 128b/130b", "2010-11"),
    LinkKind("pcie4-x16", 31.5e9, 10e-6, "PCI Express 4.0: 16 x 16 GT/s, 128b/130b", "2017-10"),
    LinkKind("pcie5-x16", 63.0e9, 10e-6, "PCI Express 5.0: 16 x 32 GT/s, 128b/130b", "2019-05"),
    LinkKind("nvlink1", 80e9, 5e-6, "NVIDIA Tesla P100 datasheet: 160 GB/s both ways", "2016-10"),
    LinkKind("nvlink2", 150e9, 5e-6, "NVIDIA V100 datasheet: 300 GB/s both ways", "2020-01"),
    LinkKind("nvlink3", 300e9, 5e-6, "NVIDIA A100 datasheet: 600 GB/s both ways", "2021-06"),
    LinkKind("nvlink4", 450e9, 5e-6, "NVIDIA H100 datasheet: 900 GB/s both ways", "2023-03"),
    LinkKind("nvlink5", 900e9, 5e-6, "NVIDIA Blackwell brief: 1.8 TB/s both ways", "2024-03"),
    LinkKind("nvlink-bridge-a6000", 56.25e9, 5e-6, "NVIDIA RTX A6000 datasheet: 112.5 GB/s",
             "2021-01"),
    LinkKind("infinity-fabric-mi300x", 64e9, 5e-6, "AMD MI300X datasheet: 128 GB/s a peer",
             "2023-12"),
    LinkKind("ethernet-10g", 1.25e9, 50e-6, "IEEE 802.3ae", "2002-06"),
    LinkKind("ethernet-25g", 3.125e9, 30e-6, "IEEE 802.3by", "2016-06"),
    LinkKind("ethernet-100g", 12.5e9, 20e-6, "IEEE 802.3bm", "2015-02"),
    LinkKind("infiniband-hdr", 25e9, 5e-6, "InfiniBand HDR: 200 Gb/s", "2017-11"),
    LinkKind("infiniband-ndr", 50e9, 5e-6, "InfiniBand NDR: 400 Gb/s", "2020-11"),
)  # fmt: skip

LINK_KINDS: Mapping[str, LinkKind] = {link.name: link for link in _LINKS}
"""Kinds of links by name."""

DEFAULT_LINK = LINK_KINDS["pcie4-x16"]
"""Assumed between two devices for which no link is declared."""

_GEFORCE_RTX = re.compile(r"rtx-[2-5]0[5-9]0(-.*)?")


def has_peer_access(kind: str) -> bool:
    """Whether GPUs of a kind of `DEVICE_KINDS` can copy to each other over PCIe directly.

    GeForce RTX cards cannot: NVIDIA's driver offers them peer access over an NVLink bridge only,
    where there is one (RTX 20 and 3090), else it copies over the host's memory (of the RTX 4090,
    NVIDIA said so in its developer forum, 2023). A link that is declared counts for more than this
    rule.
    """
    return _GEFORCE_RTX.fullmatch(kind) is None


_NVLINKS: Mapping[tuple[int, int], float] = {
    (6, 0): 20e9,
    (7, 0): 25e9,
    (7, 5): 25e9,
    (8, 0): 25e9,
    (8, 6): 14.0625e9,
    (9, 0): 25e9,
    (10, 0): 50e9,
}
"""One NVLink in one direction by compute capability, from the datasheets behind `LINK_KINDS`:
P100 80 GB/s over 4, V100 150 over 6, A100 300 over 12, RTX A6000 56.25 over 4, H100 450 over 18,
B200 900 over 18."""
_PCIE_LANES: Mapping[int, float] = {3: 15.75e9 / 16, 4: 31.5e9 / 16, 5: 63e9 / 16, 6: 121e9 / 16}
"""One lane in one direction by generation; of 6.0, 242 of 256 bytes."""


def nvlink_bytes_per_second(capability: tuple[int, int]) -> float | None:
    """One NVLink of a GPU in one direction, by its compute capability; `None` if unknown."""
    return _NVLINKS.get(capability)


def pcie_bytes_per_second(generation: int, lanes: int) -> float | None:
    """PCI Express in one direction; `None` where one of the two is unknown."""
    per_lane = _PCIE_LANES.get(generation)
    return per_lane * lanes if per_lane is not None and lanes else None
