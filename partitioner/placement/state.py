"""Where parameters, buffers and constants live: what follows from where the nodes run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import networkx as nx

from partitioner.capture import Captured
from partitioner.errors import PlanError


def state_placement(captured: Captured, placement: Mapping[str, str]) -> dict[str, str]:
    """The device of each parameter, buffer and constant, by its every name.

    State lives where the node that owns it runs. What only the other mode (train or eval) uses
    lives where that mode's nodes follow this placement to; what no node uses, with the first node.

    Raises:
        PlanError: nodes on different devices own one tensor.
    """
    homes = owned_state(captured, placement)
    if captured.alternate is not None:
        other = captured.alternate
        homes = {**owned_state(other, alternate_placement(captured, placement)), **homes}
    first = next(iter(placement.values()), "cpu")
    return {
        name: homes.get(canonical, first)
        for canonical, spec in captured.state.items()
        for name in spec.names
    }


def alternate_placement(captured: Captured, placement: Mapping[str, str]) -> dict[str, str]:
    """A placement of the other mode's recording that follows the one of the recorded mode.

    State stays where it is, and so does a node that both recordings have; any other one goes where
    its first operand is. Groups that must share a device follow the first of them with state, else
    the majority.
    """
    other = captured.alternate
    if other is None:
        return dict(placement)
    homes = owned_state(captured, placement)
    first = next(iter(placement.values()), "cpu")
    found: dict[str, str] = {}
    for node in other.graph.nodes:
        if node.op == "output":
            continue
        info, twin = other.nodes[node.name], captured.nodes.get(node.name)
        owned = next((homes[name] for name in info.state if name in homes), None)
        if owned is not None:
            found[node.name] = owned
        elif twin is not None and twin.module_path == info.module_path:
            found[node.name] = placement[node.name]
        else:
            operands = (found[source.name] for source in node.all_input_nodes)
            found[node.name] = next(operands, first)
    for group in merged(other.colocated):
        states = (homes.get(name) for node in group for name in other.nodes[node].state)
        majority = Counter(found[node] for node in group).most_common(1)[0][0]
        device = next((home for home in states if home is not None), majority)
        found.update(dict.fromkeys(group, device))
    return found


def merged(groups: Iterable[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The groups, with those that share a member made one; members in the order of their naming."""
    joined: nx.Graph[str] = nx.Graph()
    for group in groups:
        nx.add_path(joined, group)
    order = {node: i for i, node in enumerate(joined)}
    return [
        tuple(sorted(members, key=order.__getitem__)) for members in nx.connected_components(joined)
    ]


def owned_state(captured: Captured, placement: Mapping[str, str]) -> dict[str, str]:
    """The device of each parameter, buffer and constant that a node owns, by canonical name.

    Raises:
        PlanError: nodes on different devices own one tensor.
    """
    homes: dict[str, str] = {}
    owners: dict[str, str] = {}
    for node, info in captured.nodes.items():
        for name in info.state:
            owner = owners.setdefault(name, node)
            if homes.setdefault(name, placement[node]) != placement[node]:
                raise PlanError(
                    f"'{name}' is needed in place by '{owner}' on '{homes[name]}' and by '{node}' "
                    f"on '{placement[node]}'; give both nodes one device"
                )
    return homes
