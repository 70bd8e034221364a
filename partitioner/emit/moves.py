"""Insert the moves: each value goes to another device at most once, just before its first use.

::

    lin1 = self.lin1(x)       # cuda:0          x_cuda0 = x.to('cuda:0')
    lin2 = self.lin2(lin1)    # cuda:1   ->     lin1 = self.lin1(x_cuda0)
                                                lin1_cuda1 = lin1.to('cuda:1')
                                                lin2 = self.lin2(lin1_cuda1)

Between two devices whose link is broken, a value goes over the host, `x.to('cpu').to('cuda:1')`,
and so does its gradient; an input, of which nobody knows where the caller has it, too.

A value that is changed in place is moved anew when it is used after the change. Regions in which
the model's own code had switched autograd off or autocast on are opened around the nodes that were
recorded in them; a move is made under the caller's autograd mode, so that gradients find their way
back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.utils.checkpoint
from torch import fx
from torch.utils import _pytree as pytree

from partitioner.capture.captured import NodeInfo, holds_tensor
from partitioner.emit.graphs import PlacedGraph, fresh_name, reshaped_inputs, spelled_device

Detours = Mapping[tuple[str, str], str]
"""By source and destination, the host over which data is to be moved."""


def move_structure(value: Any, device: str) -> Any:
    """`value` with every tensor in it on `device`."""
    return pytree.tree_map_only(torch.Tensor, lambda tensor: tensor.to(device), value)


def insert_moves(placed: PlacedGraph, detours: Detours | None = None) -> PlacedGraph:
    """A new graph that runs on the devices of `placed`, its nodes' names kept."""
    return _Mover(placed, detours or {}).run()


class _Region:
    """What is switched on at this point of the new graph, and the nodes that restore it."""

    def __init__(self) -> None:
        self.grad_enabled = True
        self.autocast: tuple[str, str, bool, bool] | None = None
        self.ambient_grad: fx.Node | None = None
        self.entered: fx.Node | None = None


class _Mover:
    def __init__(self, placed: PlacedGraph, detours: Detours) -> None:
        self.old = placed
        self.detours = detours
        self.graph = fx.Graph()
        self.nodes: dict[str, NodeInfo] = {}
        self.devices: dict[str, str] = {}
        self.values: dict[fx.Node, fx.Node] = {}
        self.copies: dict[tuple[fx.Node, str], fx.Node] = {}
        self.region = _Region()
        self.taken = {node.name for node in placed.graph.nodes}

    def run(self) -> PlacedGraph:
        late = self._movable_later()
        for node in self.old.graph.nodes:
            if node.op == "placeholder":
                self.values[node] = self._add(self.old.nodes[node.name], None, node, (), {})
        for node in self.old.graph.nodes:
            if node.op == "placeholder" and node.users and node not in late:
                self._take_in(node, node)
        for node in self.old.graph.nodes:
            if node.op == "output":
                self._enter(True, None)
                result = fx.node.map_arg(node.args[0], lambda n: self.values[n])
                self.graph.output(result)
            elif node.op != "placeholder":
                self._copy(node, late)
        self.graph.lint()
        return PlacedGraph(self.graph, self.nodes, self.devices)

    def _movable_later(self) -> dict[fx.Node, fx.Node]:
        """Inputs that are only reshaped, on their own device: `{input: the node that does}`.

        Such an input is reshaped where the caller has it and moved then, as a person would do.
        """
        return {
            node: view
            for node, view in reshaped_inputs(self.old.graph, self.old.nodes).items()
            if self.old.devices[view.name] == self.old.devices[node.name]
        }

    def _value(self, node: fx.Node) -> Any:
        return None if node.op == "output" else self.old.nodes[node.name].value

    def _take_in(self, node: fx.Node, placed_as: fx.Node) -> None:
        """Bring an input, or a view of it, from wherever the caller has it to its device."""
        device = self.old.devices.get(placed_as.name)
        if device is not None:
            spec = self._value(node)
            hosts = {host for (_, end), host in self.detours.items() if end == device}
            for stop in (*sorted(hosts)[:1], device):
                self.values[node] = self._move(self.values[node], spec, stop, node.name)

    def _copy(self, node: fx.Node, late: Mapping[fx.Node, fx.Node]) -> None:
        info = self.old.nodes[node.name]
        device = self.old.devices.get(node.name)
        is_late = any(view is node for view in late.values())
        convert = (lambda n: self.values[n]) if is_late else (lambda n: self._here(n, device))
        args = fx.node.map_arg(node.args, convert)
        kwargs = dict(fx.node.map_arg(node.kwargs, convert))
        if info.creates and device is not None and node.op == "call_function":
            kwargs["device"] = spelled_device(device)
        borrowed = self._borrowed(info, device)
        if not is_late and (info.mutates or (node.op != "get_attr" and holds_tensor(info.value))):
            self._enter(info.grad_enabled, _autocast_on(info.autocast, device))
        if borrowed or info.checkpointed:
            new = self._call_indirectly(node, info, borrowed, args, kwargs)
        else:
            new = self._add(info, device, node, args, kwargs)
        self.values[node] = new
        if is_late:
            self._take_in(node, node)
        if info.mutates:
            for key in [key for key in self.copies if key[0].name in info.mutates]:
                del self.copies[key]

    def _borrowed(self, info: NodeInfo, device: str | None) -> dict[str, fx.Node]:
        """Copies of the leaf module's shared state that lives elsewhere."""
        by_name = {node.name: node for node in self.values}
        return {
            inner: self._here(by_name[reader], device)
            for inner, reader in info.shared.items()
            if device is not None and self.old.devices[reader] != device
        }

    def _call_indirectly(
        self,
        node: fx.Node,
        info: NodeInfo,
        borrowed: Mapping[str, fx.Node],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> fx.Node:
        """Call a module with other state than its own, or under activation checkpointing."""
        module = self.graph.create_node(
            "get_attr", str(node.target), name=fresh_name(f"{node.name}_module", self.taken)
        )
        self.nodes[module.name] = NodeInfo(info.module_path, None)
        function: Any = module
        if borrowed:
            function = torch.func.functional_call
            args = (module, dict(borrowed), args, *([kwargs] if kwargs else []))
            kwargs = {}
        if info.checkpointed:
            args = (function, *args)
            kwargs = {"use_reentrant": False, **kwargs}
            function = torch.utils.checkpoint.checkpoint
        new = self.graph.create_node("call_function", function, args, kwargs, name=node.name)
        return self._noted(new, info, self.old.devices[node.name])

    def _here(self, node: fx.Node, device: str | None) -> fx.Node:
        """The value of `node` of the old graph, on `device`."""
        home = self.old.devices.get(node.name)
        if home is None or device is None or home == device or not holds_tensor(self._value(node)):
            return self.values[node]
        key = (node, device)
        if key not in self.copies:
            host = self.detours.get((home, device))
            value = self.values[node] if host is None else self._here(node, host)
            self.copies[key] = self._move(value, self._value(node), device, node.name)
        return self.copies[key]

    def _move(self, value: fx.Node, spec: Any, device: str, name: str) -> fx.Node:
        self._enter(True, self.region.autocast)
        there = spelled_device(device)
        if isinstance(spec, (tuple, list, Mapping)):
            moved = self.graph.create_node(
                "call_function", move_structure, (value, there), name=self._fresh(name, device)
            )
        else:
            moved = self.graph.create_node(
                "call_method", "to", (value, there), name=self._fresh(name, device)
            )
        path = self.nodes[value.name].module_path
        return self._noted(moved, NodeInfo(path, spec), device)

    def _add(
        self,
        info: NodeInfo,
        device: str | None,
        node: fx.Node,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> fx.Node:
        if node.op == "placeholder":
            args = node.args
        new = self.graph.create_node(node.op, node.target, args, kwargs, name=node.name)
        return self._noted(new, info, device)

    def _noted(self, node: fx.Node, info: NodeInfo, device: str | None) -> fx.Node:
        self.nodes[node.name] = info
        if device is not None:
            self.devices[node.name] = device
        return node

    def _enter(self, grad_enabled: bool, autocast: tuple[str, str, bool, bool] | None) -> None:
        """Open and close regions until what is asked for is on, autocast within autograd."""
        region = self.region
        if region.grad_enabled == grad_enabled and region.autocast == autocast:
            return
        if region.entered is not None:
            self._switch(torch.amp.autocast_mode._exit_autocast, region.entered)
            region.entered, region.autocast = None, None
        if region.grad_enabled != grad_enabled:
            if region.ambient_grad is not None:
                self._switch(torch._C._set_grad_enabled, region.ambient_grad)
                region.ambient_grad = None
            else:
                region.ambient_grad = self._switch(torch.is_grad_enabled)
                self._switch(torch._C._set_grad_enabled, grad_enabled)
            region.grad_enabled = grad_enabled
        if autocast is not None:
            device_type, dtype, enabled, cache = autocast
            region.entered = self._switch(
                torch.amp.autocast_mode._enter_autocast,
                device_type,
                getattr(torch, dtype),
                enabled,
                cache,
            )
            region.autocast = autocast

    def _fresh(self, name: str, device: str) -> str:
        return fresh_name(f"{name}_{device.replace(':', '')}", self.taken)

    def _switch(self, function: Any, *args: Any) -> fx.Node:
        node = self.graph.create_node(
            "call_function", function, args, name=fresh_name("region", self.taken)
        )
        return self._noted(node, NodeInfo("", None), None)


def _autocast_on(
    autocast: tuple[str, str, bool, bool] | None, device: str | None
) -> tuple[str, str, bool, bool] | None:
    """The region as it is on `device`: code that was recorded on the CPU follows its tensors."""
    if autocast is None or device is None or autocast[0] != "cpu":
        return autocast
    return (torch.device(device).type, *autocast[1:])
