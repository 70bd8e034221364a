"""How a call's arguments become the graph's inputs, and what must be as it was recorded."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from partitioner.capture.inputs import InputSpec
from partitioner.capture.structure import Structure
from partitioner.capture.symbols import Condition, Dimension
from partitioner.emit.spelling import INFIX, Spelling

_STARRED = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_STARS: Mapping[Any, str] = dict(zip(_STARRED, ("*", "**"), strict=True))
_PLAIN = (bool, int, float, complex, str)


@dataclass(frozen=True, slots=True)
class Check:
    """What must hold for the recording to be valid.

    Attributes:
        argument: whose fault it is if it does not.
        text: the condition, in Python.
    """

    argument: str
    text: str


@dataclass(frozen=True, slots=True)
class Interface:
    """The head of the placed `forward`.

    Attributes:
        header: the parameters as they are written, `self` first.
        arguments: their names.
        inputs: by placeholder name, the expression that reads it from the arguments.
        checks: what must hold of a call.
    """

    header: str
    arguments: tuple[str, ...]
    inputs: Mapping[str, str]
    checks: tuple[Check, ...]


def interface(
    spec: InputSpec, conditions: Sequence[Condition], spelling: Spelling, *, strict: bool
) -> Interface:
    """Describe how a model is called.

    Args:
        spec: how the recorded call's arguments flatten to the graph's inputs.
        conditions: that the sizes must meet.
        spelling: says constants.
        strict: also check that tensors are tensors.
    """
    signature = spec.signature
    inputs: dict[str, str] = {}
    checks: list[Check] = []
    placeholders = iter(spec.placeholders)
    for name, structure in spec.arguments.items():
        starred = signature.parameters[name].kind in _STARRED
        for expression in _expressions(structure, name, name, checks, spelling, starred):
            inputs[next(placeholders)] = expression
            if strict:
                checks.append(Check(name, f"isinstance({expression}, torch.Tensor)"))
                spelling.imports.add("import torch")
    for condition in conditions:
        text = condition_text(condition.expression, inputs, spelling)
        first = _first_dimension(condition.expression, inputs)
        checks.append(Check(re.split(r"\W", first)[0], text))
    return Interface(
        header=_header(signature, spelling),
        arguments=tuple(signature.parameters),
        inputs=inputs,
        checks=tuple(checks),
    )


def condition_text(nested: Any, inputs: Mapping[str, str], spelling: Spelling) -> str:
    """Write a condition on sizes in terms of the arguments."""
    if isinstance(nested, Dimension):
        return f"{inputs.get(nested.name, nested.name)}.shape[{nested.dimension}]"
    if not isinstance(nested, tuple):
        return spelling.constant(nested)
    name, *operands = nested
    texts = [condition_text(operand, inputs, spelling) for operand in operands]
    if name in _SYMBOLS and len(texts) > 1:
        loose = [
            f"({text})" if isinstance(operand, tuple) and operand[0] in _SYMBOLS else text
            for operand, text in zip(operands, texts, strict=True)
        ]
        return f" {_SYMBOLS[name]} ".join(loose)
    if hasattr(math, name) and name not in ("pow",):
        spelling.imports.add("import math")
        name = f"math.{name}"
    return f"{'not ' if name == 'not' else name}({', '.join(texts)})"


_SYMBOLS: Mapping[str, str] = {
    **{function.__name__.strip("_"): symbol for function, symbol in INFIX.items()},
    "and": "and",
    "or": "or",
}


def _first_dimension(nested: Any, inputs: Mapping[str, str]) -> str:
    if isinstance(nested, Dimension):
        return inputs.get(nested.name, nested.name)
    if isinstance(nested, tuple):
        return next((found for part in nested[1:] if (found := _first_dimension(part, inputs))), "")
    return ""


def _expressions(
    structure: Structure,
    expression: str,
    argument: str,
    checks: list[Check],
    spelling: Spelling,
    starred: bool = False,
) -> Iterator[str]:
    """The expressions of a structure's leaves, in order; adds checks of all else."""
    match structure.kind:
        case "leaf":
            yield expression
            return
        case "constant":
            checks.append(Check(argument, _is_constant(expression, structure.value, spelling)))
            return
        case "dict":
            keys = ", ".join(spelling.constant(key) for key in structure.keys)
            text = f"list({expression}) == [{keys}]" if keys else f"not {expression}"
            if expression != argument or not starred:
                text = f"isinstance({expression}, dict) and {text}"
            checks.append(Check(argument, text))
        case "list" | "tuple" | "named_tuple":
            size = len(structure.items)
            text = f"len({expression}) == {size}" if size else f"not {expression}"
            if expression != argument or not starred:
                kind = "list" if structure.kind == "list" else "tuple"
                text = f"isinstance({expression}, {kind}) and {text}"
            checks.append(Check(argument, text))
        case "object":
            kind = spelling.function(structure.type)
            checks.append(Check(argument, f"isinstance({expression}, {kind})"))
    for index, (key, item) in enumerate(zip(structure.keys, structure.items, strict=True)):
        if structure.kind == "dict":
            inner = f"{expression}[{spelling.constant(key)}]"
        elif structure.kind == "object":
            inner = f"{expression}.{key}"
        else:
            inner = f"{expression}[{index}]"
        yield from _expressions(item, inner, argument, checks, spelling)


def _is_constant(expression: str, value: Any, spelling: Spelling) -> str:
    text = spelling.constant(value)
    if value is None or isinstance(value, bool):
        return f"{expression} is {text}"
    if isinstance(value, float) and math.isnan(value):
        return f"{expression} != {expression}"
    if isinstance(value, (*_PLAIN, torch.dtype)):
        return f"{expression} == {text}"
    return f"{expression} is {text}"


def _header(signature: inspect.Signature, spelling: Spelling) -> str:
    parts = ["self"]
    kinds = [p.kind for p in signature.parameters.values()]
    for index, parameter in enumerate(signature.parameters.values()):
        if parameter.kind is parameter.KEYWORD_ONLY and not any(
            kind in (parameter.VAR_POSITIONAL, parameter.KEYWORD_ONLY) for kind in kinds[:index]
        ):
            parts.append("*")
        star = _STARS.get(parameter.kind, "")
        default = (
            ""
            if parameter.default is parameter.empty
            else "=" + spelling.constant(parameter.default)
        )
        parts.append(f"{star}{parameter.name}{default}")
        if parameter.kind is parameter.POSITIONAL_ONLY and (
            index + 1 == len(kinds) or kinds[index + 1] is not parameter.POSITIONAL_ONLY
        ):
            parts.append("/")
    return ", ".join(parts)


def by_argument(checks: Sequence[Check]) -> dict[str, str]:
    """The checks of each argument, joined."""
    texts: dict[str, list[str]] = {}
    for check in checks:
        found = texts.setdefault(check.argument, [])
        if check.text not in found:
            found.append(check.text)
    return {
        name: " and ".join(f"({t})" if " or " in t and len(parts) > 1 else t for t in parts)
        for name, parts in texts.items()
    }
