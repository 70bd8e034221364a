"""Which values leave the device where they are made, and where they go."""

from __future__ import annotations

from collections.abc import Mapping

from partitioner.graph.cost_graph import CostGraph
from partitioner.placement.parts import Transfer
from partitioner.spec import Cluster


def receivers(graph: CostGraph, placement: Mapping[str, str], node: str) -> tuple[str, ...]:
    """Devices other than its own that hold a reader of `node`, in the cluster's order."""
    found = {placement[reader] for reader in graph.graph.successors(node)} - {placement[node]}
    return tuple(device for device in graph.devices if device in found)


def transfers(
    graph: CostGraph, placement: Mapping[str, str], cluster: Cluster
) -> tuple[Transfer, ...]:
    """Every move between devices in one step, in execution order; each value once per receiver.

    The forward moves values; where a gradient flows, the backward moves it back the same way.
    """
    forward, backward = [], []
    for node in graph.order:
        home, tensor = placement[node], graph.tensor(node)
        for away in receivers(graph, placement, node):
            if tensor.nbytes:
                seconds = cluster.transfer_seconds(home, away, tensor.nbytes)
                forward.append(Transfer(node, home, away, tensor.nbytes, seconds, "forward"))
            if tensor.gradient_nbytes:
                seconds = cluster.transfer_seconds(away, home, tensor.gradient_nbytes)
                backward.append(
                    Transfer(node, away, home, tensor.gradient_nbytes, seconds, "backward")
                )
    return (*forward, *reversed(backward))
