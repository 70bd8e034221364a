"""A plan as a `networkx` graph, and as GraphML that Gephi, yEd and Cytoscape read."""

from __future__ import annotations

from typing import Any

import networkx as nx

from partitioner.placement import PlanDocument
from partitioner.report.reading import partition_graph
from partitioner.report.wording import model_name


def network(document: PlanDocument) -> nx.DiGraph[str]:
    """The planned nodes in execution order, and what each reads.

    Values that hold no tensor are left out. Attributes of the graph: `model`, `objective`, `mode`,
    `step_seconds`, `bottleneck_seconds`, `bound`, `status`. Of a node: `order` (its place in the
    execution), `operator`, `module`, `role` (`"input"`, `"state"`, `"operator"` or `"output"`),
    `device` (not of the output), `forward_seconds`, `backward_seconds` and `seconds` (both, on that
    device), `nbytes` and `gradient_nbytes` (of its value), `state_nbytes` (of its weights),
    `flops`, `value` (shape and type) and `line` (of the model's code). Of an edge: `crosses`, and
    where it does `nbytes` and `gradient_nbytes`, which move once for all readers on a device.
    """
    shown = partition_graph(document)
    graph: nx.DiGraph[str] = nx.DiGraph(
        model=model_name(document),
        objective=document.objective,
        mode=document.mode,
        step_seconds=document.step_seconds,
        bottleneck_seconds=document.bottleneck_seconds,
        status=document.certificate.status,
        bound=document.certificate.bound,
    )
    for i, operation in enumerate(shown.operations):
        attributes: dict[str, Any] = {
            "order": i,
            "operator": operation.operator,
            "module": operation.module_path,
            "role": operation.role,
            "seconds": operation.seconds,
            "state_nbytes": operation.state_nbytes,
            "value": operation.value,
            "line": operation.line,
        }
        if operation.device is not None:
            cost = document.costs[operation.name]
            attributes |= {
                "device": operation.device,
                "forward_seconds": cost.forward_seconds.get(operation.device, 0.0),
                "backward_seconds": cost.backward_seconds.get(operation.device, 0.0),
                "nbytes": cost.nbytes,
                "gradient_nbytes": cost.gradient_nbytes,
                "flops": cost.flops,
            }
        graph.add_node(operation.name, **attributes)
    moved = {(crossing.tensor, crossing.destination): crossing for crossing in shown.crossings}
    for source, target in shown.edges:
        crossing = moved.get((source, graph.nodes[target].get("device", "")))
        if crossing is None:
            graph.add_edge(source, target, crosses=False)
        else:
            graph.add_edge(
                source,
                target,
                crosses=True,
                nbytes=crossing.nbytes,
                gradient_nbytes=crossing.gradient_nbytes,
            )
    return graph


def render_graphml(document: PlanDocument) -> str:
    """The graph as GraphML, with all of its attributes."""
    lines = ['<?xml version="1.0" encoding="utf-8"?>', *nx.generate_graphml(network(document))]
    return "\n".join(lines) + "\n"
