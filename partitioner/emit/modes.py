"""Train and eval: one placement serves both, where the model computes differently in the two."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from partitioner.capture.captured import Captured
from partitioner.emit.graphs import canonical_device, state_devices


def both_modes(
    captured: Captured, placement: Mapping[str, str]
) -> tuple[dict[bool, Captured], dict[bool, Mapping[str, str]]]:
    """The recordings by `module.training`, and a placement for each."""
    recordings = {captured.training: captured}
    placements: dict[bool, Mapping[str, str]] = {captured.training: placement}
    if captured.alternate is not None:
        other = captured.alternate
        recordings[other.training] = other
        placements[other.training] = placement_of_alternate(captured, placement)
    return recordings, placements


def placement_of_state(captured: Captured, placement: Mapping[str, str]) -> dict[str, str]:
    """Where each parameter, buffer and constant lives, by each of its names.

    It lives where the node that owns it runs. State that no node uses goes to the device of the
    first node.

    Raises:
        PlanError: nodes on different devices own one tensor.
    """
    homes: dict[str, str] = {}
    recordings, placements = both_modes(captured, placement)
    for training, recording in recordings.items():
        where = placements[training]
        found = state_devices(recording.state, recording.nodes, where.__getitem__)
        homes = {**found, **homes}
    homes = {name: canonical_device(device) for name, device in homes.items()}
    first = canonical_device(next(iter(placement.values()), "cpu"))
    return {
        name: homes.get(canonical, first)
        for canonical, spec in captured.state.items()
        for name in spec.names
    }


def placement_of_alternate(captured: Captured, placement: Mapping[str, str]) -> dict[str, str]:
    """A placement of the other mode's recording, which follows that of the recorded mode.

    State stays where it is; a node that both recordings have stays; any other one goes where its
    first operand is. Groups that must share a device follow their member that owns state, or else
    the majority.
    """
    other = captured.alternate
    assert other is not None
    homes = state_devices(
        captured.state, captured.nodes, lambda name: canonical_device(placement[name])
    )
    first = canonical_device(next(iter(placement.values()), "cpu"))
    found: dict[str, str] = {}
    for node in other.graph.nodes:
        if node.op == "output":
            continue
        info = other.nodes[node.name]
        twin = captured.nodes.get(node.name)
        owned = next((homes[name] for name in info.state if name in homes), None)
        operand = next((found[n.name] for n in node.all_input_nodes if n.name in found), first)
        if owned is not None:
            found[node.name] = owned
        elif twin is not None and twin.module_path == info.module_path:
            found[node.name] = canonical_device(placement[node.name])
        else:
            found[node.name] = operand
    for group in _merged(other.colocated):
        owned = next(
            (homes[s] for name in group for s in other.nodes[name].state if s in homes), None
        )
        device = owned or Counter(found[name] for name in group).most_common(1)[0][0]
        found.update(dict.fromkeys(group, device))
    return found


def _merged(groups: tuple[tuple[str, ...], ...]) -> list[list[str]]:
    """Groups that share a member, as one."""
    of: dict[str, list[str]] = {}
    for group in groups:
        joined: list[str] = []
        for name in group:
            for member in of.get(name, [name]):
                if member not in joined:
                    joined.append(member)
        of.update(dict.fromkeys(joined, joined))
    return list({id(group): group for group in of.values()}.values())
