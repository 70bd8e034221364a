"""How a call's arguments become the graph's inputs, and what must be as it was recorded."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from partitioner.capture.captured import Captured, tensor_specs
from partitioner.capture.conditions import Condition, Dimension
from partitioner.capture.structure import Structure
from partitioner.emit.graphs import reshaped_inputs
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


def interface(captured: Captured, spelling: Spelling, *, strict: bool) -> Interface:
    """Describe how a model is called.

    Sizes of an input that is reshaped before anything else are left to the layer behind: it takes
    images where flat vectors were recorded.

    Args:
        captured: the recording.
        spelling: says constants.
        strict: also check that tensors are tensors.
    """
    spec = captured.input_spec
    reshaped = {str(node.target) for node in reshaped_inputs(captured.graph, captured.nodes)}
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
    conditions = [c.expression for c in captured.conditions if not _fixes_one(reshaped, c)]
    conditioned = {found.name for nested in conditions for found in _dimensions(nested)}
    for placeholder in spec.placeholders:
        if placeholder in conditioned or (strict and placeholder not in reshaped):
            expression = inputs[placeholder]
            rank = _rank(captured, placeholder)
            checks.append(Check(_argument(expression), f"{expression}.dim() == {rank}"))
    for nested in conditions:
        first = next((inputs[found.name] for found in _dimensions(nested)), "")
        checks.append(Check(_argument(first), condition_text(nested, inputs, spelling)))
    return Interface(
        header=_header(signature, spelling),
        arguments=tuple(signature.parameters),
        inputs=inputs,
        checks=tuple(checks),
    )


def _fixes_one(inputs: set[str], condition: Condition) -> bool:
    """Whether a condition only says that an inner size of one of these inputs is as recorded."""
    match condition.expression:
        case ("eq", Dimension(name, dimension), int()) if dimension > 0:
            return name in inputs
    return False


def _dimensions(nested: Any) -> Iterator[Dimension]:
    if isinstance(nested, Dimension):
        yield nested
    elif isinstance(nested, tuple):
        for operand in nested[1:]:
            yield from _dimensions(operand)


def _argument(expression: str) -> str:
    """The argument that an expression reads."""
    return re.split(r"\W", expression)[0]


def _rank(captured: Captured, placeholder: str) -> int:
    """How many dimensions an input had."""
    values = (
        captured.nodes[node.name].value
        for node in captured.graph.nodes
        if node.op == "placeholder" and node.target == placeholder
    )
    return next(len(spec.shape) for value in values for spec in tensor_specs(value))


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


def condition_lines(texts: Sequence[str], width: int) -> list[str]:
    """The head of an `if` that is entered unless all conditions hold."""
    texts = list(dict.fromkeys(texts))
    shown = [f"({text})" if " or " in text else text for text in texts]
    whole = f"if not ({' and '.join(shown)}):"
    if len(shown) == 1 and shown[0].endswith(" is None"):
        return [f"if {shown[0].removesuffix('None')}not None:"]
    if len(shown) == 1 and re.fullmatch(r"\w+\([^()]*\)", shown[0]):
        return [f"if not {shown[0]}:"]
    if len(whole) <= width:
        return [whole]
    return ["if not (", f"    {shown[0]}", *(f"    and {text}" for text in shown[1:]), "):"]
