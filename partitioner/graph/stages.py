"""A recording cut into stages, in names: what each computes, reads, is given and hands on.

::

    stage 0                       stage 1                       stage 2
    input_ids -> wte -> h.0  ==>  h.1 -> h.2  ==>  h.3 -> lm_head -> logits
                            wires             wires

Values pass from a stage to the next one only: what a later stage reads is handed on by those
between. What is computed from the model's inputs alone, without parameters (masks, positions), is
computed again in every stage that reads it; every rank has the inputs. A parameter that several
stages read is in each of them, and its gradients must be summed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import networkx as nx
from torch import fx

from partitioner.capture import Captured, TensorSpec, holds_tensor, tensor_specs
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
        state: canonical names of the parameters, buffers and constants that it needs; the first
            stage also has those that nothing reads.
    """

    index: int
    nodes: tuple[str, ...]
    inputs: tuple[str, ...]
    wires_in: tuple[str, ...]
    wires_out: tuple[str, ...]
    state: tuple[str, ...]


def movable(captured: Captured) -> tuple[str, ...]:
    """The nodes that belong to one stage, in execution order; all others follow their readers."""
    free = _follows_readers(captured)
    return tuple(
        node.name for node in captured.graph.nodes if node.op != "output" and node.name not in free
    )


def stage_units(
    captured: Captured, together: Sequence[tuple[str, ...]] = ()
) -> tuple[tuple[str, ...], ...]:
    """The `movable` nodes in groups that one stage must hold, each after those that it reads.

    Args:
        captured: the recording.
        together: further groups that one stage must hold.
    """
    names = movable(captured)
    place = {name: i for i, name in enumerate(names)}
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_nodes_from(names)
    for node in captured.graph.nodes:
        if node.name in place:
            graph.add_edges_from(
                (operand.name, node.name)
                for operand in node.all_input_nodes
                if operand.name in place
            )
    for group in (*captured.colocated, *together):
        nx.add_cycle(graph, [name for name in group if name in place])
    return units_of(graph, place)


def units_of(graph: nx.DiGraph[str], place: Mapping[str, int]) -> tuple[tuple[str, ...], ...]:
    """The strongly connected parts of a graph, in the topological order nearest to `place`."""
    whole = nx.condensation(graph)
    members = {
        unit: tuple(sorted(whole.nodes[unit]["members"], key=place.__getitem__)) for unit in whole
    }
    order = nx.lexicographical_topological_sort(whole, key=lambda unit: place[members[unit][0]])
    return tuple(members[unit] for unit in order)


def split_stages(captured: Captured, stage_of: Mapping[str, int]) -> tuple[StagePart, ...]:
    """Divide a recording.

    Args:
        captured: the recording.
        stage_of: stage numbers from 0, by node; nodes that are not `movable` may be absent.

    Raises:
        PlanError: a node is missing, reads what a later stage makes, or shares a changed tensor
            with another stage; or no graph stands for the model.
    """
    if "" in captured.opaque:
        raise PlanError(
            f"{captured.model_class} cannot be divided into stages, since it runs its own code "
            f"({captured.opaque['']}); a plan without micro_batches can spread its parts"
        )
    names = movable(captured)
    if missing := [name for name in names if name not in stage_of]:
        raise PlanError(f"{len(missing)} nodes have no stage, such as '{missing[0]}'")
    count = 1 + max((stage_of[name] for name in names), default=0)
    _check_order(captured, {name: stage_of[name] for name in names}, count)
    own = set(names)
    by_name = {node.name: node for node in captured.graph.nodes}
    output = by_name["output"]
    needed: list[set[str]] = []
    crossing: list[set[str]] = []
    for stage in range(count):
        here = {name for name in names if stage_of[name] == stage}
        roots = [by_name[name] for name in names if name in here]
        inside, outside = _reach(captured, roots + [output] * (stage == count - 1), own - here)
        needed.append(inside)
        crossing.append(outside)
    returned = tuple(node.name for node in output.all_input_nodes)
    order = [node.name for node in captured.graph.nodes if node.op != "output"]
    unread = _unread(captured)
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
                state=_state(captured, needed[stage]) + (() if stage else unread),
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
    foreign: set[str],
) -> tuple[set[str], set[str]]:
    """What a stage computes for its roots, and what it must be given."""
    by_name = {node.name: node for node in captured.graph.nodes}
    inside: set[str] = set()
    outside: set[str] = set()
    waiting = list(roots)
    while waiting:
        node = waiting.pop()
        if node.op != "output":
            if node.name in foreign:
                outside.add(node.name)
                continue
            if node.name in inside:
                continue
            inside.add(node.name)
            waiting += [by_name[name] for name in captured.nodes[node.name].shared.values()]
        waiting += node.all_input_nodes
    return inside, outside


def _unread(captured: Captured) -> tuple[str, ...]:
    """Parameters and buffers that no node reads: a `state_dict` has them all the same."""
    read = {name for info in captured.nodes.values() for name in info.state}
    return tuple(
        name
        for name, state in captured.state.items()
        if name not in read and state.role != "constant"
    )


def _state(captured: Captured, nodes: set[str]) -> tuple[str, ...]:
    used = {name for node in nodes for name in captured.nodes[node].state}
    return tuple(name for name in captured.state if name in used)


def wire_specs(
    captured: Captured, part: StagePart
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Shapes and types of what comes in, and of what goes out."""

    def specs(wires: tuple[str, ...]) -> tuple[TensorSpec, ...]:
        return tuple(spec for name in wires for spec in tensor_specs(captured.nodes[name].value))

    return specs(part.wires_in), specs(part.wires_out)
