"""How a call's arguments become the placeholders of a graph."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from partitioner.capture.structure import Structure, dissect
from partitioner.errors import CaptureError


@dataclass(frozen=True)
class InputSpec:
    """The inputs that a recording stands for.

    Attributes:
        signature: of `forward`, without `self`.
        arguments: by argument name (defaults included), its structure; tensors are the leaves, and
            everything else is a constant that later calls must repeat.
        placeholders: the placeholders' names, in the order of the leaves.
    """

    signature: inspect.Signature
    arguments: Mapping[str, Structure]
    placeholders: tuple[str, ...]

    def flatten(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
        """Turn the arguments of a call into the placeholders' values.

        Raises:
            CaptureError: an argument is missing, or is not what was recorded.
        """
        bound = bind(self.signature, args, kwargs)
        bound.apply_defaults()
        found: list[Tensor] = []
        for name, structure in self.arguments.items():
            _match(structure, bound.arguments[name], name, found)
        return found


def bind(
    signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> inspect.BoundArguments:
    """Bind arguments to a signature.

    Raises:
        CaptureError: they do not fit.
    """
    try:
        return signature.bind(*args, **kwargs)
    except TypeError as error:
        raise CaptureError(f"the inputs do not fit forward{signature}: {error}") from None


def by_keyword(signature: inspect.Signature, name: str) -> bool:
    """Whether an argument is handed on by its name: what has a default, as callers do.

    Decorators of `forward` may count on it.
    """
    parameter = signature.parameters[name]
    if parameter.kind is not parameter.POSITIONAL_OR_KEYWORD:
        return parameter.kind is parameter.KEYWORD_ONLY
    kinds = {each.kind for each in signature.parameters.values()}
    return parameter.default is not parameter.empty and parameter.VAR_POSITIONAL not in kinds


def prepared(
    signature: inspect.Signature,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    make: Callable[[str, Tensor], Tensor],
) -> tuple[InputSpec, tuple[Any, ...], dict[str, Any]]:
    """Describe an example call, and make the call to record.

    Args:
        signature: of the model's `forward`.
        args: positional arguments.
        kwargs: keyword arguments.
        make: gives the tensor to record with, for a placeholder's name and an example. It is asked
            once for each place, even where one tensor is in two.

    Returns:
        The description, and the arguments and keywords with tensors replaced.
    """
    bound = bind(signature, args, kwargs)
    given = list(bound.arguments)
    bound.apply_defaults()
    names: dict[str, None] = {}
    arguments: dict[str, Structure] = {}
    for name, value in bound.arguments.items():
        anonymous = signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD
        structure, leaves = dissect(value, _is_tensor, "" if anonymous else name)
        arguments[name] = structure
        made: list[Tensor] = []
        for leaf_name, leaf in leaves:
            unique = _unique(leaf_name, names)
            names[unique] = None
            made.append(make(unique, leaf))
        if leaves:
            bound.arguments[name] = structure.rebuild(structure.plain(iter(made)))
    for name in [name for name in bound.arguments if name not in given]:
        del bound.arguments[name]
    return InputSpec(signature, arguments, tuple(names)), bound.args, dict(bound.kwargs)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def _unique(name: str, names: Mapping[str, None]) -> str:
    name = "".join(c if c.isalnum() else "_" for c in name) or "input"
    if name[0].isdigit():
        name = f"_{name}"
    unique, count = name, 0
    while unique in names:
        count += 1
        unique = f"{name}_{count}"
    return unique


def _match(structure: Structure, value: Any, name: str, found: list[Tensor]) -> None:
    if structure.kind == "leaf":
        if not isinstance(value, Tensor):
            raise CaptureError(f"{name} was a tensor when recorded, and is {_told(value)} now")
        found.append(value)
        return
    if structure.kind == "constant":
        if isinstance(value, Tensor) or not same(structure.value, value):
            raise CaptureError(
                f"{name} was {_told(structure.value)} when recorded, and is {_told(value)} now; "
                f"record again with an example that has it"
            )
        return
    if type(value) is not structure.type:
        raise CaptureError(
            f"{name} was a {structure.type.__name__} when recorded, and is {_told(value)} now"
        )
    parts = _parts_of(structure, value, name)
    for key, item, part in zip(structure.keys, structure.items, parts, strict=True):
        _match(item, part, f"{name}[{key!r}]", found)


def _parts_of(structure: Structure, value: Any, name: str) -> list[Any]:
    if structure.kind in ("list", "tuple", "named_tuple"):
        if len(value) != len(structure.items):
            raise CaptureError(
                f"{name} had {len(structure.items)} items when recorded, and has {len(value)} now"
            )
        return list(value)
    fields = value if isinstance(value, dict) else vars(value)
    if set(fields) != set(structure.keys):
        missing = sorted(map(str, set(structure.keys) - set(fields)))
        more = sorted(map(str, set(fields) - set(structure.keys)))
        raise CaptureError(f"{name} has other keys than recorded: missing {missing}, new {more}")
    return [fields[key] for key in structure.keys]


def same(recorded: Any, given: Any) -> bool:
    """Whether a constant of a call is the recorded one."""
    if recorded is given:
        return True
    try:
        return type(recorded) is type(given) and bool(recorded == given)
    except Exception:
        return False


def _told(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)}"
    text = repr(value)
    return text if len(text) <= 40 else f"a {type(value).__name__}"
