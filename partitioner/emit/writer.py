"""Write a graph as the body of a Python function, the way a person would.

What the user's own statement nested stays nested, results keep the names that the user gave them,
a move that is used once is written where it is used, and a tensor is let go after its last use.

::

    x = x.view(x.size(0), -1)
    x = self.lin1(x.to('cuda:0'))
    # cuda:1
    return self.lin2(x.to('cuda:1'))
"""

from __future__ import annotations

import functools
import inspect
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from partitioner.capture.captured import TensorSpec, holds_tensor
from partitioner.capture.structure import Structure
from partitioner.emit.graphs import PlacedGraph, nodes_in
from partitioner.emit.spelling import IN_PLACE, INFIX, PREFIX, Spelling, is_identifier, wrapped

WIDTH = 88
"""Columns of a statement: 100, less the indentation of a method's branch."""
NESTED_WIDTH = 72
"""Longest expression that is nested in another one."""
LONG = 24
"""Statements from which on the modules are named in comments."""

RESERVED = frozenset(
    [
        "self",
        "torch",
        "F",
        "nn",
        "math",
        "operator",
        "max",
        "min",
        "sum",
        "abs",
        "round",
        "int",
        "float",
        "bool",
        "str",
        "tuple",
        "list",
        "dict",
        "set",
        "slice",
        "len",
        "isinstance",
        "getattr",
        "type",
    ]
)
"""Names that no variable has."""

_TARGETS = re.compile(r"^\s*([A-Za-z_]\w*(?:\s*,\s*[A-Za-z_]\w*)*)\s*(?::[^=]+)?=(?!=)")
_SIZE = re.compile(r"\b(size|shape|len)\b")
_AUGMENTED = re.compile(r"^\s*([A-Za-z_]\w*)\s*(?:\*\*|//|[-+*/@%&|^])=")


@dataclass(slots=True)
class Statement:
    """A line to be: what it computes, and where.

    Attributes:
        node: what is computed.
        targets: the nodes that it gives names to; several where a tuple is unpacked, with `None`
            for a part that nobody uses.
        reads: the named nodes that it uses.
        depth: how many `with` blocks it is in.
        device: where it runs.
        path: the module that it belongs to.
    """

    node: fx.Node
    targets: tuple[fx.Node | None, ...]
    reads: tuple[fx.Node, ...]
    depth: int
    device: str | None
    path: str
    opens: str = ""
    dying: list[fx.Node] = field(default_factory=list)


class Writer:
    """Writes one graph.

    Args:
        placed: the graph, moves included.
        spelling: how functions, paths and constants are said.
        inputs: by placeholder target, the expression that holds it at the start.
        arguments: names of the function's own arguments, which stay what they are.
        output: the classes that the result is built of.
    """

    def __init__(
        self,
        placed: PlacedGraph,
        spelling: Spelling,
        inputs: Mapping[str, str],
        arguments: Sequence[str],
        output: Structure,
    ) -> None:
        self.placed = placed
        self.spelling = spelling
        self.inputs = inputs
        self.arguments = frozenset(arguments)
        self.output = output
        self.inlined: set[fx.Node] = set()
        self.unpacked: dict[fx.Node, tuple[fx.Node | None, ...]] = {}
        self.names: dict[fx.Node, str] = {}
        self.index = {node: i for i, node in enumerate(placed.graph.nodes)}

    def body(self) -> list[str]:
        """The function's lines, not indented."""
        statements = self._statements()
        for node in self.placed.graph.nodes:
            if node.op != "placeholder" and self._opens(node) is None and not self._closes(node):
                self._text(node)
        self._find_deaths(statements)
        return list(self._lines(statements))

    # Which nodes are statements, and which are nested in others.

    def _statements(self) -> list[Statement]:
        statements: list[Statement] = []
        pending: list[fx.Node] = []
        depth = 0

        def flush(kept: Sequence[fx.Node] = ()) -> None:
            for node in pending:
                if node not in kept:
                    self.inlined.discard(node)
                    statements.append(self._statement(node, depth))
            pending.clear()

        parts: set[fx.Node] = set()
        for node in self.placed.graph.nodes:
            if node.op == "placeholder" or node in parts:
                continue
            if self._is_free(node):
                self.inlined.add(node)
                continue
            opens = self._opens(node)
            if opens is not None:
                flush()
                if opens:
                    statements.append(Statement(node, (), (), depth, None, "", opens))
                depth += bool(opens)
                continue
            if self._closes(node):
                flush()
                depth -= 1
                continue
            used = self._nestable_operands(node, pending)
            if self._may_nest(node) and not self._breaks_order(used, pending):
                pending[:] = [*(other for other in pending if other not in used), node]
                self.inlined.add(node)
                continue
            flush(used)
            statements.append(self._statement(node, depth))
            parts.update(part for part in self.unpacked.get(node, ()) if part is not None)
        flush()
        return statements

    def _nestable_operands(self, node: fx.Node, pending: Sequence[fx.Node]) -> list[fx.Node]:
        """The pending expressions that can be written inside of `node`: all that it uses, or moves.

        Python computes them in the order in which they are written: it must be the graph's. Moves
        are free, unless something is changed in place meanwhile.
        """
        used = [operand for operand in nodes_in((node.args, node.kwargs)) if operand in pending]
        moves = [operand for operand in used if self._is_free_move(operand, pending)]
        for nested in (used, moves):
            others = [other for other in used if other not in nested]
            if not all(self._nests_in(operand, node) for operand in nested):
                continue
            if self._breaks_order(nested, pending):
                continue
            self.inlined.difference_update(others)
            fits = node.op == "output" or len(self._text(node)) <= WIDTH
            self.inlined.update(others)
            if fits:
                return nested
        return []

    def _is_free_move(self, node: fx.Node, pending: Sequence[fx.Node]) -> bool:
        return is_move(node) and not any(self.placed.nodes[o.name].mutates for o in pending)

    def _breaks_order(self, nested: Sequence[fx.Node], pending: Sequence[fx.Node]) -> bool:
        """Whether what is nested would be computed before what was recorded before it."""
        computed = [other for other in pending if not self._is_free_move(other, pending)]
        written = [operand for operand in nested if operand in computed]
        return written != computed[len(computed) - len(written) :]

    def _statement(self, node: fx.Node, depth: int) -> Statement:
        targets: tuple[fx.Node | None, ...] = (node,)
        parts = self._parts(node)
        if parts is not None:
            self.unpacked[node] = targets = parts
        elif not node.users:
            targets = ()
        reads = tuple(dict.fromkeys(self._reads(node)))
        device = self.placed.devices.get(node.name)
        if node.op == "output":
            device = next(
                (
                    self.placed.devices[n.name]
                    for n in self._all_in(node)
                    if n.name in self.placed.devices
                ),
                None,
            )
        return Statement(node, targets, reads, depth, device, self._path(node))

    def _reads(self, node: fx.Node) -> Iterator[fx.Node]:
        for operand in nodes_in((node.args, node.kwargs)):
            if operand in self.inlined:
                yield from self._reads(operand)
            else:
                yield operand

    def _all_in(self, node: fx.Node) -> Iterator[fx.Node]:
        """The nested nodes of a statement, the outermost first, then what it reads."""
        for operand in nodes_in((node.args, node.kwargs)):
            yield operand
            if operand in self.inlined:
                yield from self._all_in(operand)

    def _value(self, node: fx.Node) -> Any:
        return None if node.op == "output" else self.placed.nodes[node.name].value

    def _path(self, node: fx.Node) -> str:
        if node.op == "output":
            return ""
        if node.op == "call_module":
            return str(node.target).rpartition(".")[0]
        return self.placed.nodes[node.name].module_path

    def _is_free(self, node: fx.Node) -> bool:
        """Reads something that stays what it is, at no cost: written wherever it is used."""
        if node.op == "get_attr":
            return True
        if len(self._uses(node)) != 1 or not is_metadata(node) or holds_tensor(self._value(node)):
            return False
        user = self._uses(node)[0]
        source = node.args[0]
        if isinstance(source, fx.Node) and holds_tensor(self._value(source)):
            changed = any(source.name in info.mutates for info in self.placed.nodes.values())
            later = max(self.index[user] for user in source.users)
            return not changed and later >= self.index[user]
        return True

    def _uses(self, node: fx.Node) -> list[fx.Node]:
        return [
            user
            for user in node.users
            for operand in nodes_in((user.args, user.kwargs))
            if operand is node
        ]

    def _may_nest(self, node: fx.Node) -> bool:
        uses = self._uses(node)
        if len(uses) != 1 or not isinstance(self._value(node), TensorSpec):
            return False
        if self._is_statement_only(node):
            return False
        if not self._nests_in(node, uses[0]):
            return False
        return uses[0].op == "output" or len(self._text(node)) <= NESTED_WIDTH

    def _nests_in(self, node: fx.Node, user: fx.Node) -> bool:
        if user.op == "output":
            return user.args[0] is node
        if is_move(node):
            return not is_move(user)
        if is_move(user):
            return False
        same_device = self.placed.devices.get(node.name) == self.placed.devices.get(user.name)
        return same_device and self._same_line(node, user) and not _in_sequence(node, user)

    def _same_line(self, node: fx.Node, user: fx.Node) -> bool:
        if user.op == "output":
            return False
        line = self.placed.nodes[node.name].line
        return bool(line) and line == self.placed.nodes[user.name].line

    def _is_statement_only(self, node: fx.Node) -> bool:
        return (
            node.op == "call_function"
            and (node.target is operator.setitem or node.target in IN_PLACE)
        ) or self._parts(node) is not None

    def _parts(self, node: fx.Node) -> tuple[fx.Node | None, ...] | None:
        """The parts of a tuple, where it is used in no other way than part by part."""
        value = self._value(node)
        if not isinstance(value, (tuple, list)) or not node.users or len(value) < 2:
            return None
        parts: list[fx.Node | None] = [None] * len(value)
        for user in node.users:
            if user.op != "call_function" or user.target is not operator.getitem:
                return None
            position = user.args[1]
            if not isinstance(position, int) or parts[position] is not None:
                return None
            parts[position] = user
        return tuple(parts)

    # Regions.

    def _opens(self, node: fx.Node) -> str | None:
        """The `with` statement that a node opens; `""` for one that needs no line."""
        if node.op != "call_function":
            return None
        if node.target is torch.is_grad_enabled:
            return ""
        if node.target is torch._C._set_grad_enabled and not isinstance(node.args[0], fx.Node):
            self.spelling.imports.add("import torch")
            return f"with torch.{'enable_grad' if node.args[0] else 'no_grad'}():"
        if node.target is torch.amp.autocast_mode._enter_autocast:
            device_type, dtype, enabled, cache = node.args
            self.spelling.imports.add("import torch")
            text = f"{device_type!r}, " + (f"dtype={dtype}" if enabled else "enabled=False")
            return f"with torch.autocast({text}{'' if cache else ', cache_enabled=False'}):"
        return None

    def _closes(self, node: fx.Node) -> bool:
        return node.op == "call_function" and node.target in (
            torch._C._set_grad_enabled,
            torch.amp.autocast_mode._exit_autocast,
        )

    # Names.

    def _given_names(self, node: fx.Node) -> tuple[str, ...]:
        """The names that the user's line gives to this node's value."""
        if node.op == "output":
            return ()
        line = self.placed.nodes[node.name].line
        parts = self._parts(node) or ()
        if any(self._same_line(node, user) for user in node.users if user not in parts):
            return ()
        code = re.sub(r"^.*?:\d+: ", "", line)
        if node.op == "call_method" and node.target == "size" and not _SIZE.search(code):
            return ()
        found = _TARGETS.match(code) or _AUGMENTED.match(code)
        return tuple(part.strip() for part in found.group(1).split(",")) if found else ()

    def _wish(self, statement: Statement, position: int, target: fx.Node) -> str:
        """The name that a value would have if nothing else were there."""
        node = statement.node
        given = self._given_names(node)
        if is_move(target):
            source = target.args[0]
            assert isinstance(source, fx.Node)
            return self.names[source] if source in self.names else short_name(source)
        if len(given) == len(statement.targets) and is_identifier(given[position]):
            return given[position]
        if node.op == "call_method" and str(node.target).endswith("_"):
            changed = node.args[0]
            if isinstance(changed, fx.Node) and changed in statement.dying:
                return self.names[changed]
        if node.op == "call_module" and node.args and node.args[0] in statement.dying:
            given_to = node.args[0]
            if isinstance(given_to, fx.Node) and self._same_form(given_to, target):
                return self.names[given_to]
        for operand in statement.dying:
            name = self.names[operand]
            if self._same_kind(operand, target) and (name in self.arguments or name == "x"):
                return name
        if len(statement.targets) > 1:
            return f"{short_name(node)}_{position}"
        return short_name(target)

    def _same_form(self, left: fx.Node, right: fx.Node) -> bool:
        a, b = self._value(left), self._value(right)
        same = isinstance(a, TensorSpec) and isinstance(b, TensorSpec) and a.shape == b.shape
        return same and self._same_kind(left, right)

    def _same_kind(self, left: fx.Node, right: fx.Node) -> bool:
        a, b = self._value(left), self._value(right)
        return isinstance(a, TensorSpec) and isinstance(b, TensorSpec) and a.dtype == b.dtype

    def _find_deaths(self, statements: Sequence[Statement]) -> None:
        last: dict[fx.Node, Statement] = {}
        for statement in statements:
            for node in statement.reads:
                last[node] = statement
        for node, statement in last.items():
            statement.dying.append(node)

    def _name_targets(self, statement: Statement, live: dict[str, fx.Node]) -> None:
        for node in statement.dying:
            if live.get(self.names[node]) is node:
                del live[self.names[node]]
        taken = set(live) | self._fixed
        for position, target in enumerate(statement.targets):
            if target is None:
                continue
            wish = self._wish(statement, position, target)
            name, number = wish, 0
            while name in taken:
                number += 1
                name = f"{wish}_{number}"
            self.names[target] = name
            taken.add(name)
            live[name] = target

    # Text.

    def _lines(self, statements: Sequence[Statement]) -> Iterator[str]:
        live: dict[str, fx.Node] = {}
        self._fixed = RESERVED | self.spelling.used
        reads = {node for statement in statements for node in statement.reads}
        for node in self.placed.graph.nodes:
            if node.op == "placeholder" and node in reads:
                expression = self.inputs[str(node.target)]
                if is_identifier(expression):
                    self.names[node] = expression
                    live[expression] = node
        taken_apart = (text for text in self.inputs.values() if not is_identifier(text))
        self._fixed |= {re.split(r"\W", text)[0] for text in taken_apart}
        for node in self.placed.graph.nodes:
            if node.op == "placeholder" and node in reads and node not in self.names:
                name, number = short_name(node), 0
                while name in live or name in self._fixed:
                    number += 1
                    name = f"{short_name(node)}_{number}"
                self.names[node] = name
                live[name] = node
                yield f"{name} = {self.inputs[str(node.target)]}"
        long = len(statements) > LONG
        here: tuple[str | None, str] = (None, "")
        for statement in statements:
            pad = "    " * statement.depth
            place = (statement.device or here[0], statement.path if long else "")
            if place != here and not statement.opens and statement.device is not None:
                words = [word for word in (place[1], place[0]) if word]
                if long and here[0] is not None:
                    yield ""
                yield f"{pad}# {', '.join(words)}"
                here = place
            yield from self._statement_lines(statement, live)

    def _statement_lines(self, statement: Statement, live: dict[str, fx.Node]) -> Iterator[str]:
        node, indent = statement.node, 4 * statement.depth
        if statement.opens:
            yield " " * indent + statement.opens
            return
        if node.op == "output":
            yield from self._return_lines(node, indent)
            return
        if node.target is operator.setitem:
            base, key, value = node.args
            text = f"{self._tight(base)}[{self._subscript(key)}] = {self._said(value)}"
            yield from wrapped(text, indent, WIDTH)
        else:
            expression = self._text(node)
            self._name_targets(statement, live)
            target = ", ".join("_" if t is None else self.names[t] for t in statement.targets)
            text = f"{target} = {expression}" if target else expression
            yield from wrapped(self._augmented(node, target) or text, indent, WIDTH)
        bound = {self.names[t] for t in statement.targets if t is not None}
        gone = [
            self.names[n]
            for n in statement.dying
            if n.op != "placeholder" and holds_tensor(self._value(n)) and self.names[n] not in bound
        ]
        for name in gone:
            live.pop(name, None)
        if gone:
            yield " " * indent + f"del {', '.join(gone)}"

    def _return_lines(self, node: fx.Node, indent: int) -> Iterator[str]:
        value = node.args[0]
        if self.output.kind == "tuple" and len(self.output.items) > 1:
            assert isinstance(value, tuple)
            parts = zip(self.output.items, value, strict=True)
            text = f"return {', '.join(self._built(item, part) for item, part in parts)}"
            if indent + len(text) <= WIDTH:
                yield " " * indent + text
                return
        yield from wrapped(f"return {self._built(self.output, value)}", indent, WIDTH)

    def _built(self, structure: Structure, value: Any) -> str:
        """A result of its original classes, made of what `output` holds."""
        match structure.kind:
            case "leaf":
                return self._said(value)
            case "constant":
                return self.spelling.constant(structure.value)
        held = value if isinstance(value, (list, tuple)) else [value[k] for k in structure.keys]
        parts = [
            self._device_beside(held) if _is_device(item) else self._built(item, part)
            for item, part in zip(structure.items, held, strict=True)
        ]
        match structure.kind:
            case "list":
                return f"[{', '.join(parts)}]"
            case "tuple":
                return f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"
            case "dict":
                keys = [self.spelling.constant(key) for key in structure.keys]
                inner = ", ".join(f"{k}: {v}" for k, v in zip(keys, parts, strict=True))
                return f"{{{inner}}}"
            case "named_tuple":
                return self.spelling.named_tuple(structure, parts)
            case _:
                return self.spelling.object(structure, parts)

    def _device_beside(self, held: Sequence[Any]) -> str:
        """The device that an object notes down: that of the first tensor beside it."""
        first = next(
            (node for node in nodes_in(list(held)) if holds_tensor(self._value(node))), None
        )
        return "None" if first is None else f"{self._said(first)}.device"

    def _augmented(self, node: fx.Node, target: str) -> str | None:
        """`x += y`, where the result has the name of its first operand."""
        if node.op != "call_function" or node.target not in IN_PLACE:
            return None
        first, second = node.args
        if isinstance(first, fx.Node) and self.names.get(first) == target:
            return f"{target} {IN_PLACE[node.target]} {self._said(second)}"
        return None

    def _text(self, node: fx.Node) -> str:
        """The expression that computes `node`."""
        args, kwargs = node.args, node.kwargs
        match node.op:
            case "get_attr":
                return self.spelling.path(str(node.target))
            case "call_module":
                return f"{self.spelling.path(str(node.target))}({self._arguments(args, kwargs)})"
            case "call_method":
                symbol = _COMPARISONS.get(str(node.target))
                if symbol is not None and len(args) == 2 and not kwargs:
                    return f"{self._tight(args[0])} {symbol} {self._tight(args[1])}"
                method = f"{self._tight(args[0])}.{node.target}"
                return f"{method}({self._arguments(args[1:], kwargs)})"
            case "output":
                return self._said(args[0])
        target = node.target
        if not kwargs:
            if target in INFIX:
                return f"{self._tight(args[0])} {INFIX[target]} {self._tight(args[1])}"
            if target in PREFIX:
                return f"{PREFIX[target]}{self._tight(args[0])}"
            if target is operator.getitem:
                return f"{self._tight(args[0])}[{self._subscript(args[1])}]"
            if target is getattr and isinstance(args[1], str) and is_identifier(args[1]):
                return f"{self._tight(args[0])}.{args[1]}"
        assert callable(target)
        kwargs = _without_defaults(target, kwargs)
        return f"{self.spelling.function(target)}({self._arguments(args, kwargs)})"

    def _arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        parts = [self._said(arg) for arg in args]
        if all(is_identifier(name) for name in kwargs):
            parts += [f"{name}={self._said(value)}" for name, value in kwargs.items()]
        else:
            parts.append(f"**{self._said(dict(kwargs))}")
        return ", ".join(parts)

    def _said(self, value: Any) -> str:
        """Any argument."""
        if isinstance(value, fx.Node):
            if value in self.names:
                return self.names[value]
            if value in self.inlined:
                return self._text(value)
            return value.name
        if isinstance(value, slice):
            parts = (value.start, value.stop, value.step)
            return f"slice({', '.join(self._said(part) for part in parts)})"
        if isinstance(value, dict):
            inner = ", ".join(
                f"{self.spelling.constant(k)}: {self._said(v)}" for k, v in value.items()
            )
            return f"{{{inner}}}"
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            inner = ", ".join(self._said(entry) for entry in value)
            return f"{self.spelling.function(type(value))}({inner})"
        if isinstance(value, tuple):
            inner = ", ".join(self._said(entry) for entry in value)
            return f"({inner},)" if len(value) == 1 else f"({inner})"
        if isinstance(value, list):
            return f"[{', '.join(self._said(entry) for entry in value)}]"
        return self.spelling.constant(value)

    def _tight(self, value: Any) -> str:
        """An argument that something is attached to: in brackets where it needs them."""
        text = self._said(value)
        if isinstance(value, fx.Node):
            return f"({text})" if value in self.inlined and _is_operator(value) else text
        if isinstance(value, (int, float, complex)) and not isinstance(value, bool):
            return f"({text})" if text.startswith("-") else text
        return text

    def _subscript(self, key: Any) -> str:
        if isinstance(key, tuple) and key:
            inner = ", ".join(self._subscript(part) for part in key)
            return f"{inner}," if len(key) == 1 else inner
        if isinstance(key, slice):
            start, stop, step = (
                "" if part is None else self._said(part) for part in (key.start, key.stop, key.step)
            )
            return f"{start}:{stop}" + (f":{step}" if step else "")
        return self._said(key)


@functools.cache
def _defaults(function: Callable[..., Any]) -> Mapping[str, Any]:
    """The default values of a function's arguments, where it tells them."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return {}
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return {}
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def _without_defaults(function: Callable[..., Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The call without keywords that say what is the default anyway."""
    defaults = _defaults(function)
    return {
        name: value
        for name, value in kwargs.items()
        if not (
            name in defaults
            and type(value) is type(defaults[name])
            and isinstance(value, (bool, int, float, str, type(None)))
            and value == defaults[name]
        )
    }


def _is_device(structure: Structure) -> bool:
    """Whether a part of a result is a `torch.device`, or a document's stand-in for one."""
    cls = type(structure.value)
    return structure.kind == "constant" and f"{cls.__module__}.{cls.__qualname__}" == "torch.device"


def _in_sequence(node: fx.Node, user: fx.Node) -> bool:
    """Whether both are layers of one `nn.Sequential`, which people write one below the other."""
    if node.op != "call_module" or user.op != "call_module":
        return False
    left, _, left_name = str(node.target).rpartition(".")
    right, _, right_name = str(user.target).rpartition(".")
    return left == right and left_name.isdigit() and right_name.isdigit()


_COMPARISONS: Mapping[str, str] = {
    "__eq__": "==",
    "__ne__": "!=",
    "__lt__": "<",
    "__le__": "<=",
    "__gt__": ">",
    "__ge__": ">=",
}


def _is_operator(node: fx.Node) -> bool:
    if node.op == "call_method":
        return node.target in _COMPARISONS
    return node.target in INFIX or node.target in PREFIX


def is_move(node: fx.Node) -> bool:
    """Whether `node` is `x.to(device)`."""
    return (
        node.op == "call_method"
        and node.target == "to"
        and len(node.args) == 2
        and isinstance(node.args[1], str)
    )


_METADATA_METHODS = frozenset({"size", "dim", "numel", "ndimension", "nelement", "stride"})
_METADATA_FUNCTIONS: frozenset[Any] = frozenset(
    {getattr, operator.getitem, int, float, max, min, round, abs, *INFIX, *PREFIX}
)


def is_metadata(node: fx.Node) -> bool:
    """Whether `node` reads a size or computes with sizes: the caller knows that it is no tensor."""
    if node.op == "call_method":
        return node.target in _METADATA_METHODS
    return node.op == "call_function" and node.target in _METADATA_FUNCTIONS


def short_name(node: fx.Node) -> str:
    """A name for a value, from what makes it."""
    if node.op == "call_module":
        parts = str(node.target).split(".")
        parts = ["layer", *parts]
        start = max(at for at, part in enumerate(parts) if is_identifier(part))
        name = "_".join(parts[start:])
    elif node.op == "call_method" or (node.op == "call_function" and not callable(node.target)):
        name = str(node.target).strip("_")
    elif node.op == "call_function":
        name = getattr(node.target, "__name__", node.name).strip("_")
        if node.target is operator.getitem and isinstance(node.args[0], fx.Node):
            name = node.name
    else:
        name = str(node.target).rpartition(".")[2]
    name = re.sub(r"\W", "_", name)
    return name if is_identifier(name) and name not in RESERVED else f"{name or 'value'}_"
