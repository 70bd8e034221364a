"""The shape of a nested value, apart from its tensors: flattens inputs and rebuilds outputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from partitioner.capture.devices import is_marker

_PLAIN = (type(None), bool, int, float, complex, str)


@dataclass(frozen=True, slots=True, eq=False)
class Structure:
    """A nested value with its leaves taken out.

    Attributes:
        kind: `"leaf"`, `"constant"`, `"list"`, `"tuple"`, `"dict"`, `"named_tuple"` or `"object"`.
        type: the class to rebuild; `None` for a leaf or constant.
        keys: of a dict, the keys; of an object or named tuple, the attribute names.
        items: the nested structures, in the order of `keys`.
        value: of a constant.
    """

    kind: str
    type: Any = None
    keys: tuple[Any, ...] = ()
    items: tuple[Structure, ...] = ()
    value: Any = None

    @property
    def is_plain(self) -> bool:
        """Whether only lists, tuples, dicts, leaves and plain constants occur."""
        if self.kind == "constant":
            return isinstance(self.value, _PLAIN)
        return self.kind not in ("named_tuple", "object") and all(
            item.is_plain for item in self.items
        )

    @property
    def leaves(self) -> int:
        """How many leaves were taken out."""
        return 1 if self.kind == "leaf" else sum(item.leaves for item in self.items)

    def plain(self, leaves: Iterator[Any]) -> Any:
        """Nest `leaves` in lists, tuples and dicts only: an object becomes a dict of its fields.

        Constants that are not plain (configurations, functions) become `None` there.
        """
        if self.kind == "leaf":
            return next(leaves)
        if self.kind == "constant":
            return self.value if isinstance(self.value, _PLAIN) else None
        inner = [item.plain(leaves) for item in self.items]
        if self.kind in ("dict", "object"):
            return dict(zip(self.keys, inner, strict=True))
        return inner if self.kind == "list" else tuple(inner)

    def rebuild(self, plain: Any) -> Any:
        """Turn what `plain` made, with the leaves' values in place, into the original classes."""
        if self.kind == "leaf":
            return plain
        if self.kind == "constant":
            return self.value
        if self.kind in ("dict", "object"):
            inner = [
                item.rebuild(plain[key]) for key, item in zip(self.keys, self.items, strict=True)
            ]
        else:
            inner = [item.rebuild(part) for item, part in zip(self.items, plain, strict=True)]
        if self.kind == "list":
            return inner
        if self.kind == "tuple":
            return tuple(inner)
        if self.kind == "dict":
            return dict(zip(self.keys, inner, strict=True))
        if self.kind == "named_tuple":
            return self.type(inner) if _is_structseq(self.type) else self.type(*inner)
        return _rebuilt_object(self.type, dict(zip(self.keys, inner, strict=True)))


LEAF = Structure("leaf")


def dissect(
    value: Any, is_leaf: Callable[[Any], bool], name: str = ""
) -> tuple[Structure, list[tuple[str, Any]]]:
    """Take the leaves out of a nested value.

    Returns:
        Its structure, and `(name, leaf)` of each leaf in order; names join keys with `_`.
    """
    leaves: list[tuple[str, Any]] = []
    return _taken_apart(value, name, is_leaf, leaves, {}), leaves


def _taken_apart(
    value: Any,
    name: str,
    is_leaf: Callable[[Any], bool],
    leaves: list[tuple[str, Any]],
    memo: dict[int, bool],
) -> Structure:
    """The structure; its leaves go to `leaves`.

    No closure, which would be a cycle that keeps the leaves' memory until the next collection.
    """
    if is_leaf(value):
        leaves.append((name, value))
        return LEAF
    kind, keys, parts = _parts(value)
    if kind == "constant" or (kind == "object" and not _holds_leaf(value, is_leaf, memo, set())):
        return Structure("constant", value=value)
    items = tuple(
        _taken_apart(part, f"{name}_{key}" if name else str(key), is_leaf, leaves, memo)
        for key, part in zip(keys, parts, strict=True)
    )
    return Structure(kind, type(value), tuple(keys), items)


def tensors_of(value: Any) -> list[torch.Tensor]:
    """The tensors of a nested value, in order, whatever holds them."""
    return [leaf for _, leaf in dissect(value, lambda part: isinstance(part, torch.Tensor))[1]]


def _parts(value: Any) -> tuple[str, list[Any], list[Any]]:
    """Kind, keys and parts of a value, one level deep."""
    cls = type(value)
    if cls in (list, torch.Size):
        return ("list" if cls is list else "tuple"), list(range(len(value))), list(value)
    if cls is tuple:
        return "tuple", list(range(len(value))), list(value)
    if cls is dict:
        return "dict", list(value), list(value.values())
    if isinstance(value, tuple):
        names = list(getattr(value, "_fields", range(len(value))))
        return "named_tuple", names, list(value)
    if isinstance(value, dict) or (dataclasses.is_dataclass(value) and not isinstance(value, type)):
        if isinstance(value, dict):
            return "object", list(value), list(value.values())
        names = [field.name for field in dataclasses.fields(value) if hasattr(value, field.name)]
        return "object", names, [getattr(value, name) for name in names]
    if (
        hasattr(value, "__dict__")
        and not isinstance(value, (type, torch.nn.Module))
        and not callable(value)
    ):
        return "object", list(vars(value)), list(vars(value).values())
    return "constant", [], []


def _holds_leaf(
    value: Any, is_leaf: Callable[[Any], bool], memo: dict[int, bool], path: set[int]
) -> bool:
    if is_leaf(value):
        return True
    if id(value) in memo:
        return memo[id(value)]
    if id(value) in path or len(path) > 12:
        return False
    kind, _, parts = _parts(value)
    if kind == "constant":
        return False
    holds = any(_holds_leaf(part, is_leaf, memo, path | {id(value)}) for part in parts)
    memo[id(value)] = holds
    return holds


def _is_structseq(cls: Any) -> bool:
    return hasattr(cls, "n_sequence_fields")


def _rebuilt_object(cls: Any, fields: dict[Any, Any]) -> Any:
    device = next((v.device for v in fields.values() if isinstance(v, torch.Tensor)), None)
    for name, value in fields.items():
        if isinstance(value, torch.device) and is_marker(value):
            fields[name] = device or torch.device("cpu")
    if issubclass(cls, dict):
        takes_fields = dataclasses.is_dataclass(cls)
        make: Any = cls
        return make(**fields) if takes_fields else make(fields)
    made = cls.__new__(cls)
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made
