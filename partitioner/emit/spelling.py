"""How Python names things: functions, layers by their path, constants."""

from __future__ import annotations

import builtins
import dataclasses
import enum
import functools
import keyword
import math
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from partitioner.capture.structure import Structure
from partitioner.errors import PlanError

INFIX: Mapping[Any, str] = {
    operator.add: "+",
    operator.sub: "-",
    operator.mul: "*",
    operator.truediv: "/",
    operator.floordiv: "//",
    operator.mod: "%",
    operator.pow: "**",
    operator.matmul: "@",
    operator.and_: "&",
    operator.or_: "|",
    operator.xor: "^",
    operator.lshift: "<<",
    operator.rshift: ">>",
    operator.eq: "==",
    operator.ne: "!=",
    operator.lt: "<",
    operator.le: "<=",
    operator.gt: ">",
    operator.ge: ">=",
}
"""Operators with two operands."""

PREFIX: Mapping[Any, str] = {
    operator.neg: "-",
    operator.pos: "+",
    operator.invert: "~",
    operator.not_: "not ",
}
"""Operators with one operand."""

IN_PLACE: Mapping[Any, str] = {
    operator.iadd: "+=",
    operator.isub: "-=",
    operator.imul: "*=",
    operator.itruediv: "/=",
    operator.ifloordiv: "//=",
    operator.imod: "%=",
    operator.ipow: "**=",
    operator.imatmul: "@=",
    operator.iand: "&=",
    operator.ior: "|=",
    operator.ixor: "^=",
}
"""Operators that may change their first operand."""


@functools.cache
def _public_functions() -> Mapping[int, tuple[str, str]]:
    """`{id of a function: (its name, the import that it needs)}`, as people spell it."""
    spaces: tuple[tuple[Any, str, str], ...] = (
        (torch.nn.functional, "F", "import torch.nn.functional as F"),
        (torch, "torch", "import torch"),
        (torch.special, "torch.special", "import torch"),
        (torch.linalg, "torch.linalg", "import torch"),
        (torch.fft, "torch.fft", "import torch"),
        (torch.Tensor, "torch.Tensor", "import torch"),
        (math, "math", "import math"),
        (operator, "operator", "import operator"),
        (builtins, "", ""),
    )
    found: dict[int, tuple[str, str]] = {}
    for space, prefix, line in spaces:
        for name in sorted(vars(space)):
            value = getattr(space, name)
            if not name.startswith("_") and callable(value) and not isinstance(value, type):
                found.setdefault(id(value), (f"{prefix}.{name}" if prefix else name, line))
    for kind in (tuple, list, dict, slice, int, float, bool, str, max, min, sum, abs):
        found[id(kind)] = (kind.__name__, "")
    found[id(torch.Size)] = ("torch.Size", "import torch")
    found[id(torch.func.functional_call)] = (
        "functional_call",
        "from torch.func import functional_call",
    )
    checkpoint = torch.utils.checkpoint.checkpoint
    found[id(checkpoint)] = ("checkpoint", "from torch.utils.checkpoint import checkpoint")
    return found


def public_function(function: Callable[..., Any]) -> tuple[str, str] | None:
    """The spelling of a well-known function and the import that it needs, if it has one."""
    return _public_functions().get(id(function))


def is_identifier(name: str) -> bool:
    """Whether Python takes `name` as a name."""
    return name.isidentifier() and not keyword.iskeyword(name)


def attribute_path(
    path: str, root: Any = None, is_list: Callable[[str], bool] | None = None
) -> str:
    """`self.layers[0].attn` for `"layers.0.attn"`.

    Args:
        path: qualified name of a module, parameter or attribute.
        root: the module, where it is at hand: tells which parents can be indexed.
        is_list: where it is not, tells of a path whether it can be indexed.
    """
    text, parent, above = "self", root, ""
    for part in path.split(".") if path else ():
        if isinstance(parent, dict):
            text += f"[{part!r}]" if part in parent else f"[{part}]"
        elif is_identifier(part):
            text += f".{part}"
        elif part.isdigit() and (is_list(above) if is_list else _is_indexed(parent, part)):
            text += f"[{part}]"
        elif isinstance(parent, nn.ModuleDict):
            text += f"[{part!r}]"
        else:
            text = f"getattr({text}, {part!r})"
        parent = _child(parent, part)
        above = f"{above}.{part}" if above else part
    return text


def _child(parent: Any, part: str) -> Any:
    if isinstance(parent, (list, tuple)):
        return parent[int(part)]
    if isinstance(parent, dict):
        return parent[part] if part in parent else parent[int(part)]
    return getattr(parent, part, None)


def _is_indexed(parent: Any, part: str) -> bool:
    if isinstance(parent, (nn.ModuleList, nn.Sequential)):
        return list(parent._modules)[int(part) : int(part) + 1] == [part]
    return isinstance(parent, (nn.ParameterList, list, tuple))


class Spelling:
    """Says constants and functions; collects the imports that they need.

    Args:
        bind: names an object that has no spelling of its own, or `None`: then it is a `PlanError`.
        root: the module whose `forward` is written, where it is at hand.
        is_list: where it is not, tells of a path whether it can be indexed.

    Attributes:
        imports: the import lines that are needed.
        used: the global names that are used: no variable may have them.
        renamed: by path, the attributes of the root that stand for it.
    """

    def __init__(
        self,
        bind: Callable[[Any], str] | None = None,
        root: Any = None,
        is_list: Callable[[str], bool] | None = None,
    ) -> None:
        self.imports: set[str] = set()
        self.used: set[str] = set()
        self.bind = bind
        self.root = root
        self.is_list = is_list
        self.renamed: Mapping[str, str] = {}

    def path(self, path: str) -> str:
        """A module, parameter or attribute of the model."""
        if path in self.renamed:
            return f"self.{self.renamed[path]}"
        return attribute_path(path, self.root, self.is_list)

    def function(self, function: Callable[..., Any]) -> str:
        """A function, as it is called."""
        found = public_function(function)
        if found is not None:
            if found[1]:
                self.imports.add(found[1])
            self.used.add(found[0].partition(".")[0])
            return found[0]
        return self._bound(function)

    def constant(self, value: Any) -> str:
        """Anything that is no node and no structure."""
        if value is None or value is Ellipsis or isinstance(value, (bool, int, str)):
            if not isinstance(value, enum.Enum):
                return "..." if value is Ellipsis else repr(value)
        elif isinstance(value, float):
            return repr(value) if math.isfinite(value) else f"float('{value}')"
        elif isinstance(value, complex):
            return repr(value)
        elif isinstance(value, (torch.dtype, torch.layout, torch.memory_format)):
            self.imports.add("import torch")
            return str(value)
        elif isinstance(value, torch.device):
            self.imports.add("import torch")
            return f"torch.device({str(value)!r})"
        elif callable(value) and public_function(value) is not None:
            return self.function(value)
        return self._bound(value)

    def named_tuple(self, structure: Structure, parts: Sequence[str]) -> str:
        """A named tuple, or one of the tuples that PyTorch's functions return."""
        name = self.type(structure.type)
        if hasattr(structure.type, "n_sequence_fields"):
            return f"{name}(({', '.join(parts)},))"
        return f"{name}({', '.join(parts)})"

    def object(self, structure: Structure, parts: Sequence[str]) -> str:
        """An object of a class with fields."""
        name = self.type(structure.type)
        fields = ", ".join(f"{k}={v}" for k, v in zip(structure.keys, parts, strict=True))
        if _takes_its_fields(structure):
            return f"{name}({fields})"
        maker = "made_of" if self.bind is None else self.function(made_of)
        return f"{maker}({name}, {fields})"

    def type(self, cls: type) -> str:
        """A class of a result."""
        if self.bind is not None:
            return self.function(cls)
        qualified = f"{cls.__module__}.{cls.__qualname__}"
        if not all(is_identifier(part) for part in qualified.split(".")) or "." in cls.__qualname__:
            raise PlanError(
                f"the source cannot import {qualified}, of which the result is made; define it at "
                "the top of a module, or use `Plan.apply(model)`"
            )
        line = f"from {cls.__module__} import {cls.__qualname__}"
        self.imports.add(line)
        self.used.add(cls.__qualname__)
        return cls.__qualname__

    def _bound(self, value: Any) -> str:
        if self.bind is None:
            name = getattr(value, "__qualname__", None) or repr(value)
            raise PlanError(
                f"the source cannot hold {name} (of {type(value).__name__}); use "
                "`Plan.apply(model)`, which keeps the model's own objects"
            )
        name = self.bind(value)
        self.used.add(name)
        return name


def _takes_its_fields(structure: Structure) -> bool:
    """Whether calling the class with its fields makes the same object."""
    cls: Any = structure.type
    if not dataclasses.is_dataclass(cls):
        return False
    taken = {field.name for field in dataclasses.fields(cls) if field.init}
    plain = (isinstance(cls, type) and issubclass(cls, dict)) or not hasattr(cls, "__post_init__")
    return plain and set(structure.keys) <= taken


def made_of(cls: type, /, **fields: Any) -> Any:
    """An object of `cls` with these fields, made without calling its `__init__`."""
    if issubclass(cls, dict):
        return cls(fields)
    made = cls.__new__(cls)
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made


def wrapped(text: str, indent: int, width: int = 100) -> list[str]:
    """A statement as lines of at most `width` columns, broken inside its brackets.

    Breaks as ruff's formatter does: what is in the last outermost brackets goes on a line of its
    own, or on one line an entry with a trailing comma; a long condition, one line a part.
    """
    pad = " " * indent
    if indent + len(text) <= width:
        return [pad + text]
    if all(character == " " for _, character, _ in _characters(text)):
        return [pad + literal for literal in _split(text, " ")]
    parts = list(_split(text, " and "))
    if len(parts) > 1:
        name = re.match(r"\w+=", parts[0])
        head = name.group() if name else ""
        lines = [f"{pad}{head}("]
        for index, part in enumerate([parts[0].removeprefix(head), *parts[1:]]):
            lines += wrapped(f"and {part}" if index else part, indent + 4, width)
        return [*lines, f"{pad})"]
    fallback = [pad + text]
    for start, end in reversed(list(_outermost_brackets(text))):
        if end - start < 2:
            continue
        head, inner, tail = text[: start + 1], text[start + 1 : end], text[end:]
        entries = list(_split(inner, ","))
        lines = [pad + head]
        if indent + 4 + len(inner) <= width and not inner.endswith(","):
            lines.append(f"{pad}    {inner}")
        else:
            for entry in entries:
                lone = len(entries) == 1 and text[start] == "["
                broken = wrapped(entry, indent + 4, width - 1)
                lines += [*broken[:-1], broken[-1] + ("" if lone else ",")]
        lines.append(pad + tail)
        if all(len(line) <= width for line in lines):
            return lines
        fallback = lines if len(fallback) == 1 else fallback
    return fallback


def _characters(text: str) -> Iterator[tuple[int, str, int]]:
    """Positions, characters and bracket depths outside of string literals."""
    depth, quote, position = 0, "", 0
    while position < len(text):
        character = text[position]
        if quote:
            if character == "\\":
                position += 1
            elif character == quote:
                quote = ""
        elif character in "'\"":
            quote = character
        else:
            if character in ")]}":
                depth -= 1
            yield position, character, depth
            if character in "([{":
                depth += 1
        position += 1


def _outermost_brackets(text: str) -> Iterable[tuple[int, int]]:
    start = 0
    for position, character, depth in _characters(text):
        if depth == 0 and character in "([{":
            start = position
        elif depth == 0 and character in ")]}":
            yield start, position


def _split(text: str, separator: str) -> Iterator[str]:
    """The entries between the outermost separators."""
    start = 0
    for position, character, depth in _characters(text):
        if depth == 0 and character == separator[0] and text.startswith(separator, position):
            yield text[start:position].strip()
            start = position + len(separator)
    if text[start:].strip():
        yield text[start:].strip()
