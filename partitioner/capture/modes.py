"""Joining the recordings of train and eval mode into one graph where that is possible.

Often the two differ only in constants that follow `module.training`: `F.dropout(x, 0.1, True)` and
`F.dropout(x, 0.1, False)`. Then the constant is replaced by a node that reads the module's flag,
and one graph serves both modes.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx

from partitioner.capture.assemble import joined_groups
from partitioner.capture.captured import Captured, ModuleCall, NodeInfo
from partitioner.capture.structure import Structure


@dataclass(frozen=True, slots=True)
class Recorded:
    """A recording in one mode.

    Attributes:
        captured: the recording.
        flags: by node name, the module whose code made the node and that module's `training`.
    """

    captured: Captured
    flags: Mapping[str, tuple[str, bool]]


class _DifferentError(Exception):
    """The two recordings differ in more than constants that follow the mode."""


def merged(asked: Recorded, other: Recorded) -> Captured:
    """Join the recordings of the two modes.

    Args:
        asked: in the mode that is asked for.
        other: in the other mode.

    Returns:
        One recording for both modes, or else `asked` with `other` as its `alternate`.
    """
    captured = asked.captured
    try:
        pairs = _paired(asked, other)
        nodes = {
            node.name: _joined_info(captured.nodes[node.name], other.captured.nodes[node.name])
            for node in captured.graph.nodes
            if node.op != "output"
        }
        if not _is_same_structure(captured.output_spec, other.captured.output_spec):
            raise _DifferentError
        changes = list(_changes(pairs, asked, other))
    except _DifferentError:
        return dataclasses.replace(captured, alternate=other.captured)
    both = zip(captured.calls, other.captured.calls, strict=True)
    calls = [_joined_call(*pair) for pair in both]
    calls = _Switches(captured, nodes, calls).insert(changes)
    return dataclasses.replace(
        captured,
        nodes={node.name: nodes[node.name] for node in captured.graph.nodes if node.op != "output"},
        calls=tuple(calls),
        colocated=joined_groups(
            [list(group) for group in (*captured.colocated, *other.captured.colocated)],
            list(nodes),
        ),
        conditions=tuple(dict.fromkeys((*captured.conditions, *other.captured.conditions))),
    )


@dataclass(frozen=True, slots=True)
class _Change:
    """A constant of one node that differs between the modes.

    Attributes:
        node: the node.
        path: of the module whose flag it follows.
        values: in training and in evaluation.
        where: where among the node's arguments, as keys and indices.
    """

    node: fx.Node
    path: str
    values: tuple[Any, Any]
    where: tuple[Any, ...]


def _paired(asked: Recorded, other: Recorded) -> list[tuple[fx.Node, fx.Node]]:
    mine, theirs = list(asked.captured.graph.nodes), list(other.captured.graph.nodes)
    if len(mine) != len(theirs) or len(asked.captured.calls) != len(other.captured.calls):
        raise _DifferentError
    return list(zip(mine, theirs, strict=True))


def _changes(
    pairs: list[tuple[fx.Node, fx.Node]], asked: Recorded, other: Recorded
) -> Iterator[_Change]:
    for node, twin in pairs:
        if (node.op, node.target, node.name) != (twin.op, twin.target, twin.name):
            raise _DifferentError
        for where, mine, theirs in _differences(
            {"args": node.args, "kwargs": node.kwargs}, {"args": twin.args, "kwargs": twin.kwargs}
        ):
            path, training = asked.flags.get(node.name, ("", False))
            if node.op == "output" or other.flags[twin.name] != (path, not training):
                raise _DifferentError
            values = (mine, theirs) if training else (theirs, mine)
            if not _follows(*values):
                raise _DifferentError
            yield _Change(node, path, values, where)


def _differences(mine: Any, theirs: Any, where: tuple[Any, ...] = ()) -> Iterator[Any]:
    """`(where, mine, theirs)` of the constants that differ in two structures of nodes."""
    if isinstance(mine, fx.Node) or isinstance(theirs, fx.Node):
        if getattr(mine, "name", None) != getattr(theirs, "name", None):
            raise _DifferentError
    elif isinstance(mine, (list, tuple)) and isinstance(theirs, (list, tuple)):
        if len(mine) != len(theirs):
            raise _DifferentError
        for index, pair in enumerate(zip(mine, theirs, strict=True)):
            yield from _differences(*pair, (*where, index))
    elif isinstance(mine, dict) and isinstance(theirs, dict):
        if list(mine) != list(theirs):
            raise _DifferentError
        for key in mine:
            yield from _differences(mine[key], theirs[key], (*where, key))
    elif isinstance(mine, slice) and isinstance(theirs, slice):
        bounds = ((s.start, s.stop, s.step) for s in (mine, theirs))
        if list(_differences(*bounds)):
            raise _DifferentError
    elif type(mine) is not type(theirs) or mine != theirs:
        yield where, mine, theirs


def _follows(train: Any, evaluation: Any) -> bool:
    """Whether a constant can be made of the flag: the flag, its opposite, or a number times it."""
    if isinstance(train, bool) and isinstance(evaluation, bool):
        return train is not evaluation
    numbers = isinstance(train, (int, float)) and type(train) is type(evaluation)
    return numbers and not isinstance(train, bool) and (train == 0 or evaluation == 0)


def _joined_info(mine: NodeInfo, theirs: NodeInfo) -> NodeInfo:
    mutates = tuple(dict.fromkeys((*mine.mutates, *theirs.mutates)))
    comparable = (
        dataclasses.replace(info, mutates=(), line="", value=_without_grad(info.value))
        for info in (mine, theirs)
    )
    if next(comparable) != next(comparable):
        raise _DifferentError
    return dataclasses.replace(mine, mutates=mutates)


def _without_grad(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(value, requires_grad=False)
    if isinstance(value, tuple):
        return tuple(map(_without_grad, value))
    if isinstance(value, dict):
        return {key: _without_grad(item) for key, item in value.items()}
    return value


def _joined_call(mine: ModuleCall, theirs: ModuleCall) -> ModuleCall:
    same = True
    try:
        for one, two in (
            (mine.args, theirs.args),
            (dict(mine.kwargs), dict(theirs.kwargs)),
            (mine.result, theirs.result),
        ):
            same = same and not list(_differences(one, two))
    except _DifferentError:
        same = False
    return dataclasses.replace(mine, foldable=mine.foldable and theirs.foldable and same)


def _is_same_structure(mine: Structure, theirs: Structure) -> bool:
    return (
        (mine.kind, mine.type, mine.keys) == (theirs.kind, theirs.type, theirs.keys)
        and len(mine.items) == len(theirs.items)
        and (mine.kind != "constant" or type(mine.value) is type(theirs.value))
        and all(map(_is_same_structure, mine.items, theirs.items))
    )


class _Switches:
    """Puts nodes that read a module's flag in the places of constants that follow it."""

    def __init__(
        self, captured: Captured, nodes: dict[str, NodeInfo], calls: list[ModuleCall]
    ) -> None:
        self.graph = captured.graph
        self.nodes = nodes
        self.calls = calls
        self.made: dict[Any, fx.Node] = {}
        self.before: dict[str, list[str]] = {}
        self.innermost: dict[str, int] = {}
        for index, call in enumerate(calls):
            self.innermost.update(dict.fromkeys(call.nodes, index))

    def insert(self, changes: list[_Change]) -> list[ModuleCall]:
        """Make the nodes; returns the calls with them in."""
        for change in changes:
            node = change.node
            switch = self._switch(change)
            self._put(node, change.where, switch)
        return [
            dataclasses.replace(
                call,
                nodes=tuple(
                    name for old in call.nodes for name in (*self.before.get(old, ()), old)
                ),
            )
            for call in self.calls
        ]

    def _switch(self, change: _Change) -> fx.Node:
        train, evaluation = change.values
        flag = self._flag(change)
        if train is True:
            return flag
        if evaluation is True or train == 0:
            flag = self._add(change, "not", operator.not_, (flag,))
            if evaluation is True:
                return flag
        number = train or evaluation
        return self._add(change, number, operator.mul, (number, flag))

    def _flag(self, change: _Change) -> fx.Node:
        target = f"{change.path}.training" if change.path else "training"
        return self._add(change, "flag", target, ())

    def _add(self, change: _Change, what: Any, target: Any, args: tuple[Any, ...]) -> fx.Node:
        """Make a node once in each module call, right before its first user."""
        node = change.node
        key = (change.path, self.innermost.get(node.name), type(what), what)
        if key not in self.made:
            with self.graph.inserting_before(node):
                made = (
                    self.graph.call_function(target, args)
                    if args
                    else self.graph.create_node("get_attr", target, name=target.replace(".", "_"))
                )
            self.made[key] = made
            self.nodes[made.name] = NodeInfo(change.path, None, line=self.nodes[node.name].line)
            self.before.setdefault(node.name, []).append(made.name)
        return self.made[key]

    def _put(self, node: fx.Node, where: tuple[Any, ...], switch: fx.Node) -> None:
        kind, *path = where
        if kind == "args":
            node.args = _replaced(node.args, path, switch)
        else:
            node.kwargs = _replaced(dict(node.kwargs), path, switch)


def _replaced(value: Any, path: list[Any], new: Any) -> Any:
    """A structure with one part replaced."""
    if not path:
        return new
    key, *rest = path
    if isinstance(value, dict):
        return {k: _replaced(item, rest, new) if k == key else item for k, item in value.items()}
    items = [_replaced(item, rest, new) if i == key else item for i, item in enumerate(value)]
    return items if isinstance(value, list) else tuple(items)
