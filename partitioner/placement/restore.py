"""The cost graph that a plan document keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import networkx as nx

from partitioner.capture import captured_of
from partitioner.graph.annotate import owners_of, readers_of
from partitioner.graph.cost_graph import CostGraph, NodeCost, TensorCost

if TYPE_CHECKING:
    from partitioner.placement.document import PlanDocument


def cost_graph_of(document: PlanDocument) -> CostGraph:
    """The costs of a plan's nodes and tensors as a graph again, to simulate other placements.

    It has no holdings, of which a plan keeps the sums alone.

    Raises:
        PlanError: the plan's program is no graph, or calls what no plan may call.
    """
    captured = captured_of(document.program)
    graph: nx.DiGraph[str] = nx.DiGraph()
    for node, costs in document.costs.items():
        graph.add_node(
            node,
            cost=NodeCost(
                operator=costs.operator,
                module_path=costs.module_path,
                forward_seconds=costs.forward_seconds,
                backward_seconds=costs.backward_seconds,
                flops=costs.flops,
            ),
            tensor=TensorCost(costs.nbytes, costs.gradient_nbytes),
        )
    for source, users in readers_of(captured).items():
        graph.add_edges_from((source, user) for user in users)
    order = tuple(captured.nodes)
    return CostGraph(
        graph=graph,
        order=order,
        devices=document.devices,
        holdings=(),
        points=2 * len(order) + 1 if document.mode == "train" else len(order),
        colocated=captured.colocated,
        unpriced=document.unpriced,
        owners=owners_of(captured),
    )
