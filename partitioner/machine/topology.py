"""How the GPUs of this machine are joined, out of what `nvidia-smi` prints.

::

    nvidia-smi topo -m          GPU0  GPU1  GPU2       X    itself
                         GPU0    X    NV12  SYS        NV#  that many NVLinks
                         GPU1   NV12   X    SYS        PIX, PXB  under one PCIe root port
                         GPU2   SYS   SYS    X         PHB, NODE, SYS  through the host's bridges
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

Runner = Callable[[Sequence[str]], str | None]
"""Runs a command; its standard output, or `None` where it cannot be run or fails."""

TOPOLOGY = ("nvidia-smi", "topo", "-m")
SLOTS = (
    "nvidia-smi",
    "--query-gpu=index,uuid,pcie.link.gen.max,pcie.link.width.max",
    "--format=csv,noheader",
)
SECONDS = 30
"""That `nvidia-smi` may take."""
UNDER_ONE_PORT = ("PIX", "PXB")

_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
_GPU = re.compile(r"GPU(\d+)")


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a GPU sits.

    Attributes:
        uuid: as the driver names the GPU, without `GPU-`.
        generation: of PCI Express, the highest that GPU and slot have; 0 if unknown.
        lanes: of PCI Express, likewise.
    """

    uuid: str
    generation: int = 0
    lanes: int = 0


@dataclass(frozen=True)
class Topology:
    """What `nvidia-smi` tells, by its own numbers of the GPUs.

    Attributes:
        joints: by pair of GPUs, what is between them, such as `"NV12"` or `"PHB"`.
        slots: by GPU.
    """

    joints: Mapping[tuple[int, int], str] = field(default_factory=dict)
    slots: Mapping[int, Slot] = field(default_factory=dict)

    def under_one_port(self) -> tuple[tuple[int, ...], ...]:
        """Groups of two and more GPUs that share one way to the host, ascending."""
        groups: list[set[int]] = []
        for pair, joint in self.joints.items():
            if joint in UNDER_ONE_PORT:
                touched = [group for group in groups if not group.isdisjoint(pair)]
                groups = [group for group in groups if group.isdisjoint(pair)]
                groups.append(set(pair).union(*touched))
        return tuple(sorted(tuple(sorted(group)) for group in groups))


def run(command: Sequence[str]) -> str | None:
    """The `Runner` of this machine."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SECONDS, check=False, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def read_topology(runner: Runner = run) -> Topology:
    """What `nvidia-smi` tells; empty where it is not there or cannot be read."""
    slots = parse_slots(runner(SLOTS) or "")
    return Topology(parse_topology(runner(TOPOLOGY) or ""), slots)


def parse_topology(text: str) -> dict[tuple[int, int], str]:
    """The pairs of GPUs in the table of `nvidia-smi topo -m`; network cards are left out."""
    columns: list[int] = []
    joints: dict[tuple[int, int], str] = {}
    for line in _ESCAPES.sub("", text).splitlines():
        words = line.split()
        found = [_GPU.fullmatch(word) for word in words]
        if len(words) > 1 and found[0] and found[1]:
            columns = [int(match[1]) for match in found if match]
        elif columns and words and found[0]:
            row = int(found[0][1])
            for column, joint in zip(columns, words[1:], strict=False):
                if column != row:
                    joints[row, column] = joint
    return joints


def parse_slots(text: str) -> dict[int, Slot]:
    """The lines of `nvidia-smi --query-gpu=index,uuid,pcie.link.gen.max,pcie.link.width.max`."""
    slots = {}
    for line in text.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 4 and parts[0].isdigit():
            generation, lanes = (int(part) if part.isdigit() else 0 for part in parts[2:])
            slots[int(parts[0])] = Slot(parts[1].removeprefix("GPU-"), generation, lanes)
    return slots
