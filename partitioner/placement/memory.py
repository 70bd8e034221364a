"""How many bytes a placement takes on each device, and what for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import Protocol

from partitioner.graph.cost_graph import CostGraph, Holding
from partitioner.placement.parts import MemoryUse, Rehearsal
from partitioner.spec import Cluster

ROLES = ("parameters", "gradients", "optimizer", "activations")
STATIC = ROLES[:3]
"""What is there in every step."""
LEVELS = (*ROLES, "workspace")
"""And what operators take for themselves alone."""


class Measured(Protocol):
    """Bytes on one device, measured in a run; see `MemoryUse` for the meaning of each."""

    @property
    def parameters(self) -> int:
        """With buffers and constants."""

    @property
    def gradients(self) -> int:
        """When all of them are there."""

    @property
    def optimizer(self) -> int:
        """State after a step."""

    @property
    def activations(self) -> int:
        """When most of them are there."""

    @property
    def peak(self) -> int:
        """The most at any moment."""

    @property
    def rehearsal(self) -> Rehearsal:
        """What the run was on."""


def holdings_by_device(
    holdings: Iterable[Holding], placement: Mapping[str, str]
) -> dict[str, list[Holding]]:
    """What each device has a part of, by its name; none for one that is not in it."""
    found: defaultdict[str, list[Holding]] = defaultdict(list)
    for holding in holdings:
        for device in {placement[node] for node in holding.nodes}:
            found[device].append(holding)
    return found


def held_nbytes(holdings: Iterable[Holding], points: int) -> list[int]:
    """The bytes of holdings at each program point."""
    changes = [0] * (points + 1)
    for holding in holdings:
        changes[holding.first] += holding.nbytes
        changes[holding.last + 1] -= holding.nbytes
    return list(accumulate(changes))[:points]


def peak_nbytes(
    graph: CostGraph, placement: Mapping[str, str], role: str | None = None
) -> dict[str, int]:
    """The most bytes that each device holds at any program point, by device name.

    Args:
        graph: with its holdings.
        placement: device name by node name.
        role: count the holdings of this role alone; `None` counts all.
    """
    held = holdings_by_device(
        (holding for holding in graph.holdings if role in (None, holding.role)), placement
    )
    return {
        device: max(held_nbytes(held[device], graph.points), default=0) for device in graph.devices
    }


def memory_use(
    graph: CostGraph,
    placement: Mapping[str, str],
    cluster: Cluster,
    measured: Mapping[str, Measured] | None = None,
) -> dict[str, MemoryUse]:
    """What each device holds, by device name: predicted, or as it was `measured`."""
    peaks = peak_nbytes(graph, placement)
    by_role = {role: peak_nbytes(graph, placement, role) for role in ROLES}
    uses = {}
    for device in cluster.devices:
        found = measured.get(device.name) if measured is not None else None
        totals = {
            role: by_role[role][device.name] if found is None else getattr(found, role)
            for role in ROLES
        }
        peak = peaks[device.name] if found is None else found.peak
        uses[device.name] = MemoryUse(
            **totals,
            workspace=max(0, peak - sum(totals.values())),
            peak=peak,
            limit=device.memory if isinstance(device.memory, int) else None,
        )
    return uses


def fullness(peaks: Mapping[str, int], cluster: Cluster) -> float:
    """The fullest device's share of its memory; devices without a limit do not count."""
    return max(
        (
            peaks[device.name] / device.memory
            for device in cluster.devices
            if isinstance(device.memory, int)
        ),
        default=0.0,
    )
