"""A recording cut into stages: each a module with its own part of the graph and of the state.

::

    stage 0                       stage 1                       stage 2
    input_ids -> wte -> h.0  ==>  h.1 -> h.2  ==>  h.3 -> lm_head -> logits
                            wires             wires

Values pass from a stage to the next one only: what a later stage reads is handed on by those
between. What is computed from the model's inputs alone, without parameters (masks, positions), is
computed again in every stage that reads it; every rank has the inputs. A parameter that several
stages read is in each of them, and its gradients must be summed. Sizes are those of the recorded
call, as `torch.distributed.pipelining` needs them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from partitioner.capture.captured import Captured, ModuleCall, NodeInfo, TensorSpec
from partitioner.capture.check import GraphRun
from partitioner.capture.clone import clone, fake_clone, fake_like, fetch, named_tensors
from partitioner.emit.fold import fold
from partitioner.emit.forward import require_mode
from partitioner.emit.graphs import PlacedGraph, holds_tensor, listed, nodes_in, tensor_specs
from partitioner.emit.moves import insert_moves
from partitioner.emit.placed import copied
from partitioner.errors import PlanError

RANDOM = ("rand", "dropout", "bernoulli", "normal", "multinomial", "uniform", "exponential")
"""Parts of names of operators that draw numbers; what draws is computed once, in one stage."""


@dataclass(frozen=True)
class StagePart:
    """One stage, in names.

    Attributes:
        index: from 0.
        nodes: that it computes, in execution order.
        inputs: placeholders of the model that it reads.
        wires_in: nodes whose values come from the stage before, in order.
        wires_out: nodes whose values go to the next stage; of the last stage, the tensors that the
            model returns.
        state: canonical names of the parameters, buffers and constants that it needs.
    """

    index: int
    nodes: tuple[str, ...]
    inputs: tuple[str, ...]
    wires_in: tuple[str, ...]
    wires_out: tuple[str, ...]
    state: tuple[str, ...]


class StageModule(nn.Module):
    """One stage that runs: `stage(*wires, **inputs)` gives the tuple of what it hands on.

    Inputs of the model that the stage does not read may be given too. Its submodules, parameters and `state_dict` keys are the original's, as far as this stage needs
    them.

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
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient.contiguous()


class _HandedOn(torch.autograd.Function):
    """A wire as it goes out: contiguous, and no view, since schedules detach it in place."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.detach().contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient


def hand_on(value: Tensor) -> Tensor:
    """`value` for the next stage."""
    handed: Tensor = _HandedOn.apply(value)  # type: ignore[no-untyped-call]
    return handed


def movable(captured: Captured) -> tuple[str, ...]:
    """The nodes that belong to one stage, in execution order; all others follow their readers."""
    free = _follows_readers(captured)
    return tuple(
        node.name
        for node in captured.graph.nodes
        if node.op != "output" and node.name not in free
    )


def split_stages(captured: Captured, stage_of: Mapping[str, int]) -> tuple[StagePart, ...]:
    """Divide a recording.

    Args:
        captured: the recording.
        stage_of: stage numbers from 0, by node; nodes that are not `movable` may be absent.

    Raises:
        PlanError: a node is missing, reads what a later stage makes, or shares a changed tensor
            with another stage.
    """
    names = movable(captured)
    if missing := [name for name in names if name not in stage_of]:
        raise PlanError(f"the stages lack {listed('node', missing)}")
    count = 1 + max((stage_of[name] for name in names), default=0)
    _check_order(captured, {name: stage_of[name] for name in names}, count)
    own = set(names)
    by_name = {node.name: node for node in captured.graph.nodes}
    output = by_name["output"]
    needed: list[set[str]] = []
    crossing: list[set[str]] = []
    for stage in range(count):
        inside, outside = _reach(
            captured,
            [by_name[name] for name in names if stage_of[name] == stage]
            + ([output] if stage == count - 1 else []),
            own,
            lambda name, stage=stage: stage_of[name] == stage,
        )
        needed.append(inside)
        crossing.append(outside)
    returned = tuple(dict.fromkeys(node.name for node in nodes_in(output.args)))
    order = [node.name for node in captured.graph.nodes if node.op != "output"]
    parts = []
    for stage in range(count):
        later = set().union(*crossing[stage + 1 :])
        so_far = {name for name in own if stage_of[name] <= stage}
        before = {name for name in own if stage_of[name] < stage}
        wanted_here = set().union(*crossing[stage:])
        tensors = [name for name in order if holds_tensor(captured.nodes[name].value)]
        parts.append(
            StagePart(
                index=stage,
                nodes=tuple(
                    name
                    for name in order
                    if name in needed[stage] and by_name[name].op != "placeholder"
                ),
                inputs=tuple(
                    str(by_name[name].target)
                    for name in order
                    if name in needed[stage] and by_name[name].op == "placeholder"
                ),
                wires_in=tuple(name for name in tensors if name in before & wanted_here),
                wires_out=returned
                if stage == count - 1
                else tuple(name for name in tensors if name in so_far & later),
                state=_state(captured, needed[stage]),
            )
        )
    return tuple(parts)


def tied_parameters(parts: Sequence[StagePart], captured: Captured) -> dict[str, tuple[int, ...]]:
    """Parameters that several stages have, and these stages; their gradients must be summed."""
    found: dict[str, list[int]] = {}
    for part in parts:
        for name in part.state:
            if captured.state[name].tensor.requires_grad:
                found.setdefault(name, []).append(part.index)
    return {name: tuple(stages) for name, stages in found.items() if len(stages) > 1}


def make_stage(
    model: nn.Module,
    captured: Captured,
    part: StagePart,
    device: str | torch.device,
    *,
    last: bool,
    tensor_of: Callable[[Tensor, str, str], Tensor] = copied,
) -> StageModule:
    """The module of one stage, on `device`. The original is not modified.

    Args:
        model: the recorded model.
        captured: its recording.
        part: which stage.
        device: where it shall run.
        last: it is the last one, and so returns what the model returns, as a tuple of tensors.
        tensor_of: makes a tensor of the stage from the original's, its name and the device.
    """
    where = torch.device(device)
    own = set(part.state)

    def moved(tensor: Tensor, name: str) -> Tensor:
        if name in own:
            return tensor_of(tensor, name, str(where))
        return nn.Parameter(tensor.detach().to("meta"), False) if isinstance(
            tensor, nn.Parameter
        ) else tensor.detach().to("meta")

    stage = clone(model, moved)
    _drop_others(stage, model, own)
    vars(stage).pop("forward", None)
    graph = _graph(model, captured, part, str(where), last)
    _bind_attributes(stage, model, captured, graph, str(where), tensor_of)
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


def _follows_readers(captured: Captured) -> frozenset[str]:
    """Nodes that every stage can compute for itself."""
    changed = {name for info in captured.nodes.values() for name in info.mutates}
    changed |= {name for name, info in captured.nodes.items() if info.mutates}
    free: set[str] = set()
    inputs_only: set[str] = set()
    for node in captured.graph.nodes:
        if node.op == "output":
            continue
        info = captured.nodes[node.name]
        if node.name in changed:
            continue
        if node.op in ("placeholder", "get_attr"):
            free.add(node.name)
            role = captured.state[info.state[0]].role if info.state else "constant"
            if role != "parameter":
                inputs_only.add(node.name)
        elif (
            node.op != "call_module"
            and all(operand.name in inputs_only for operand in node.all_input_nodes)
            and not any(spec.requires_grad for spec in tensor_specs(info.value))
            and not _draws(node)
        ):
            free.add(node.name)
            inputs_only.add(node.name)
    return frozenset(free)


def _draws(node: fx.Node) -> bool:
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return any(part in name for part in RANDOM)


def _check_order(captured: Captured, stage_of: Mapping[str, int], count: int) -> None:
    for name, stage in stage_of.items():
        if not 0 <= stage < count:
            raise PlanError(f"node '{name}' has stage {stage}; stages count from 0 to {count - 1}")
    if empty := sorted(set(range(count)) - set(stage_of.values())):
        raise PlanError(f"stage {empty[0]} has no node; number the stages without gaps")
    for node in captured.graph.nodes:
        for operand in node.all_input_nodes if node.name in stage_of else ():
            if stage_of.get(operand.name, 0) > stage_of[node.name]:
                raise PlanError(
                    f"node '{node.name}' of stage {stage_of[node.name]} reads '{operand.name}' of "
                    f"stage {stage_of[operand.name]}; a pipeline goes forward only"
                )
    for group in captured.colocated:
        spread = {name: stage_of[name] for name in group if name in stage_of}
        if len(set(spread.values())) > 1:
            where = ", ".join(f"'{name}' in stage {stage}" for name, stage in spread.items())
            raise PlanError(f"one stage must hold nodes that share a changed tensor: {where}")


def _reach(
    captured: Captured,
    roots: Sequence[fx.Node],
    own: set[str],
    here: Callable[[str], bool],
) -> tuple[set[str], set[str]]:
    """What a stage computes for its roots, and what it must be given."""
    by_name = {node.name: node for node in captured.graph.nodes}
    inside: set[str] = set()
    outside: set[str] = set()
    waiting = list(roots)
    while waiting:
        node = waiting.pop()
        if node.op != "output":
            if node.name in own and not here(node.name):
                outside.add(node.name)
                continue
            if node.name in inside:
                continue
            inside.add(node.name)
            waiting += [by_name[name] for name in captured.nodes[node.name].shared.values()]
        waiting += node.all_input_nodes
    return inside, outside


def _state(captured: Captured, nodes: set[str]) -> tuple[str, ...]:
    used = {name for node in nodes for name in captured.nodes[node].state}
    return tuple(name for name in captured.state if name in used)


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
            value = graph.call_function(hand_on, (value,))
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

    mode = FakeTensorMode(allow_non_fake_inputs=True)
    fakes = [
        fake_like(tensor, mode) for tensor in captured.input_spec.flatten(*captured.example)
    ]
    with mode, torch.no_grad():
        Noting(fake_clone(model, mode), captured).run(*fakes)
    return found


def _bind_attributes(
    stage: nn.Module,
    model: nn.Module,
    captured: Captured,
    graph: fx.Graph,
    device: str,
    tensor_of: Callable[[Tensor, str, str], Tensor],
) -> None:
    """Give the stage what its graph reads and no module has: constants, items of containers."""
    numbers = itertools.count()
    for node in graph.nodes:
        if node.op != "get_attr":
            continue
        target = str(node.target)
        if target in captured.constants:
            value = tensor_of(captured.constants[target], target, device)
        elif _is_attribute(stage, target):
            continue
        else:
            value = fetch(model, target)
            value = tensor_of(value, target, device) if isinstance(value, Tensor) else value
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
        wires = tuple(_Received.apply(wire) if wire.requires_grad else wire for wire in wires)
        return compute(self, *wires, **{name: inputs[name] for name in part.inputs})

    space = {
        "forward": forward,
        "part": part,
        "device": device,
        "code": code.src,
        "__doc__": f"Stage {part.index} of {name}.",
    }
    return type(f"Stage{part.index}Of{name}", (StageModule,), space)


def wire_specs(captured: Captured, part: StagePart) -> tuple[tuple[TensorSpec, ...], ...]:
    """Shapes and types of what comes in, and of what goes out."""
    return tuple(
        tuple(spec for name in wires for spec in tensor_specs(captured.nodes[name].value))
        for wires in (part.wires_in, part.wires_out)
    )
