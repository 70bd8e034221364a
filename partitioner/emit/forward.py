"""The placed `forward`: its text, the objects that the text names, and its graphs."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from partitioner.capture.captured import Captured
from partitioner.capture.inputs import by_keyword
from partitioner.emit.fold import fold, one_device
from partitioner.emit.following import FollowWeights, Returning
from partitioner.emit.graphs import PlacedGraph, nodes_in, placed_graph, spelled_device
from partitioner.emit.interface import Check, Interface, by_argument, condition_lines, interface
from partitioner.emit.moves import Detours, insert_moves
from partitioner.emit.spelling import Spelling, is_identifier, wrapped
from partitioner.emit.writer import RESERVED, Writer
from partitioner.errors import PlanError

INDENT = "    "
WIDTH = 100


@dataclass(frozen=True)
class Mode:
    """What `forward` does in one of the modes, train or eval.

    Attributes:
        graph: the computation, with its moves.
        output_devices: names of the devices of the output's tensors, in order.
    """

    graph: fx.Graph
    output_devices: tuple[str, ...]

    def __reduce__(self) -> Any:
        """Node by node: a long graph, linked as it is, is too deep for `pickle`."""
        rows = [
            (node.op, node.name, node.target, *_mapped((node.args, node.kwargs), _NodeName.of))
            for node in self.graph.nodes
        ]
        return _mode_of, (rows, self.output_devices)


@dataclass(frozen=True, slots=True)
class _NodeName:
    """Stands for a node where a graph is pickled."""

    name: str

    @classmethod
    def of(cls, value: Any) -> Any:
        return cls(value.name) if isinstance(value, fx.Node) else value


def _mode_of(rows: list[tuple[Any, ...]], output_devices: tuple[str, ...]) -> Mode:
    graph = fx.Graph()
    made: dict[str, fx.Node] = {}

    def node_of(value: Any) -> Any:
        return made[value.name] if isinstance(value, _NodeName) else value

    for op, name, target, args, kwargs in rows:
        made[name] = graph.create_node(
            op, target, _mapped(args, node_of), _mapped(kwargs, node_of), name
        )
    return Mode(graph, output_devices)


def _mapped(value: Any, function: Callable[[Any], Any]) -> Any:
    """A nested argument with its leaves replaced."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_mapped(part, function) for part in value))
    if isinstance(value, (tuple, list)):
        parts = [_mapped(part, function) for part in value]
        return tuple(parts) if isinstance(value, tuple) else parts
    if isinstance(value, dict):
        return {key: _mapped(part, function) for key, part in value.items()}
    if isinstance(value, slice):
        return slice(*(_mapped(p, function) for p in (value.start, value.stop, value.step)))
    return function(value)


@dataclass(frozen=True)
class Forward:
    """A `forward` to be compiled.

    Attributes:
        code: `def forward(self, ...): ...`.
        imports: the lines that give the code `torch`, `F` and the like.
        objects: what the code's other names stand for.
        modes: by `module.training`; one entry serves both where they are the same.
    """

    code: str
    imports: tuple[str, ...]
    objects: Mapping[str, Any]
    modes: Mapping[bool, Mode]

    def mode(self, training: bool) -> Mode:
        """The mode that is on."""
        return self.modes.get(training) or next(iter(self.modes.values()))


class Objects:
    """Names for objects that the code cannot spell: classes, configurations, functions."""

    def __init__(self) -> None:
        self.by_name: dict[str, Any] = {}
        self._names: dict[Any, str] = {}

    def bind(self, value: Any) -> str:
        """The name that stands for `value` in the code."""
        key = value if isinstance(value, Refusal) else id(value)
        if key not in self._names:
            wish = _name_of(value)
            name, number = wish, 0
            while name in self.by_name or name in RESERVED:
                number += 1
                name = f"{wish}_{number}"
            self.by_name[name], self._names[key] = value, name
        return self._names[key]


def _name_of(value: Any) -> str:
    if isinstance(value, Refusal):
        return "refuse"
    name = getattr(value, "__name__", type(value).__name__.lower())
    name = re.sub(r"\W", "_", name).strip("_")
    return name if is_identifier(name) else "constant"


def write_forward(
    model: nn.Module,
    recordings: Mapping[bool, Captured],
    placements: Mapping[bool, Mapping[str, str]],
    detours: Detours | None = None,
) -> Forward:
    """Write the `forward` of `model` under placements, one for each recorded mode."""
    objects = Objects()
    spelling = Spelling(objects.bind, model)
    modes: dict[bool, Mode] = {}
    checks: dict[bool, list[str]] = {}
    bodies: dict[bool, list[str]] = {}
    header = ""
    for training, captured in recordings.items():
        spelling.renamed = {name: constant_name(name, captured) for name in captured.constants}
        placed = placed_graph(captured, placements[training])
        moved = insert_moves(fold(placed, captured.calls), detours)
        modes[training] = Mode(moved.graph, _output_devices(moved))
        face = interface(captured, spelling, strict=True)
        header = face.header
        checks[training], bodies[training] = _body(
            model, captured, placed, moved, face, spelling, objects
        )
    lines = wrapped(f"def forward({header}):", 0, WIDTH)
    lines += [_indented(line, 1) for line in by_mode(checks, bodies)]
    code = "\n".join(lines) + "\n"
    return Forward(code, tuple(sorted(spelling.imports)), objects.by_name, modes)


def by_mode(checks: Mapping[bool, list[str]], bodies: Mapping[bool, list[str]]) -> list[str]:
    """What serves train and eval once, and the rest for each."""
    common = _common(checks)
    if common is None:
        bodies = {training: [*checks[training], *body] for training, body in bodies.items()}
    body = _common(bodies)
    if body is None:
        body = ["if self.training:", *(_indented(line, 1) for line in bodies[True])]
        body += bodies[False]
    return [*(common or []), *body]


def _common(lines: Mapping[bool, list[str]]) -> list[str] | None:
    first = next(iter(lines.values()))
    return first if all(other == first for other in lines.values()) else None


def constant_name(target: str, captured: Captured) -> str:
    """The attribute that holds a tensor that belongs to no module; each mode has its own."""
    return f"{target}_{'train' if captured.training else 'eval'}"


def _body(
    model: nn.Module,
    captured: Captured,
    placed: PlacedGraph,
    moved: PlacedGraph,
    face: Interface,
    spelling: Spelling,
    objects: Objects,
) -> tuple[list[str], list[str]]:
    """The lines that check a call, and those that compute."""
    device = one_device(placed)
    if _calls_original(model, captured, device):
        returned = _output_devices(moved)
        return [], _call_of_original(model, captured, placed, returned, spelling, objects)
    lines = _checks(face.checks, spelling, objects)
    if captured.other_mode_error:
        mode = "train" if captured.training else "eval"
        lines += wrapped(
            f"{spelling.function(require_mode)}(self, {mode!r}, {captured.other_mode_error!r})", 0
        )
    writer = Writer(moved, spelling, face.inputs, face.arguments, captured.output_spec)
    return lines, writer.body()


def _calls_original(model: nn.Module, captured: Captured, device: str | None) -> bool:
    """Whether the original's own `forward` follows the device of its inputs, or is all there is.

    Args:
        model: the original.
        captured: its recording.
        device: of everything, if there is one.

    Raises:
        PlanError: it is all there is, and not the `forward` of the model's class.
    """
    of_class = "forward" not in vars(model)
    if "" in captured.opaque:
        if not of_class:
            raise PlanError(
                f"{captured.model_class} runs its own code ({captured.opaque['']}), and its "
                "`forward` is an attribute of this very module; define it in the model's class"
            )
        return True
    if device is None:
        return False
    whole = any(call.path == "" and call.foldable for call in captured.calls)
    return whole and of_class and not isinstance(model, fx.GraphModule)


def _call_of_original(
    model: nn.Module,
    captured: Captured,
    placed: PlacedGraph,
    returned: tuple[str, ...],
    spelling: Spelling,
    objects: Objects,
) -> list[str]:
    """One call; the usual argument, a tensor that is there already, costs no call to see that.

    Over several devices, its operators follow their weights from where the inputs are.
    """
    device = next(iter(placed.devices.values()))
    arrival = Arrival(torch.device(spelled_device(device)))
    bring, there = objects.bind(arrival), objects.bind(arrival.device)
    tensor = objects.bind(Tensor)
    parts = ["self"]
    for name, parameter in captured.signature.parameters.items():
        text = f"{bring}({name})"
        if captured.input_spec.arguments[name].kind == "leaf":
            text = (
                f"{name} if isinstance({name}, {tensor}) and {name}.device == {there} else {text}"
            )
        match parameter.kind:
            case parameter.VAR_POSITIONAL:
                parts.append(f"*{text}")
            case parameter.VAR_KEYWORD:
                parts.append(f"**{text}")
            case _ if by_keyword(captured.signature, name):
                parts.append(f"{name}={text}")
            case _:
                parts.append(text)
    original = spelling.function(original_class(model))
    call = f"{original}.forward({', '.join(parts)})"
    if one_device(placed) is not None:
        return wrapped(f"return {call}", 0, WIDTH - 12)
    lines = [f"with {spelling.function(FollowWeights)}():"]
    lines += wrapped(f"result = {call}", len(INDENT), WIDTH - 12)
    result = f"{objects.bind(Returning(returned))}(result)" if returned else "result"
    return [*lines, f"return {result}"]


def original_class(model: nn.Module) -> type[nn.Module]:
    """The class that the user wrote, also of a module that was placed before."""
    found: type[nn.Module] = getattr(type(model), "_original", type(model))
    return found


@dataclass(frozen=True, slots=True)
class Arrival:
    """Brings arguments to a device."""

    device: torch.device

    @property
    def __name__(self) -> str:
        return f"on_{str(self.device).replace(':', '_')}"

    def __call__(self, value: Any) -> Any:
        """An argument with all its tensors on the device."""
        if isinstance(value, Tensor):
            return value.to(self.device)
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        return pytree.tree_map_only(Tensor, self, value)


@dataclass(frozen=True)
class Refusal:
    """Says which arguments of a call differ from the recorded one.

    Attributes:
        texts: argument names, each with the condition that it must meet, as in the code.
        names: what the conditions name beside the arguments.
    """

    texts: tuple[tuple[str, str], ...]
    names: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __call__(self, **arguments: Any) -> NoReturn:
        """Raise a `PlanError` that names the arguments."""
        wrong = [
            f"'{name}' (needed: {text})"
            for name, text in self.texts
            if not self._holds(text, arguments)
        ]
        raise PlanError(
            f"the call differs from the one that was recorded in {', '.join(wrong)}; plan again "
            "with such a call as example_inputs and example_kwargs"
        )

    def _holds(self, text: str, arguments: Mapping[str, Any]) -> bool:
        try:
            return bool(eval(text, {"torch": torch, "math": math, **self.names}, dict(arguments)))
        except Exception:
            return False


def _checks(checks: Sequence[Check], spelling: Spelling, objects: Objects) -> list[str]:
    texts = by_argument(checks)
    if not texts:
        return []
    refuse = spelling.function(Refusal(tuple(texts.items()), dict(objects.by_name)))
    arguments = ", ".join(f"{name}={name}" for name in texts)
    call = wrapped(f"{refuse}({arguments})", len(INDENT), WIDTH - 12)
    return [*condition_lines([check.text for check in checks], WIDTH - 12), *call]


def require_mode(module: nn.Module, mode: str, reason: str) -> None:
    """Refuse a mode that could not be recorded."""
    if module.training != (mode == "train"):
        raise PlanError(
            f"this placement was made in {mode} mode and serves only that one, since the other "
            f"could not be recorded: {reason}; call .{mode}() first, or plan in the other mode"
        )


def _indented(line: str, levels: int) -> str:
    return INDENT * levels + line if line else line


def _output_devices(moved: PlacedGraph) -> tuple[str, ...]:
    output = next(iter(reversed(moved.graph.nodes)))
    names = [node.name for node in nodes_in(output.args)]
    return tuple(moved.devices[name] for name in names if name in moved.devices)
