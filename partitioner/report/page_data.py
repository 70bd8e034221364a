"""What the page knows of a plan, as JSON that a script in it reads."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import msgspec

from partitioner.graph.cost_graph import CostGraph
from partitioner.placement import PlanDocument, cost_graph_of, targets
from partitioner.report.charts import ROLE_COLOURS
from partitioner.report.palette import palette
from partitioner.report.partition_graph import PartitionGraph
from partitioner.report.reading import partition_graph
from partitioner.report.step import step_of
from partitioner.report.wording import busy_seconds
from partitioner.spec import parse_constraint, resolve


def page_data(document: PlanDocument) -> str:
    """The plan for the page's script; it can stand within a `<script>` element."""
    graph, costs = partition_graph(document), cost_graph_of(document)
    index = {operation.name: i for i, operation in enumerate(graph.operations)}
    step = step_of(document)
    busy = busy_seconds(document)
    colours = palette(document.devices)
    content = {
        "training": document.mode == "train",
        "proved": document.certificate.status == "optimal",
        "stepSeconds": _short(document.step_seconds),
        "devices": [
            {
                "name": device,
                "busySeconds": _short(busy[device]),
                **asdict(colours[device]),
                **msgspec.structs.asdict(document.memory[device]),
            }
            for device in document.devices
        ],
        "roles": ROLE_COLOURS,
        "nodes": _nodes(document, graph),
        "edges": [index[name] for edge in graph.edges for name in edge],
        "pinned": _demands(document, costs),
        "shared": [[index[node] for node in group if node in index] for group in costs.colocated],
        "work": [
            [
                document.devices.index(item.device),
                index.get(item.what, item.what),
                item.phase,
                _short(item.start_seconds),
                _short(item.end_seconds),
                item.micro_batch,
            ]
            for item in step.work
            if item.end_seconds > item.start_seconds
        ],
        "sendings": [
            [
                item.source,
                item.destination,
                index.get(item.what, item.what),
                item.phase,
                item.nbytes,
                _short(item.start_seconds),
                _short(item.end_seconds),
                item.micro_batch,
            ]
            for item in step.sendings
        ],
        "curves": msgspec.to_builtins(document.memory_curves),
    }
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _nodes(document: PlanDocument, graph: PartitionGraph) -> dict[str, list[Any]]:
    """The operations by column."""
    depths = _depths(graph)
    columns: defaultdict[str, list[Any]] = defaultdict(list)
    for operation in graph.operations:
        cost = document.costs.get(operation.name) if operation.device is not None else None
        forward: Mapping[str, float] = cost.forward_seconds if cost is not None else {}
        backward: Mapping[str, float] = cost.backward_seconds if cost is not None else {}
        device = operation.device
        columns["name"].append(operation.name)
        columns["operator"].append(operation.operator)
        columns["module"].append(operation.module_path)
        columns["role"].append(operation.role)
        columns["device"].append(-1 if device is None else document.devices.index(device))
        columns["forward"].append(_short(forward.get(device or "", 0.0)))
        columns["backward"].append(_short(backward.get(device or "", 0.0)))
        columns["elsewhere"].append(_elsewhere(document, forward, backward))
        columns["stateBytes"].append(operation.state_nbytes)
        columns["bytes"].append(cost.nbytes if cost is not None else 0)
        columns["gradientBytes"].append(cost.gradient_nbytes if cost is not None else 0)
        columns["flops"].append(cost.flops if cost is not None else 0)
        columns["value"].append(operation.value)
        columns["line"].append(operation.line)
        columns["depth"].append(depths[operation.name])
    return columns


def _elsewhere(
    document: PlanDocument, forward: Mapping[str, float], backward: Mapping[str, float]
) -> float | list[float | None]:
    """Seconds on each device, `None` where it cannot run; one number where all are equal."""
    found = [
        _short(forward[device] + backward.get(device, 0.0)) if device in forward else None
        for device in document.devices
    ]
    first = found[0]
    return first if first is not None and set(found) == {first} else found


def _depths(graph: PartitionGraph) -> dict[str, int]:
    """By operation, how many steps it is from the model's inputs along the longest way."""
    depths = {operation.name: 0 for operation in graph.operations}
    readers: defaultdict[str, list[str]] = defaultdict(list)
    for source, target in graph.edges:
        readers[source].append(target)
    for operation in graph.operations:
        for reader in readers[operation.name]:
            depths[reader] = max(depths[reader], depths[operation.name] + 1)
    return depths


def _demands(document: PlanDocument, graph: CostGraph) -> dict[str, list[str]]:
    """By node, the user's constraints that speak of it."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for text in document.constraints:
        demands = resolve([parse_constraint(text)], targets(graph), document.devices, ())
        groups = (*demands.colocated, *(side for pair in demands.separated for side in pair))
        for node in {*demands.pinned, *(node for group in groups for node in group)}:
            found[node].append(text)
    return {node: found[node] for node in sorted(found)}


def _short(seconds: float) -> float:
    """A time to six digits, which is more than anyone sees."""
    return float(f"{seconds:.6g}")
