"""Train and eval: one placement serves both, where the model computes differently in the two."""

from __future__ import annotations

from collections.abc import Mapping

from partitioner.capture.captured import Captured
from partitioner.emit.graphs import canonical_device
from partitioner.placement import alternate_placement, state_placement


def both_modes(
    captured: Captured, placement: Mapping[str, str]
) -> tuple[dict[bool, Captured], dict[bool, Mapping[str, str]]]:
    """The recordings by `module.training`, and a placement for each."""
    recordings = {captured.training: captured}
    placements: dict[bool, Mapping[str, str]] = {captured.training: placement}
    if captured.alternate is not None:
        other = captured.alternate
        recordings[other.training] = other
        placements[other.training] = alternate_placement(captured, _canonical(placement))
    return recordings, placements


def placement_of_state(captured: Captured, placement: Mapping[str, str]) -> dict[str, str]:
    """`placement.state_placement`, with devices as PyTorch spells them.

    Raises:
        PlanError: nodes on different devices own one tensor, or PyTorch knows no such device.
    """
    return state_placement(captured, _canonical(placement))


def _canonical(placement: Mapping[str, str]) -> dict[str, str]:
    return {node: canonical_device(device) for node, device in placement.items()}
