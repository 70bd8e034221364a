"""Fold: a submodule that is wholly on one device stays one call of that submodule.

::

    ln = self.h[0].ln(x); up = self.h[0].up(ln); x = x + up     ->     x = self.h[0](x)

Fewer lines to read, the submodule's own code and hooks, and no overhead. The outermost such module
wins.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from partitioner.capture.captured import ModuleCall, NodeInfo, holds_tensor
from partitioner.emit.graphs import PlacedGraph, fresh_name, nodes_in

_SAYABLE = (
    bool,
    int,
    float,
    complex,
    str,
    fx.Node,
    torch.dtype,
    torch.layout,
    torch.memory_format,
)

Region = tuple[bool, tuple[str, str, bool, bool] | None]
Step = tuple[Callable[[Any, Any], Any], Any]
"""How to take something out of a result: `operator.getitem` or `getattr`, and what."""


def fold(placed: PlacedGraph, calls: Sequence[ModuleCall]) -> PlacedGraph:
    """A new graph in which every module of `calls` that can be called whole is one node.

    A module is called whole when all its nodes and the state that they read are on one device, in
    one region (autograd, autocast), and it takes and returns what a graph can say.
    """
    folded: dict[str, ModuleCall] = {}
    by_name = {node.name: node for node in placed.graph.nodes}
    for call in calls:
        done = not call.nodes or call.nodes[0] in folded
        if call.path and not done and _is_whole(placed, call, by_name):
            folded.update(dict.fromkeys(call.nodes, call))
    return _Folder(placed, folded).run() if folded else placed


def one_device(placed: PlacedGraph) -> str | None:
    """The device of everything, or `None` where there are several."""
    devices = set(placed.devices.values())
    return devices.pop() if len(devices) == 1 else None


def _is_whole(placed: PlacedGraph, call: ModuleCall, by_name: Mapping[str, fx.Node]) -> bool:
    if not call.foldable or not (sayable(call.args) and sayable(dict(call.kwargs))):
        return False
    inside = set(call.nodes)
    devices = {placed.devices[name] for name in call.nodes if name in placed.devices}
    regions = {region for name in call.nodes if (region := _region(placed, name)) is not None}
    if len(devices) != 1 or len(regions) > 1:
        return False
    given = {node.name for node in nodes_in((call.args, dict(call.kwargs)))}
    for name in call.nodes:
        for operand in by_name[name].all_input_nodes:
            if operand.name in inside or operand.name in given or _is_number(placed, operand):
                continue
            if operand.op != "get_attr" or placed.devices.get(operand.name) not in devices:
                return False
        if any(placed.devices[n] not in devices for n in placed.nodes[name].shared.values()):
            return False
    reachable = {node.name for node, _ in _leaves(call.result)}
    return all(
        user.name in inside or name in reachable or by_name[name].op == "get_attr"
        for name in call.nodes
        for user in by_name[name].users
    )


def _is_number(placed: PlacedGraph, node: fx.Node) -> bool:
    """Whether a node makes a size or number: the module that uses it makes it again by itself."""
    return node.op != "get_attr" and not holds_tensor(placed.nodes[node.name].value)


def _region(placed: PlacedGraph, name: str) -> Region | None:
    info = placed.nodes[name]
    return (info.grad_enabled, info.autocast) if holds_tensor(info.value) else None


def sayable(value: Any) -> bool:
    """Whether a graph can hold `value` as an argument."""
    if value is None or isinstance(value, _SAYABLE):
        return True
    if type(value) in (tuple, list):
        return all(sayable(entry) for entry in value)
    if type(value) is dict:
        return all(isinstance(key, str) and sayable(entry) for key, entry in value.items())
    return isinstance(value, slice) and all(
        sayable(part) for part in (value.start, value.stop, value.step)
    )


def _leaves(
    result: Any, steps: tuple[Step, ...] = ()
) -> Iterator[tuple[fx.Node, tuple[Step, ...]]]:
    """The nodes in what a module returned, each with the way to it."""
    if isinstance(result, fx.Node):
        yield result, steps
    elif isinstance(result, Mapping):
        for key, entry in result.items():
            yield from _leaves(entry, (*steps, (operator.getitem, key)))
    elif isinstance(result, (tuple, list)):
        for index, entry in enumerate(result):
            yield from _leaves(entry, (*steps, (operator.getitem, index)))
    elif dataclasses.is_dataclass(result) and not isinstance(result, type):
        for field in dataclasses.fields(result):
            yield from _leaves(getattr(result, field.name), (*steps, (getattr, field.name)))


class _Folder:
    def __init__(self, placed: PlacedGraph, folded: Mapping[str, ModuleCall]) -> None:
        self.old = placed
        self.folded = folded
        self.graph = fx.Graph()
        self.nodes: dict[str, NodeInfo] = {}
        self.devices: dict[str, str] = {}
        self.values: dict[fx.Node, fx.Node] = {}
        self.taken = {node.name for node in placed.graph.nodes}
        self.read_outside = self._read_outside()

    def run(self) -> PlacedGraph:
        for node in self.old.graph.nodes:
            call = self.folded.get(node.name)
            if node.op == "output":
                self.graph.output(fx.node.map_arg(node.args[0], lambda n: self.values[n]))
            elif call is None:
                self._keep(node)
            else:
                if node.name in self.read_outside:
                    self._keep(node)
                if call.nodes[-1] == node.name:
                    self._call(call)
        return PlacedGraph(self.graph, self.nodes, self.devices)

    def _call(self, call: ModuleCall) -> None:
        inside = set(call.nodes)
        device = next(self.old.devices[name] for name in call.nodes if name in self.old.devices)
        regions = (_region(self.old, name) for name in call.nodes)
        region = next((found for found in regions if found is not None), (True, None))
        infos = [self.old.nodes[name] for name in call.nodes]
        used = {
            node: steps
            for node, steps in _leaves(call.result)
            if node.name in inside and any(user.name not in inside for user in node.users)
        }
        single = isinstance(call.result, fx.Node)
        info = NodeInfo(
            module_path=call.path,
            value=_values(call.result, self.old),
            state=tuple(dict.fromkeys(name for i in infos for name in i.state)),
            mutates=tuple(
                dict.fromkeys(name for i in infos for name in i.mutates if name not in inside)
            ),
            grad_enabled=region[0],
            autocast=region[1],
        )
        name = (
            call.result.name
            if single and call.result in used
            else fresh_name(call.path.replace(".", "_"), self.taken)
        )
        new = self.graph.create_node(
            "call_module",
            call.path,
            fx.node.map_arg(call.args, lambda n: self.values[n]),
            dict(fx.node.map_arg(dict(call.kwargs), lambda n: self.values[n])),
            name=name,
        )
        self.nodes[new.name], self.devices[new.name] = info, device
        taken: dict[tuple[Step, ...], fx.Node] = {(): new}
        for node, steps in used.items():
            for depth in range(1, len(steps) + 1):
                if steps[:depth] not in taken:
                    function, what = steps[depth - 1]
                    whole = depth == len(steps)
                    part = self.graph.create_node(
                        "call_function",
                        function,
                        (taken[steps[: depth - 1]], what),
                        name=node.name if whole else fresh_name(f"{new.name}_part", self.taken),
                    )
                    taken[steps[:depth]] = part
                    self.nodes[part.name] = NodeInfo(call.path, _part(info.value, steps[:depth]))
                    self.devices[part.name] = device
            self.values[node] = taken[steps]
            self.nodes[taken[steps].name] = NodeInfo(call.path, self.old.nodes[node.name].value)

    def _keep(self, node: fx.Node) -> None:
        new = self.graph.node_copy(node, lambda n: self.values[n])
        self.values[node] = new
        self.nodes[new.name] = self.old.nodes[node.name]
        if node.name in self.old.devices:
            self.devices[new.name] = self.old.devices[node.name]

    def _read_outside(self) -> set[str]:
        """`get_attr` nodes within folded calls that other nodes need, or that the call is given."""
        found: set[str] = set()
        for name, outer in self.folded.items():
            if name == outer.nodes[-1]:
                given = nodes_in((outer.args, dict(outer.kwargs)))
                found.update(node.name for node in given if self.folded.get(node.name) is outer)
        for node in self.old.graph.nodes:
            if node.op == "output":
                continue
            own = self.folded.get(node.name)
            readers = {user.name for user in node.users} if node.op == "get_attr" else set()
            if own is not None and any(self.folded.get(name) is not own for name in readers):
                found.add(node.name)
            for reader in self.old.nodes[node.name].shared.values():
                if reader in self.folded and self.folded[reader] is not own:
                    found.add(reader)
        return found


def _values(result: Any, placed: PlacedGraph) -> Any:
    """`NodeInfo.value` of what a module returned."""
    if isinstance(result, fx.Node):
        return placed.nodes[result.name].value
    if isinstance(result, Mapping):
        return {key: _values(entry, placed) for key, entry in result.items()}
    if isinstance(result, (tuple, list)):
        return tuple(_values(entry, placed) for entry in result)
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        return {
            field.name: _values(getattr(result, field.name), placed)
            for field in dataclasses.fields(result)
        }
    return None


def _part(value: Any, steps: tuple[Step, ...]) -> Any:
    for _, what in steps:
        value = value[what]
    return value
