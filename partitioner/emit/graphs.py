"""`PlacedGraph`: a recorded graph and where each of its values lives; the check of a placement."""

from __future__ import annotations

import difflib
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from partitioner.capture.captured import Captured, NodeInfo, holds_tensor
from partitioner.errors import PlanError

SHOWN = 4
"""How many names an error message lists."""


VIEWS = frozenset(
    [
        "flatten",
        "movedim",
        "permute",
        "reshape",
        "squeeze",
        "swapaxes",
        "swapdims",
        "t",
        "transpose",
        "unflatten",
        "unsqueeze",
        "view",
    ]
)
"""Methods that cost nothing where their tensor already is, and keep its bytes."""


@dataclass(frozen=True)
class PlacedGraph:
    """A graph whose nodes have devices.

    Attributes:
        graph: as recorded, or after a lowering.
        nodes: by node name, for every node but `output`.
        devices: device names, by node name. Nodes that touch no tensor (sizes, numbers) are absent:
            they belong to no device.
    """

    graph: fx.Graph
    nodes: Mapping[str, NodeInfo]
    devices: Mapping[str, str]


def placed_graph(captured: Captured, placement: Mapping[str, str]) -> PlacedGraph:
    """The recorded graph under `placement`, which is checked first.

    Raises:
        PlanError: `placement` misses a node, names an unknown one, separates nodes that must share
            a device, or names something that is no device.
    """
    check_placement(captured, placement)
    devices: dict[str, str] = {}
    for node in captured.graph.nodes:
        if node.op == "output":
            continue
        if holds_tensor(captured.nodes[node.name].value):
            devices[node.name] = canonical_device(placement[node.name])
        else:
            operand = next((n.name for n in node.all_input_nodes if n.name in devices), None)
            if operand is not None:
                devices[node.name] = devices[operand]
    return PlacedGraph(captured.graph, captured.nodes, devices)


def check_placement(captured: Captured, placement: Mapping[str, str]) -> None:
    """Raise a `PlanError` that names the nodes where `placement` does not fit the recording."""
    names = [node.name for node in captured.graph.nodes if node.op != "output"]
    missing = [name for name in names if name not in placement]
    if missing:
        raise PlanError(f"the placement has no device for {listed('node', missing)}")
    known = set(names)
    unknown = [name for name in placement if name not in known]
    if unknown:
        near = difflib.get_close_matches(unknown[0], names, n=3)
        hint = f"; near '{unknown[0]}': {', '.join(map(repr, near))}" if near else ""
        raise PlanError(f"the placement names {listed('node', unknown)} that the model lacks{hint}")
    for name in dict.fromkeys(placement.values()):
        canonical_device(name)
    for group in captured.colocated:
        spread = {name: canonical_device(placement[name]) for name in group if name in known}
        if len(set(spread.values())) > 1:
            where = ", ".join(f"'{name}' on '{device}'" for name, device in spread.items())
            raise PlanError(
                f"the placement separates nodes that must share a device, since one of them "
                f"changes or unpacks what the others read: {where}; give them one device"
            )


def canonical_device(name: str) -> str:
    """The device's name as PyTorch spells it.

    Raises:
        PlanError: PyTorch knows no such device.
    """
    try:
        return str(torch.device(name))
    except (RuntimeError, TypeError) as error:
        raise PlanError(f"the placement names {name!r}, which is no device: {error}") from error


def spelled_device(device: str) -> str:
    """The device as code names it: tensors on the CPU keep no index, and `.to('cpu:0')` copies."""
    return "cpu" if device.startswith("cpu:") else device


def listed(noun: str, names: Sequence[str]) -> str:
    """`"3 nodes: 'a', 'b', 'c'"`, cut after a few."""
    shown = ", ".join(f"'{name}'" for name in names[:SHOWN])
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    plural = noun if len(names) == 1 else f"{len(names)} {noun}s:"
    return f"{plural} {shown}{more}"


def nodes_in(value: Any) -> list[fx.Node]:
    """The nodes that an argument holds, in order, each as often as it appears."""
    found: list[fx.Node] = []
    fx.node.map_arg(value, found.append)
    return found


def reshaped_inputs(graph: fx.Graph, nodes: Mapping[str, NodeInfo]) -> dict[fx.Node, fx.Node]:
    """Inputs of which nothing is used but sizes and one reshaped view: `{input: that view}`."""
    changed = {name for info in nodes.values() for name in info.mutates}
    found: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if node.op != "placeholder" or node.name in changed:
            continue
        if any(user.op == "output" for user in node.users):
            continue
        readers = [user for user in node.users if holds_tensor(nodes[user.name].value)]
        if len(readers) != 1:
            continue
        view = readers[0]
        if (
            view.op == "call_method"
            and view.target in VIEWS
            and view.args[0] is node
            and node not in nodes_in((view.args[1:], view.kwargs))
            and view.name not in changed
        ):
            found[node] = view
    return found


def fresh_name(base: str, taken: set[str]) -> str:
    """`base`, or `base` with the first free number; it is taken from now on."""
    name, number = base, 0
    while name in taken:
        number += 1
        name = f"{base}_{number}"
    taken.add(name)
    return name


def is_getitem(node: fx.Node) -> bool:
    """Whether `node` takes something out of a structure or tensor."""
    return node.op == "call_function" and node.target is operator.getitem
