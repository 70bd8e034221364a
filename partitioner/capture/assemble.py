"""From what one run wrote down to a `Captured` in good order."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx
from torch.fx.node import map_arg

from partitioner.capture.captured import ModuleCall, NodeInfo, StateSpec, TensorSpec
from partitioner.capture.clone import NamedTensor
from partitioner.capture.devices import DeviceUse
from partitioner.capture.recorder import Recorder, attribute_name
from partitioner.capture.recording import Frame, Recording

_NUMBER_MODULES = ("_operator", "math", "builtins")
_PURE_FUNCTIONS = frozenset(
    {torch.arange, torch.zeros, torch.ones, torch.full, torch.tensor, torch.diff}
)
_PURE_METHODS = frozenset(
    {
        *("size", "numel", "view", "reshape", "expand", "unsqueeze", "squeeze", "transpose"),
        *("permute", "to", "float", "contiguous", "flatten", "new_ones", "new_zeros", "detach"),
        *("all", "cumsum"),
    }
)


@dataclass(slots=True)
class Block:
    """A module call's part of the order: nodes, and the blocks of the calls inside."""

    frame: Frame | None
    items: list[fx.Node | Block] = field(default_factory=list)

    def nodes(self) -> Iterator[fx.Node]:
        """All nodes, those of inner blocks included."""
        for item in self.items:
            if isinstance(item, Block):
                yield from item.nodes()
            else:
                yield item


@dataclass(frozen=True, slots=True)
class Ordered:
    """The graph in its final order and names, and everything that refers to its nodes."""

    graph: fx.Graph
    nodes: dict[str, NodeInfo]
    calls: tuple[ModuleCall, ...]
    colocated: tuple[tuple[str, ...], ...]
    flags: dict[str, tuple[str, bool]]


def ordered(recorder: Recorder, output: Any) -> Ordered:
    """Put a recording in order.

    State that several nodes use gets a `get_attr` node of its own, placed in the smallest module
    call that holds all its users; what nobody uses and what changes nothing goes.

    Args:
        recorder: after its run.
        output: the result, with nodes in the places of tensors.
    """
    recording = recorder.recording
    _prune(recording, output)
    shared = _shared_state(recording)
    order = _order(recording, shared)
    names, graph = _renamed(order, output)
    nodes = _described(recording, order, shared, names)
    return Ordered(
        graph,
        nodes,
        tuple(_calls(recording, order, names, output)),
        _colocated(recording, shared, names, nodes),
        {new.name: recording.flags[old] for old, new in names.items() if old in recording.flags},
    )


def state_specs(held: Iterable[NamedTensor]) -> dict[str, StateSpec]:
    """Describe the tensors of a model, by canonical name."""
    return {
        each.names[0]: StateSpec(TensorSpec.of(each.tensor), each.role, each.names) for each in held
    }


def _shared_state(recording: Recording) -> dict[str, list[fx.Node]]:
    """Make `get_attr` nodes for state that several nodes use; tell the leaf calls that use it."""
    users: dict[str, list[fx.Node]] = {}
    for leaf, state in recording.leaf_state.items():
        for name in state.values():
            if leaf not in users.setdefault(name, []):
                users[name].append(leaf)
    shared = {}
    for name, leaves in users.items():
        if len(leaves) < 2 and name not in recording.state_nodes:
            continue
        shared[name] = leaves
        if name not in recording.state_nodes:
            node = recording.graph.create_node("get_attr", name)
            recording.state_nodes[name] = node
            value = recording.leaf_specs[name]
            recording.infos[node] = NodeInfo(
                recording.infos[leaves[0]].module_path,
                value,
                state=(name,),
                line=recording.infos[leaves[0]].line,
            )
    return shared


def _prune(recording: Recording, output: Any) -> None:
    """Drop nodes that nobody uses and that only read."""
    kept = set(_nodes_in(output))
    for frame in recording.calls:
        if frame.expressible:
            kept.update(_nodes_in((frame.args, frame.kwargs)))
    for node in reversed(recording.sequence):
        if not node.users and node not in kept and _only_reads(node, recording):
            del recording.infos[node]
            recording.graph.erase_node(node)
            if recording.state_nodes.get(str(node.target)) is node:
                del recording.state_nodes[str(node.target)]


def _only_reads(node: fx.Node, recording: Recording) -> bool:
    """Whether nothing is lost with a node that nobody uses; random numbers count as something."""
    info = recording.infos[node]
    if info.mutates:
        return False
    if node.op == "call_function":
        name = getattr(node.target, "__module__", "")
        return name in _NUMBER_MODULES or node.target in _PURE_FUNCTIONS
    return node.op == "get_attr" or (node.op == "call_method" and node.target in _PURE_METHODS)


def is_number(node: fx.Node, info: NodeInfo) -> bool:
    """Whether a node makes a number out of sizes and numbers."""
    if info.value is not None or info.mutates:
        return False
    if node.op == "call_method":
        return node.target in ("size", "numel")
    return node.op == "call_function" and (
        getattr(node.target, "__module__", "") in _NUMBER_MODULES
        and node.target is not operator.setitem
    )


def _order(recording: Recording, shared: dict[str, list[fx.Node]]) -> Block:
    """Nest the nodes as the module calls do, each `get_attr` node where its users are."""
    placed = {node: name for name, node in recording.state_nodes.items()}
    index = {node: position for position, node in enumerate(recording.sequence)}
    root = Block(None)
    stack = [root]
    frames = sorted(recording.calls, key=lambda frame: (frame.start, -frame.stop))
    upcoming = iter([*frames, None])
    frame = next(upcoming)
    home: dict[fx.Node, list[Block]] = {}
    for position, node in enumerate(recording.sequence):
        while stack[-1].frame is not None and stack[-1].frame.stop <= position:
            stack.pop()
        while frame is not None and frame.start <= position:
            if frame.stop > position:
                block = Block(frame)
                stack[-1].items.append(block)
                stack.append(block)
            frame = next(upcoming)
        if node in recording.infos and node not in placed:
            stack[-1].items.append(node)
            home[node] = list(stack)
    for node, name in placed.items():
        if node not in recording.infos:
            continue
        users = [user for user in (*node.users, *shared.get(name, ())) if user in home]
        _insert(node, sorted(users, key=lambda user: index[user]), root, home)
    return root


def _insert(
    node: fx.Node, users: list[fx.Node], root: Block, home: dict[fx.Node, list[Block]]
) -> None:
    if not users:
        root.items.append(node)
        return
    common = home[users[0]]
    for user in users[1:]:
        depth = 0
        for mine, other in zip(common, home[user], strict=False):
            if mine is not other:
                break
            depth += 1
        common = common[:depth]
    block = common[-1]
    path = home[users[0]]
    first: fx.Node | Block = path[len(common)] if len(path) > len(common) else users[0]
    block.items.insert(_position(block.items, first), node)


def _position(items: list[fx.Node | Block], item: fx.Node | Block) -> int:
    return next(position for position, other in enumerate(items) if other is item)


def _renamed(order: Block, output: Any) -> tuple[dict[fx.Node, fx.Node], fx.Graph]:
    graph = fx.Graph()
    renamed: dict[fx.Node, fx.Node] = {}
    for node in order.nodes():
        name = str(node.target) if node.op == "placeholder" else None
        if node.op in ("call_module", "get_attr"):
            name = attribute_name(str(node.target))
        renamed[node] = graph.create_node(
            node.op,
            node.target,
            map_arg(node.args, lambda old: renamed[old]),
            map_arg(node.kwargs, lambda old: renamed[old]),
            name,
        )
    graph.output(map_arg(output, lambda old: renamed[old]))
    return renamed, graph


def _described(
    recording: Recording,
    order: Block,
    shared: dict[str, list[fx.Node]],
    names: dict[fx.Node, fx.Node],
) -> dict[str, NodeInfo]:
    by_old_name = {node.name: new.name for node, new in names.items()}
    described = {}
    for node in order.nodes():
        info = recording.infos[node]
        if node in recording.leaf_state:
            state = recording.leaf_state[node]
            info = dataclasses.replace(
                info,
                state=tuple(dict.fromkeys(n for n in state.values() if n not in shared)),
                shared={
                    inner: names[recording.state_nodes[name]].name
                    for inner, name in state.items()
                    if name in shared
                },
            )
        if info.mutates:
            mutates = tuple(by_old_name[old] for old in info.mutates if old in by_old_name)
            info = dataclasses.replace(info, mutates=mutates)
        described[names[node].name] = info
    return described


def _colocated(
    recording: Recording,
    shared: dict[str, list[fx.Node]],
    names: dict[fx.Node, fx.Node],
    nodes: dict[str, NodeInfo],
) -> tuple[tuple[str, ...], ...]:
    groups: list[list[fx.Node]] = [recording.storages[storage] for storage in recording.mutated]
    for changed in recording.leaf_mutates.values():
        for name in changed:
            if name in shared:
                groups.append([recording.state_nodes[name], *shared[name]])
    for node in names:
        if node.op == "call_function" and node.target is operator.getitem:
            source = node.args[0]
            if isinstance(source, fx.Node) and isinstance(
                recording.infos[source].value, (tuple, dict)
            ):
                groups.append([source, node])
    present = [[names[node].name for node in group if node in names] for group in groups]
    return joined_groups(present, list(nodes))


def joined_groups(groups: Iterable[list[str]], order: list[str]) -> tuple[tuple[str, ...], ...]:
    """Join groups that overlap; each in the order of `order`, without groups of one."""
    leader: dict[str, str] = {}

    def find(name: str) -> str:
        while leader.setdefault(name, name) != name:
            name = leader[name]
        return name

    for group in groups:
        for name in group[1:]:
            leader[find(name)] = find(group[0])
    joined: dict[str, list[str]] = {}
    for name in order:
        if name in leader:
            joined.setdefault(find(name), []).append(name)
    return tuple(tuple(group) for group in joined.values() if len(group) > 1)


def _calls(
    recording: Recording, order: Block, names: dict[fx.Node, fx.Node], output: Any
) -> Iterator[ModuleCall]:
    returned = set(_nodes_in(output))
    blocks: dict[int, Block] = {}

    def collect(block: Block) -> None:
        if block.frame is not None:
            blocks[id(block.frame)] = block
        for item in block.items:
            if isinstance(item, Block):
                collect(item)

    collect(order)
    for frame in recording.calls:
        block = blocks.get(id(frame))
        if block is None:
            continue
        inside = list(block.nodes())
        known = frame.expressible and all(
            node in names for node in _nodes_in((frame.args, frame.kwargs, frame.result))
        )
        yield ModuleCall(
            path=frame.path,
            nodes=tuple(names[node].name for node in inside),
            args=_mapped(frame.args, names) if known else (),
            kwargs=_mapped(frame.kwargs, names) if known else {},
            result=_mapped(frame.result, names) if known else None,
            foldable=known and _is_foldable(frame, inside, returned, recording),
        )


def _is_foldable(
    frame: Frame, inside: list[fx.Node], returned: set[fx.Node], recording: Recording
) -> bool:
    if frame.literal_device:
        return False
    own = set(inside)
    given = set(_nodes_in((frame.args, frame.kwargs)))
    results = set(_nodes_in(frame.result))
    for node in inside:
        info = recording.infos[node]
        if info.creates and not _goes_anywhere(node, recording):
            return False
        leaks = node in returned or any(user not in own for user in node.users)
        if leaks and node not in results:
            return False
        for source in node.all_input_nodes:
            if source in own or source in given or source.op == "get_attr":
                continue
            if not is_number(node, info) and recording.infos[source].value is not None:
                return False
    return True


def _goes_anywhere(node: fx.Node, recording: Recording) -> bool:
    """Whether what a factory makes fits any device: it follows an input, or is a scalar."""
    value = recording.infos[node].value
    is_scalar = isinstance(value, TensorSpec) and not value.shape
    return is_scalar or recording.follows[node] is DeviceUse.FOLLOWS


def _mapped(value: Any, names: dict[fx.Node, fx.Node]) -> Any:
    return map_arg(value, lambda node: names[node])


def _nodes_in(value: Any) -> list[fx.Node]:
    found: list[fx.Node] = []

    def note(node: fx.Node) -> fx.Node:
        found.append(node)
        return node

    map_arg(value, note)
    return found
