"""What placements by hand and at random have to keep to."""

from __future__ import annotations

from partitioner.graph import CostGraph


def leaders(graph: CostGraph) -> dict[str, str]:
    """By node, the first node of those that must share its device."""
    leader = {name: name for name in graph.order}

    def find(name: str) -> str:
        while leader[name] != name:
            name = leader[name]
        return name

    for group in graph.colocated:
        for name in group[1:]:
            leader[find(name)] = find(group[0])
    return {name: find(name) for name in graph.order}
