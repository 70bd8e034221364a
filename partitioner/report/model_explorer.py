"""A plan for Google's Model Explorer: the graph that it shows, and the data that it lays over it.

Its node data name nodes by their id. The ids here are the plan's node names, which are those of
`render_explorer_graph`. Model Explorer's own adapter for PyTorch shows an exported program instead,
whose ids are the names of its ATen operators: the same only where the exporter happens to choose
them. So open the graph of this module, and the data over it.
"""

from __future__ import annotations

import json
from typing import Any

from partitioner.placement import PlanDocument
from partitioner.report.palette import INK, palette
from partitioner.report.reading import partition_graph
from partitioner.report.wording import model_name
from partitioner.spec import format_nbytes, format_seconds

SHADES = ("#FFFFFF", "#0072B2")
"""Of the least and the most seconds."""


def render_explorer_graph(document: PlanDocument) -> str:
    """The graph in Model Explorer's JSON, modules as nested layers."""
    shown = partition_graph(document)
    colours = palette(document.devices)
    readers: dict[str, list[str]] = {operation.name: [] for operation in shown.operations}
    for source, target in shown.edges:
        readers[target].append(source)
    nodes = []
    for operation in shown.operations:
        node: dict[str, Any] = {
            "id": operation.name,
            "label": operation.operator,
            "namespace": operation.module_path.replace(".", "/"),
            "incomingEdges": [
                {"sourceNodeId": source, "sourceNodeOutputId": "0", "targetNodeInputId": str(i)}
                for i, source in enumerate(readers[operation.name])
            ],
            "attrs": [{"key": "role", "value": operation.role}],
        }
        if operation.device is not None:
            told = {
                "device": operation.device,
                "time": format_seconds(operation.seconds),
                "weights": format_nbytes(operation.state_nbytes),
                "value": operation.value,
                "line": operation.line,
            }
            node["attrs"] += [{"key": key, "value": value} for key, value in told.items() if value]
            shade = colours[operation.device]
            node["style"] = {"backgroundColor": shade.fill, "borderColor": shade.line}
        nodes.append(node)
    return _text({"graphs": [{"id": model_name(document), "nodes": nodes}]})


def render_device_overlay(document: PlanDocument) -> str:
    """The device of each node, in its colour, as node data."""
    colours = palette(document.devices)
    results = {
        operation.name: {
            "value": operation.device,
            "bgColor": colours[operation.device].fill,
            "textColor": INK,
        }
        for operation in partition_graph(document).operations
        if operation.device is not None
    }
    return _text({"results": results})


def render_time_overlay(document: PlanDocument) -> str:
    """The seconds of each node on its device, forward and backward together, as node data."""
    results = {
        operation.name: {"value": operation.seconds}
        for operation in partition_graph(document).operations
        if operation.device is not None
    }
    gradient = [{"stop": i, "bgColor": shade} for i, shade in enumerate(SHADES)]
    return _text({"results": results, "gradient": gradient})


def _text(content: object) -> str:
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"
