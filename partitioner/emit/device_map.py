"""`device_map`: a placement in the form of Hugging Face accelerate, module prefixes to devices.

That form can say only where modules are: accelerate moves the inputs of each named module to its
device and runs whatever is between them where its operands happen to be.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from torch import fx

from partitioner.capture.captured import NodeInfo, holds_tensor
from partitioner.capture.program import graph_of
from partitioner.emit.graphs import listed
from partitioner.errors import PlanError
from partitioner.spec import enclosing

if TYPE_CHECKING:
    from partitioner.placement import PlanDocument


def device_map(document: PlanDocument) -> dict[str, str]:
    """The placement in Hugging Face accelerate's form: module prefixes to devices.

    Raises:
        PlanError: a module is split inside in a way that this form cannot say; the message names
            it.
    """
    graph, nodes = graph_of(document.program)
    used = {name for info in nodes.values() for name in info.state}
    idle = {
        name
        for state in document.program.state
        if used.isdisjoint(state.names)
        for name in state.names
        if name in document.parameters
    }
    return map_of(graph, nodes, document.placement, document.parameters, idle)


def map_of(
    graph: fx.Graph,
    nodes: Mapping[str, NodeInfo],
    placement: Mapping[str, str],
    homes: Mapping[str, str],
    idle: Collection[str] = (),
) -> dict[str, str]:
    """The shortest module prefixes that cover all state, with the device of each.

    Args:
        graph: the recording.
        nodes: what is known of its nodes.
        placement: device name by node name.
        homes: device name of every parameter and buffer, tied names included.
        idle: parameters and buffers that no node uses.

    Raises:
        PlanError: a module is split inside in a way that this form cannot say.
    """
    where = _devices_of_state(graph, placement, homes)
    where |= _beside_others(where, idle)
    found: dict[str, str] = {}
    _cover("", where, found)
    _check_between(graph, nodes, found)
    return found


def _devices_of_state(
    graph: fx.Graph, placement: Mapping[str, str], homes: Mapping[str, str]
) -> dict[str, str]:
    """Where each parameter or buffer is used: a tied layer works where it is called."""
    runs: dict[str, str] = {}
    for node in graph.nodes:
        path = str(node.target)
        if node.op == "call_module" and any(name.startswith(f"{path}.") for name in homes):
            device = placement[node.name]
            if runs.setdefault(path, device) != device:
                raise PlanError(
                    f"accelerate's form cannot say that module '{path}' runs on '{runs[path]}' in "
                    f"one call and on '{device}' in another; Colocate its calls"
                )
    owners = sorted(runs, key=len, reverse=True)
    return {
        name: next((runs[path] for path in owners if name.startswith(f"{path}.")), home)
        for name, home in homes.items()
    }


def _beside_others(where: Mapping[str, str], idle: Collection[str]) -> dict[str, str]:
    """State that nothing uses goes where its module, or the next one around, has most."""
    found = {}
    for name in sorted(idle):
        for path in reversed(enclosing(name.rpartition(".")[0])):
            near = [
                device
                for other, device in where.items()
                if other not in idle and (not path or other.startswith(f"{path}."))
            ]
            if near:
                found[name] = Counter(near).most_common(1)[0][0]
                break
    return found


def _cover(path: str, where: Mapping[str, str], found: dict[str, str]) -> None:
    """Give the module at `path` one entry, or each of its children one."""
    below = {
        name: device for name, device in where.items() if not path or name.startswith(f"{path}.")
    }
    devices = set(below.values())
    if len(devices) == 1:
        found[path] = devices.pop()
        return
    rest = {name: name[len(path) + 1 :] if path else name for name in below}
    direct = [name for name, inner in rest.items() if "." not in inner]
    if direct:
        raise PlanError(
            f"accelerate's form cannot say this placement: module '{path}' is split inside (over "
            f"{', '.join(sorted(devices))}), and it uses {listed('parameter', direct)} itself; "
            f"Colocate('{path or '*'}') keeps it whole"
        )
    for child in dict.fromkeys(inner.partition(".")[0] for inner in rest.values()):
        _cover(f"{path}.{child}" if path else child, where, found)


def _check_between(
    graph: fx.Graph, nodes: Mapping[str, NodeInfo], found: Mapping[str, str]
) -> None:
    """Refuse a module that is split inside and joins values of its parts by its own code."""
    devices: dict[str, str] = {}
    for node in graph.nodes:
        if node.op in ("output", "placeholder", "get_attr"):
            continue
        path = nodes[node.name].module_path
        whole = _entry(path, found)
        if whole is not None:
            devices[node.name] = whole
            continue
        operands = {
            operand.name: devices[operand.name]
            for operand in node.all_input_nodes
            if operand.name in devices and holds_tensor(nodes[operand.name].value)
        }
        if len(set(operands.values())) > 1:
            told = ", ".join(f"'{name}' on '{device}'" for name, device in operands.items())
            raise PlanError(
                f"accelerate's form cannot say this placement: module '{path}' is split inside, "
                f"and its own code joins {told} (at {nodes[node.name].line or node.name}); "
                f"Colocate('{path or '*'}') keeps it whole"
            )
        if operands:
            devices[node.name] = next(iter(operands.values()))


def _entry(path: str, found: Mapping[str, str]) -> str | None:
    return next((found[prefix] for prefix in reversed(enclosing(path)) if prefix in found), None)
