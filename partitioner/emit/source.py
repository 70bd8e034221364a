"""`source`: the placed model as a Python module that a person can read, keep and change.

::

    class SeqNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin1 = nn.Linear(784, 200, device='cuda:0')
            self.lin2 = nn.Linear(200, 10, device='cuda:1')

        def forward(self, x):
            # cuda:0
            x = x.view(x.size(0), -1)
            ...

Layers are made straight on their devices; names in the `state_dict` are the original's. Nothing of
the document is executed while it is written: names are checked, functions come from an allow-list.
"""

from __future__ import annotations

import base64
import textwrap
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from partitioner.capture.captured import Captured, StateSpec
from partitioner.capture.layers import Layer, TensorValue
from partitioner.capture.program import captured_of
from partitioner.emit.forward import INDENT, by_mode, constant_name
from partitioner.emit.graphs import PlacedGraph, placed_graph
from partitioner.emit.interface import Check, condition_lines, interface
from partitioner.emit.modes import both_modes, placement_of_state
from partitioner.emit.moves import Detours, insert_moves
from partitioner.emit.spelling import Spelling, is_identifier, wrapped
from partitioner.emit.writer import Writer
from partitioner.errors import PlanError

if TYPE_CHECKING:
    from partitioner.placement import PlanDocument

WIDTH = 100
FEW = 16
"""Elements up to which a tensor is written as numbers."""


def source(document: PlanDocument, detours: Detours | None = None) -> str:
    """The planned model as a self-contained Python module.

    Its class, loaded with the model's `state_dict`, gives the same outputs on the planned devices.

    Args:
        document: the plan.
        detours: the host over which data is moved, by source and destination.

    Raises:
        PlanError: the model holds something that a text cannot; the message tells what to do.
    """
    return source_of(captured_of(document.program), document.placement, detours)


def source_of(
    captured: Captured, placement: Mapping[str, str], detours: Detours | None = None
) -> str:
    """The Python module of a recording under a placement; see `source`."""
    if "" in captured.opaque:
        raise PlanError(
            f"there is no source of {captured.model_class}, which runs its own code "
            f"({captured.opaque['']}); use `Plan.apply(model)`, which keeps the model's own code"
        )
    return _Author(captured, placement, detours).module()


class _Author:
    def __init__(
        self, captured: Captured, placement: Mapping[str, str], detours: Detours | None
    ) -> None:
        self.captured = captured
        self.detours = detours
        self.recordings, self.placements = both_modes(captured, placement)
        self.placement = placement
        self.layers: dict[str, Layer] = {}
        self.values: dict[str, TensorValue] = {}
        for recording in reversed(self.recordings.values()):
            self.layers.update(recording.layers)
            self.values.update(recording.values)
        self.spelling = Spelling(is_list=self._is_list)
        self.homes = placement_of_state(captured, placement)
        self.class_name = _class_name(captured.model_class)
        self.children = _tree(self._paths())

    def _is_list(self, path: str) -> bool:
        """Whether the module at a path is written as a list."""
        layer = self.layers.get(path)
        return bool(layer.layers) if layer is not None else _is_list(self.children.get(path, []))

    def module(self) -> str:
        """The whole text."""
        forward = self._forward()
        init = self._init()
        train = self._train()
        imports = self.spelling.imports | {"from torch import nn"}
        helpers = [
            _HELPERS[name] for name in _HELPERS if f"{name}(" in "\n".join([*forward, *init])
        ]
        if any("torch." in text for text in [*forward, *init, *helpers]):
            imports |= {"import torch"}
        if any("zlib." in text for text in helpers):
            imports |= {"import base64", "import zlib"}
        devices = list(dict.fromkeys(self.placement.values()))
        where = devices[0] if len(devices) == 1 else ", ".join(devices[:-1]) + f" and {devices[-1]}"
        base = "nn.ModuleList" if self._is_list("") else "nn.Module"
        lines = [
            f'"""{self.class_name}, placed on {where}.',
            "",
            f"The original is `{self.captured.model_class}`.",
            "Load its `state_dict` to get the same outputs.",
            '"""',
            "",
            *_sorted_imports(imports),
            "",
            "",
            *(line for text in helpers for line in [*text.strip().splitlines(), "", ""]),
            f"class {self.class_name}({base}):",
            f"{INDENT}def __init__(self):",
            f"{INDENT * 2}super().__init__()",
            *_indented(init, 2),
            "",
            *_indented(train, 1),
            *_indented(forward, 1),
        ]
        return "\n".join(lines) + "\n"

    # forward

    def _forward(self) -> list[str]:
        checks: dict[bool, list[str]] = {}
        bodies: dict[bool, list[str]] = {}
        header = ""
        for training, recording in self.recordings.items():
            self.spelling.renamed = self._renamed(recording)
            placed = placed_graph(recording, self.placements[training])
            moved = self._without_calls_of_borrowers(insert_moves(placed, self.detours))
            face = interface(recording, self.spelling, strict=False)
            header = face.header
            checks[training] = [*_mode_check(recording), *_checks(face.checks)]
            writer = Writer(
                moved, self.spelling, face.inputs, face.arguments, recording.output_spec
            )
            bodies[training] = writer.body()
        head = wrapped(f"def forward({header}):", 0, WIDTH - 4)
        return [*head, *_indented(by_mode(checks, bodies), 1)]

    def _renamed(self, recording: Captured) -> dict[str, str]:
        """Attributes for tensors that are neither parameters nor buffers of a module."""
        names = {name: constant_name(name, recording) for name in recording.constants}
        for name, spec in recording.state.items():
            if spec.role == "constant":
                names[name] = name.replace(".", "_")
        return names

    def _without_calls_of_borrowers(self, moved: PlacedGraph) -> PlacedGraph:
        """Write layers that borrow weights as functions: `F.linear(x, self.wte.weight.to(...))`."""
        for node in list(moved.graph.nodes):
            if node.target is not torch.func.functional_call:
                continue
            module, state, args, *keywords = node.args
            assert isinstance(module, fx.Node)
            layer = self.layers[str(module.target)]
            if keywords or len(args) != 1 or layer.kind not in _FUNCTIONS:
                continue
            with moved.graph.inserting_before(node):
                function, positional, named = _functional(layer, moved.graph, module, state)
            for read in positional:
                if isinstance(read, fx.Node) and read.name not in moved.nodes:
                    moved.nodes[read.name] = moved.nodes[module.name]  # type: ignore[index]
            node.target, node.args, node.kwargs = function, (args[0], *positional), named
        return moved

    # __init__

    def _paths(self) -> list[str]:
        """Paths of everything that `__init__` makes."""
        paths = [
            name
            for spec in self.captured.state.values()
            if spec.role != "constant"
            for name in spec.names
        ]
        paths += self.layers
        for node in self.captured.graph.nodes:
            if node.op == "get_attr" and self.captured.nodes[node.name].value is None:
                paths.append(str(node.target).rpartition(".")[0])
        return [path for path in dict.fromkeys(paths) if path]

    def _init(self) -> list[str]:
        made: set[str] = set()
        lines = []
        if self._is_list(""):
            lines += [f"self.extend(nn.Identity() for _ in range({_length(self.children[''])}))"]
        lines += self._members("", made)
        lines += self._ties(made)
        lines += self._loose_tensors()
        return lines

    def _members(self, path: str, made: set[str]) -> Iterator[str]:
        """The lines that make what is in the module at `path`."""
        for name in self.children.get(path, []):
            inner = f"{path}.{name}" if path else name
            if inner in self.layers:
                yield from self._assign(path, name, self._made_layer(inner, self.layers[inner]))
                yield from self._rehomed(inner)
                yield from self._frozen(inner)
                made.update(self._names_below(inner))
            elif inner in self.children:
                if self._is_parameter_list(inner):
                    yield from self._parameter_list(path, name, made)
                    continue
                if self._is_list(inner):
                    count = _length(self.children[inner])
                    text = f"nn.ModuleList(nn.Module() for _ in range({count}))"
                else:
                    text = "nn.Module()"
                if not self._is_list(path) or self._is_list(inner) or path == "":
                    yield from self._assign(path, name, text)
                yield from self._members(inner, made)
            else:
                spec = self._spec_of(inner)
                if spec is not None and spec.names[0] == inner:
                    yield from self._tensor(path, name, spec)
                    made.add(inner)

    def _is_parameter_list(self, path: str) -> bool:
        return self._is_list(path) and all(
            self._spec_of(f"{path}.{name}") is not None for name in self.children[path]
        )

    def _parameter_list(self, path: str, name: str, made: set[str]) -> Iterator[str]:
        inner = f"{path}.{name}" if path else name
        entries = []
        for index in self.children[inner]:
            spec = self._spec_of(f"{inner}.{index}")
            assert spec is not None
            frozen = "" if spec.tensor.requires_grad else ", requires_grad=False"
            entries.append(f"nn.Parameter({self._empty(spec, self.homes[spec.names[0]])}{frozen})")
            made.add(f"{inner}.{index}")
        yield from self._assign(path, name, f"nn.ParameterList([{', '.join(entries)}])")

    def _spec_of(self, name: str) -> StateSpec | None:
        return next((s for s in self.captured.state.values() if name in s.names), None)

    def _names_below(self, path: str) -> list[str]:
        return [
            name
            for spec in self.captured.state.values()
            for name in spec.names
            if name.startswith(f"{path}.")
        ]

    def _assign(self, path: str, name: str, text: str) -> list[str]:
        owner = self.spelling.path(path)
        if is_identifier(name):
            return wrapped(f"{owner}.{name} = {text}", 0, WIDTH - 12)
        if self._is_list(path):
            return wrapped(f"{owner}[{name}] = {text}", 0, WIDTH - 12)
        kind = "register_parameter" if text.startswith("nn.Parameter(") else "add_module"
        return wrapped(f"{owner}.{kind}({name!r}, {text})", 0, WIDTH - 12)

    def _made_layer(self, path: str, layer: Layer) -> str:
        if layer.obstacle:
            raise PlanError(
                f"the source cannot make '{path}' ({layer.kind}): {layer.obstacle}; use "
                "`Plan.apply(model)`, which keeps the model's own objects"
            )
        if layer.layers:
            inner = [self._made_layer(f"{path}.{name}", part) for name, part in layer.layers]
            return f"nn.Sequential({', '.join(inner)})"
        arguments = [
            text if index < layer.required else f"{name}={text}"
            for index, (name, text) in enumerate(
                (name, _plain(value)) for name, value in layer.arguments.items()
            )
        ]
        names = self._names_below(path)
        if names and layer.kind in _WITHOUT_DEVICE:
            made = f"{self._class(layer.kind)}({', '.join(arguments)})"
            return f"{made}.to({', '.join([repr(self._layer_device(path)), *self._dtype(names)])})"
        if names:
            arguments.append(f"device={self._layer_device(path)!r}")
            arguments += self._dtype(names)
        return f"{self._class(layer.kind)}({', '.join(arguments)})"

    def _layer_device(self, path: str) -> str:
        """Where a layer is made: where most of its tensors live."""
        homes = [self.homes[name] for name in self._names_below(path)]
        return max(dict.fromkeys(homes), key=homes.count)

    def _rehomed(self, path: str) -> Iterator[str]:
        """Tensors of a layer that live elsewhere than the rest of it, since others use them."""
        layer_device = self._layer_device(path) if self._names_below(path) else ""
        for full in self._names_below(path):
            spec = self._spec_of(full)
            assert spec is not None
            if self.homes[full] == layer_device or spec.names[0] != full:
                continue
            target = self.spelling.path(full)
            empty = self._empty(spec, self.homes[full])
            text = f"nn.Parameter({empty})" if spec.role == "parameter" else empty
            yield from wrapped(f"{target} = {text}", 0, WIDTH - 12)

    def _dtype(self, names: Sequence[str]) -> list[str]:
        dtypes = {
            spec.tensor.dtype
            for name in names
            if (spec := self._spec_of(name)) is not None
            and (spec.tensor.dtype.startswith("float") or spec.tensor.dtype == "bfloat16")
        }
        if len(dtypes) > 1:
            raise PlanError(
                f"the source cannot make a layer with parameters of several types ({names[0]} and "
                f"its siblings: {', '.join(sorted(dtypes))}); use `Plan.apply(model)`"
            )
        return [f"dtype=torch.{dtype}" for dtype in dtypes if dtype != "float32"]

    def _class(self, kind: str) -> str:
        module, _, name = kind.rpartition(".")
        if not all(is_identifier(part) for part in kind.split(".")):
            raise PlanError(f"the plan names a class {kind!r}, which is no name in Python")
        if module.startswith("torch.nn.modules."):
            return f"nn.{name}"
        if kind == "transformers.pytorch_utils.Conv1D":
            self.spelling.imports.add("from transformers.pytorch_utils import Conv1D")
            return name
        raise PlanError(f"the source cannot make a {kind}: only layers of torch.nn are known")

    def _frozen(self, path: str) -> Iterator[str]:
        names = [
            name
            for name in self._names_below(path)
            if (spec := self._spec_of(name)) is not None and spec.role == "parameter"
        ]
        frozen = [n for n in names if not self._spec_of(n).tensor.requires_grad]  # type: ignore[union-attr]
        if frozen and len(frozen) == len(names):
            yield f"{self.spelling.path(path)}.requires_grad_(False)"
        else:
            yield from (f"{self.spelling.path(name)}.requires_grad_(False)" for name in frozen)

    def _tensor(self, path: str, name: str, spec: StateSpec) -> Iterator[str]:
        """A parameter or buffer that belongs to no layer."""
        owner = self.spelling.path(path)
        device = self.homes[spec.names[0]]
        if spec.role == "parameter":
            empty = self._empty(spec, device)
            frozen = "" if spec.tensor.requires_grad else ", requires_grad=False"
            yield from self._assign(path, name, f"nn.Parameter({empty}{frozen})")
            return
        volatile = spec.names[0] in self.captured.volatile
        text = self._value(spec, device) if volatile else self._empty(spec, device)
        ending = ", persistent=False" if volatile else ""
        yield from wrapped(f"{owner}.register_buffer({name!r}, {text}{ending})", 0, WIDTH - 12)

    def _empty(self, spec: StateSpec, device: str) -> str:
        size = ", ".join(map(str, spec.tensor.shape)) or "()"
        dtype = "" if spec.tensor.dtype == "float32" else f", dtype=torch.{spec.tensor.dtype}"
        return f"torch.empty({size}{dtype}, device={device!r})"

    def _value(self, spec: StateSpec, device: str) -> str:
        name = spec.names[0]
        value = self.values.get(name)
        if value is None:
            raise PlanError(
                f"the source cannot hold '{name}': it is not in the model's state_dict, and it is "
                f"too large ({spec.tensor.nbytes} bytes), or was on 'meta' when the model was "
                "planned; register it as a persistent buffer, plan a model that has data, or use "
                "`Plan.apply(model)`"
            )
        return value_text(value, device)

    def _ties(self, made: set[str]) -> Iterator[str]:
        for spec in self.captured.state.values():
            if spec.role == "constant":
                continue
            first = self.spelling.path(spec.names[0])
            for name in spec.names[1:]:
                path, _, attribute = name.rpartition(".")
                owner = self.spelling.path(path)
                if spec.role == "buffer" and name not in made:
                    yield f"{owner}.register_buffer({attribute!r}, {first})"
                else:
                    yield f"{self.spelling.path(name)} = {first}"

    def _loose_tensors(self) -> Iterator[str]:
        """Tensors that no module registers, as buffers outside of the `state_dict`."""
        used: dict[str, StateSpec] = {}
        for recording in self.recordings.values():
            renamed = self._renamed(recording)
            for node in recording.graph.nodes:
                name = str(node.target)
                if node.op == "get_attr" and name in renamed and name in recording.state:
                    used[renamed[name]] = recording.state[name]
        for attribute, spec in used.items():
            text = self._value(spec, self.homes[spec.names[0]])
            yield from wrapped(
                f"self.register_buffer({attribute!r}, {text}, persistent=False)", 0, WIDTH - 12
            )

    def _train(self) -> list[str]:
        """`train()` keeps in evaluation what its user keeps there."""
        kept = [
            path
            for path, layer in self.layers.items()
            if self.captured.training and not layer.training and not layer.obstacle
        ]
        if not kept:
            return []
        return [
            "def train(self, mode: bool = True):",
            f"{INDENT}super().train(mode)",
            *(f"{INDENT}{self.spelling.path(path)}.eval()" for path in kept),
            f"{INDENT}return self",
            "",
        ]


def value_text(value: TensorValue, device: str) -> str:
    """An expression that makes a tensor with this data on a device."""
    dtype = getattr(torch, value.dtype)
    raw = bytearray(zlib.decompress(base64.b64decode(value.data)))
    flat = torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)
    tensor = flat.reshape(value.shape)
    simple = dtype.is_floating_point or dtype in (torch.int64, torch.bool, torch.int32)
    if tensor.numel() <= FEW and simple and bool(torch.isfinite(tensor.double()).all()):
        usual = value.dtype in ("float32", "int64", "bool") and tensor.numel() > 0
        said = "" if usual else f", dtype=torch.{value.dtype}"
        return f"torch.tensor({tensor.tolist()!r}{said}, device={device!r})"
    lines = textwrap.wrap(value.data, 72)
    text = " ".join(repr(line) for line in lines)
    return f"unpacked({text}, torch.{value.dtype}, {tuple(value.shape)!r}).to({device!r})"


_HELPERS: Mapping[str, str] = {
    "unpacked": '''
def unpacked(text, dtype, shape):
    """A tensor from the text of its bytes."""
    data = bytearray(zlib.decompress(base64.b64decode(text)))
    return torch.frombuffer(data, dtype=dtype).reshape(shape)
''',
    "move_structure": '''
def move_structure(value, device):
    """Move every tensor of a nested value."""
    return tree_map(lambda part: part.to(device) if isinstance(part, torch.Tensor) else part, value)
''',
    "made_of": '''
def made_of(cls, /, **fields):
    """An object of a class with these fields, made without calling its `__init__`."""
    made = cls.__new__(cls)
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made
''',
}

_WITHOUT_DEVICE = frozenset({"transformers.pytorch_utils.Conv1D"})
"""Layers whose constructor takes no device."""

_FUNCTIONS = frozenset({"torch.nn.modules.linear.Linear", "torch.nn.modules.sparse.Embedding"})
"""Layers that are written as functions where they work with a copy of another's weights."""


def _functional(
    layer: Layer, graph: fx.Graph, module: fx.Node, state: Mapping[str, fx.Node]
) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """The function of a layer, its arguments after the input, and its keywords."""

    def read(name: str) -> fx.Node:
        return state[name] if name in state else graph.get_attr(f"{module.target}.{name}")

    if layer.kind.endswith(".Linear"):
        bias = (read("bias"),) if layer.arguments.get("bias", True) else ()
        return torch.nn.functional.linear, (read("weight"), *bias), {}
    known = ("padding_idx", "max_norm", "norm_type", "scale_grad_by_freq", "sparse")
    named = {name: layer.arguments[name] for name in known if name in layer.arguments}
    return torch.nn.functional.embedding, (read("weight"),), named


def _checks(checks: Sequence[Check]) -> list[str]:
    texts = list(dict.fromkeys(check.text for check in checks))
    if not texts:
        return []
    lines = condition_lines(texts, WIDTH - 12)
    message = f"this model was recorded for calls with {', '.join(texts)}"
    whole = f"{INDENT}raise ValueError({message!r})"
    if len(whole) <= WIDTH - 12:
        return [*lines, whole]
    return [
        *lines,
        f"{INDENT}raise ValueError(",
        *(f"{INDENT * 2}{literal}" for literal in _folded(message)),
        f"{INDENT})",
    ]


def _folded(message: str) -> list[str]:
    """A text as adjacent literals."""
    words = textwrap.wrap(message, 66, break_long_words=False, break_on_hyphens=False)
    return [repr(f"{line} ") for line in words[:-1]] + [repr(words[-1])]


def _mode_check(recording: Captured) -> list[str]:
    if not recording.other_mode_error:
        return []
    wrong = "not self.training" if recording.training else "self.training"
    mode = "train" if recording.training else "eval"
    return [
        f"if {wrong}:",
        f"{INDENT}raise ValueError('this model was recorded in {mode} mode only')",
    ]


def _plain(value: Any) -> str:
    if isinstance(value, tuple):
        inner = ", ".join(_plain(part) for part in value)
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return f"float('{value}')"
    return repr(value)


def _tree(paths: Sequence[str]) -> dict[str, list[str]]:
    """Names of the children, by path, in order."""
    children: dict[str, list[str]] = {}
    for path in paths:
        parts = path.split(".")
        for depth, name in enumerate(parts):
            found = children.setdefault(".".join(parts[:depth]), [])
            if name not in found:
                found.append(name)
    for names in children.values():
        if _is_list(names):
            names.sort(key=int)
    return children


def _is_list(names: Sequence[str]) -> bool:
    return bool(names) and all(name.isdigit() and str(int(name)) == name for name in names)


def _length(names: Sequence[str]) -> int:
    return max(map(int, names)) + 1


def _class_name(qualified: str) -> str:
    name = qualified.rpartition(".")[2]
    if not is_identifier(name):
        raise PlanError(f"the plan's model class {qualified!r} is no name in Python")
    return f"{name}_" if name in ("nn", "torch", "F", "ModuleList", "Module") else name


def _sorted_imports(imports: set[str]) -> list[str]:
    """Standard library first, then the rest, as formatters sort them."""
    imports = set(_merged(imports))
    standard = sorted(line for line in imports if line.split()[1] in _STANDARD)
    others = sorted(
        (line for line in imports if line.split()[1] not in _STANDARD),
        key=lambda line: (line.startswith("from"), line),
    )
    return [*standard, *([""] if standard and others else []), *others]


def _merged(imports: set[str]) -> Iterator[str]:
    """One line for all names of a module."""
    names: dict[str, list[str]] = {}
    for line in sorted(imports):
        if line.startswith("from "):
            module, _, name = line.removeprefix("from ").partition(" import ")
            names.setdefault(module, []).append(name)
        else:
            yield line
    yield from (f"from {module} import {', '.join(found)}" for module, found in names.items())


_STANDARD = frozenset({"base64", "math", "operator", "zlib", "dataclasses", "collections"})


def _indented(lines: Sequence[str], levels: int) -> list[str]:
    return [INDENT * levels + line if line else line for line in lines]
