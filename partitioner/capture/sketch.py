"""A sketch: one way through a model whose own `forward` decides by its data.

No graph stands for such a model, so what runs is its own code, whose operators follow their weights
from device to device (`partitioner.emit.following`). A plan needs to know what computes with which
weights, and in which order: one way tells. What has no weights is colocated with what it follows,
and what the way does not touch is there too, so that it finds a place. ::

    y = self.first(x)                     x ─► first ─► second ─► mul       third.weight
    if y.sum() > 0:                ─►
        return self.second(y) * 2
    return self.third(y)
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterator

from torch import fx

from partitioner.capture.assemble import joined_groups
from partitioner.capture.captured import Captured, NodeInfo, TensorSpec

WAYS = (False, True)
"""Which stand-ins for its data a model is told, until one way leads to its end."""


def sketched(captured: Captured, reason: str) -> Captured:
    """What was recorded on one way through a model, as a sketch.

    Args:
        captured: the recording; its graph gets nodes for the state that is not in it.
        reason: why no graph stands for the model.
    """
    untouched = _untouched(captured)
    nodes = {**captured.nodes, **untouched}
    together = [*map(list, captured.colocated), *_modules(untouched), *_following(captured, nodes)]
    return dataclasses.replace(
        captured,
        nodes=nodes,
        colocated=joined_groups(together, list(nodes)),
        opaque={"": reason, **captured.opaque},
        calls=(),
        dynamic=True,
        specialised=(),
        conditions=(),
    )


def _untouched(captured: Captured) -> dict[str, NodeInfo]:
    """Nodes for the parameters and buffers that nothing on the way reads."""
    read = {name for info in captured.nodes.values() for name in info.state}
    output = next(node for node in captured.graph.nodes if node.op == "output")
    made = {}
    for name, state in captured.state.items():
        if name not in read and state.role != "constant":
            with captured.graph.inserting_before(output):
                node = captured.graph.create_node("get_attr", name, name=name.replace(".", "_"))
            path = name.rpartition(".")[0]
            made[node.name] = NodeInfo(path, state.tensor, state=(name,))
    return made


def _modules(untouched: dict[str, NodeInfo]) -> list[list[str]]:
    """What one module holds stays together."""
    found: dict[str, list[str]] = {}
    for name, info in untouched.items():
        found.setdefault(info.module_path, []).append(name)
    return list(found.values())


def _following(captured: Captured, nodes: dict[str, NodeInfo]) -> Iterator[list[str]]:
    """Each node without weights of its own, with the one that it follows; all inputs."""
    yield [node.name for node in captured.graph.nodes if node.op == "placeholder"]
    for node in captured.graph.nodes:
        if node.op in ("placeholder", "get_attr", "output"):
            continue
        if nodes[node.name].creates:
            yield [node.name, *(user.name for user in node.users if user.op != "output")][:2]
        elif (leader := _leader(node, nodes, captured)) is not None:
            yield [leader, node.name]


def _leader(node: fx.Node, nodes: dict[str, NodeInfo], captured: Captured) -> str | None:
    info = nodes[node.name]
    if info.shared:
        return next(iter(info.shared.values()))
    if any(captured.state[name].role == "parameter" for name in info.state):
        return None
    tensors = [each for each in node.all_input_nodes if nodes[each.name].value is not None]
    if not tensors:
        return None
    weights = [
        each
        for each in tensors
        if each.op == "get_attr"
        and any(captured.state[name].role == "parameter" for name in nodes[each.name].state)
    ]
    sized = [each for each in tensors if _is_sized(nodes[each.name].value)]
    if node.target is operator.setitem or str(node.target).endswith("_"):
        return tensors[0].name
    return (weights or sized or tensors)[0].name


def _is_sized(value: object) -> bool:
    return not isinstance(value, TensorSpec) or bool(value.shape)
