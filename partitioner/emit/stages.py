"""The module of one stage of a pipeline: its own part of the graph and of the state.

Sizes are those of the recorded call, as `torch.distributed.pipelining` needs them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, fx, nn

from partitioner.capture.captured import Captured, ModuleCall, NodeInfo, holds_tensor
from partitioner.capture.check import GraphRun
from partitioner.capture.clone import clone, fake_clone, fake_like, fetch, named_tensors
from partitioner.capture.fakes import Fakes
from partitioner.emit.fold import fold
from partitioner.emit.forward import require_mode
from partitioner.emit.graphs import PlacedGraph, nodes_in
from partitioner.emit.moves import insert_moves
from partitioner.emit.placed import copied
from partitioner.graph.stages import StagePart

Readers = Mapping[str, Callable[[], Tensor]]
"""By canonical name, what reads the data of a tensor that does not come from the model."""


class StageModule(nn.Module):
    """One stage that runs: `stage(*wires, **inputs)` gives the tuple of what it hands on.

    Inputs of the model that the stage does not read may be given too. Its submodules, parameters
    and `state_dict` keys are the original's, as far as this stage needs them.

    Attributes:
        part: which stage this is.
        device: where it runs.
    """

    part: StagePart
    device: torch.device


class _Received(torch.autograd.Function):
    """A wire as it came in, whose gradient can be sent back: contiguous, as networks need it."""

    @staticmethod
    def forward(ctx: Any, wire: Tensor) -> Tensor:
        return wire.view_as(wire)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.contiguous()


def received(wire: Tensor) -> Tensor:
    """`wire`, which came from the stage before."""
    taken: Tensor = _Received.apply(wire)  # type: ignore[no-untyped-call]
    return taken


class _HandedOn(torch.autograd.Function):
    """A wire as it goes out: contiguous, and no view, since schedules detach it in place."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, changes: bool) -> Tensor:
        return (
            value.detach().clone(memory_format=torch.contiguous_format)
            if changes
            else value.detach().contiguous()
        )

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def hand_on(value: Tensor, changes: bool) -> Tensor:
    """`value` for the next stage; as a copy where this stage `changes` it in place later."""
    handed: Tensor = _HandedOn.apply(value, changes)  # type: ignore[no-untyped-call]
    return handed


def make_stage(
    model: nn.Module,
    captured: Captured,
    part: StagePart,
    device: str | torch.device,
    *,
    last: bool,
    data: Readers = MappingProxyType({}),
) -> StageModule:
    """The module of one stage, on `device`. The original is not modified.

    Args:
        model: the recorded model.
        captured: its recording.
        part: which stage.
        device: where it shall run.
        last: it is the last one, and so returns what the model returns, as a tuple of tensors.
        data: what reads the tensors that do not come from `model`; those of this stage are read.

    Raises:
        PlanError: a tensor of this stage is on `meta`, and has no data.
    """
    where = torch.device(device)
    own = set(part.state)

    def moved(tensor: Tensor, name: str) -> Tensor:
        if name in own:
            source = data[name]() if name in data else tensor
            return copied(tensor, name, str(where), source)
        return (
            nn.Parameter(tensor.detach().to("meta"), False)
            if isinstance(tensor, nn.Parameter)
            else tensor.detach().to("meta")
        )

    stage = clone(model, moved)
    _drop_others(stage, model, own)
    vars(stage).pop("forward", None)
    graph = _graph(model, captured, part, str(where), last)
    _bind_attributes(stage, model, captured, graph, str(where))
    stage.__class__ = _stage_class(type(model).__name__, captured, part, where, graph)
    assert isinstance(stage, StageModule)
    return stage


def _drop_others(stage: nn.Module, model: nn.Module, own: set[str]) -> None:
    """Take the parameters and buffers of other stages out of the copy."""
    foreign = {id(held.tensor) for held in named_tensors(model) if held.names[0] not in own}
    for path, module in model.named_modules(remove_duplicate=False):
        copy = stage.get_submodule(path)
        for held, there in (
            (module._parameters, copy._parameters),
            (module._buffers, copy._buffers),
        ):
            for name, tensor in held.items():
                if id(tensor) in foreign:
                    there.pop(name, None)
                    copy._non_persistent_buffers_set.discard(name)


def _graph(
    model: nn.Module, captured: Captured, part: StagePart, device: str, last: bool
) -> fx.Graph:
    """The graph of one stage, with its moves: wires and inputs in, a tuple of tensors out."""
    graph = fx.Graph()
    nodes: dict[str, NodeInfo] = {}
    values: dict[str, Any] = {}
    inputs = {str(n.target): n.name for n in captured.graph.nodes if n.op == "placeholder"}
    for target in (*part.wires_in, *part.inputs):
        name = inputs.get(target, target)
        values[name] = graph.create_node("placeholder", target, name=name)
        nodes[name] = captured.nodes[name]
    inside = set(part.nodes)
    fixed: dict[str, Any] | None = None
    for node in captured.graph.nodes:
        if node.name not in inside:
            continue
        for operand in node.all_input_nodes:
            if operand.name not in values:
                if fixed is None:
                    fixed = _fixed_values(model, captured)
                values[operand.name] = fixed[operand.name]
        new = graph.create_node(
            node.op,
            node.target,
            fx.node.map_arg(node.args, lambda n: values[n.name]),
            dict(fx.node.map_arg(node.kwargs, lambda n: values[n.name])),
            name=node.name,
        )
        values[node.name] = new
        nodes[node.name] = replace(
            captured.nodes[node.name],
            mutates=tuple(n for n in captured.nodes[node.name].mutates if n in nodes),
        )
    out = []
    for name in part.wires_out:
        value = values[name]
        if not last:
            changes = any(name in group for group in captured.colocated)
            value = graph.call_function(hand_on, (value, changes))
            nodes[value.name] = NodeInfo("", captured.nodes[name].value)
        out.append(value)
    graph.output(tuple(out))
    placed = PlacedGraph(
        graph,
        nodes,
        {
            node.name: device
            for node in graph.nodes
            if node.op != "output" and holds_tensor(nodes[node.name].value)
        },
    )
    return insert_moves(fold(placed, _calls_inside(captured, inside, values))).graph


def _calls_inside(
    captured: Captured, inside: set[str], values: Mapping[str, Any]
) -> list[ModuleCall]:
    """The calls of submodules that are wholly in a stage, in terms of its graph."""
    found = []
    for call in captured.calls:
        given = nodes_in((call.args, dict(call.kwargs), call.result))
        if set(call.nodes) <= inside and all(node.name in values for node in given):
            here = fx.node.map_arg(
                (call.args, dict(call.kwargs), call.result), lambda n: values[n.name]
            )
            found.append(replace(call, args=here[0], kwargs=here[1], result=here[2]))
    return found


def _fixed_values(model: nn.Module, captured: Captured) -> dict[str, Any]:
    """By node, the sizes and numbers of the recorded call."""
    found: dict[str, Any] = {}

    class Noting(GraphRun):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            if n.op != "output" and not holds_tensor(captured.nodes[n.name].value):
                found[n.name] = result
            return result

    mode = Fakes()
    fakes = [fake_like(tensor, mode) for tensor in captured.input_spec.flatten(*captured.example)]
    with mode, torch.no_grad():
        Noting(fake_clone(model, mode), captured).run(*fakes)
    return found


def _bind_attributes(
    stage: nn.Module,
    model: nn.Module,
    captured: Captured,
    graph: fx.Graph,
    device: str,
) -> None:
    """Give the stage what its graph reads and no module has: constants, items of containers."""
    numbers = itertools.count()
    for node in graph.nodes:
        if node.op != "get_attr":
            continue
        target = str(node.target)
        if target in captured.constants:
            value = copied(captured.constants[target], target, device)
        elif _is_attribute(stage, target):
            continue
        else:
            value = fetch(model, target)
            value = copied(value, target, device) if isinstance(value, Tensor) else value
        node.target = f"_constant_{next(numbers)}"
        vars(stage)[node.target] = value


def _is_attribute(module: nn.Module, target: str) -> bool:
    value: Any = module
    for step in target.split("."):
        if not hasattr(value, step):
            return False
        value = getattr(value, step)
    return True


def _stage_class(
    name: str, captured: Captured, part: StagePart, device: torch.device, graph: fx.Graph
) -> type[StageModule]:
    code = graph.python_code("self")
    space = dict(code.globals)
    exec(code.src, space)
    compute = space["forward"]
    reason = captured.other_mode_error
    if captured.alternate is not None:
        reason = "the model computes differently in the two modes"
    mode = "train" if captured.training else "eval"

    def forward(self: StageModule, *wires: Tensor, **inputs: Any) -> Any:
        if reason:
            require_mode(self, mode, reason)
        wires = tuple(received(wire) if wire.requires_grad else wire for wire in wires)
        return compute(self, *wires, **{name: inputs[name] for name in part.inputs})

    space = {
        "forward": forward,
        "part": part,
        "device": device,
        "code": code.src,
        "__doc__": f"Stage {part.index} of {name}.",
    }
    return type(f"Stage{part.index}Of{name}", (StageModule,), space)
