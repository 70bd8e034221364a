"""From a plan document to the `PartitionGraph` that is shown."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from torch import fx

from partitioner.capture import NodeInfo, TensorSpec, graph_of
from partitioner.placement import PlanDocument
from partitioner.report.partition_graph import Crossing, Operation, PartitionGraph

SHORT_DTYPES = {
    "float16": "f16",
    "bfloat16": "bf16",
    "float32": "f32",
    "float64": "f64",
    "int8": "i8",
    "int16": "i16",
    "int32": "i32",
    "int64": "i64",
    "uint8": "u8",
}


def partition_graph(document: PlanDocument) -> PartitionGraph:
    """Read the graph out of a plan.

    Values that hold no tensor (sizes, flags) are left out: they take no time and no memory.
    """
    graph, infos = graph_of(document.program)
    state_nbytes = {
        name: state.tensor.nbytes for state in document.model.state for name in state.names
    }
    operations: list[Operation] = []
    for node in graph.nodes:
        if node.op == "output":
            operations.append(Operation(node.name, "output", "", None, role="output"))
            continue
        info, cost = infos[node.name], document.costs[node.name]
        device = document.placement[node.name]
        value = describe(info.value)
        if not value:
            continue
        operations.append(
            Operation(
                name=node.name,
                operator=cost.operator,
                module_path=info.module_path,
                device=device,
                role={"placeholder": "input", "get_attr": "state"}.get(node.op, "operator"),
                seconds=cost.forward_seconds.get(device, 0.0)
                + cost.backward_seconds.get(device, 0.0),
                state_nbytes=sum(state_nbytes.get(name, 0) for name in info.state),
                value=value,
                line=info.line,
            )
        )
    shown = {operation.name for operation in operations}
    edges = tuple(
        (source, node.name)
        for node in graph.nodes
        for source in _sources(node, infos)
        if node.name in shown and source in shown
    )
    crossings = tuple(_crossings(document))
    return PartitionGraph(tuple(operations), edges, tuple(document.devices), crossings)


def _sources(node: fx.Node, infos: Mapping[str, NodeInfo]) -> list[str]:
    """What a node reads: its arguments, and weights that it shares with other nodes."""
    shared = infos[node.name].shared.values() if node.name in infos else ()
    return list(dict.fromkeys([*(source.name for source in node.all_input_nodes), *shared]))


def describe(value: Any) -> str:
    """A value's shape and type in few letters; of a structure, its first tensor's."""
    if isinstance(value, TensorSpec):
        dtype = SHORT_DTYPES.get(value.dtype, value.dtype)
        return f"{dtype}[{','.join(map(str, value.shape))}]"
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, tuple | list):
        parts = [text for text in map(describe, value) if text]
        return parts[0] + (f" +{len(parts) - 1}" if len(parts) > 1 else "") if parts else ""
    return ""


def _crossings(document: PlanDocument) -> Iterator[Crossing]:
    back: dict[tuple[str, str], int] = defaultdict(int)
    for transfer in document.transfers:
        if transfer.phase == "backward":
            back[transfer.tensor, transfer.source] += transfer.nbytes
    for transfer in document.transfers:
        if transfer.phase == "forward":
            gradient_nbytes = back[transfer.tensor, transfer.destination]
            yield Crossing(transfer.tensor, transfer.destination, transfer.nbytes, gradient_nbytes)
