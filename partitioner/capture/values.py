"""Values of a graph as plain data for JSON, and back; nothing of a document is executed.

None, truth values, whole and real numbers, texts and lists stand for themselves. Anything else is
an object with one key that tells what it is: `{"node": "lin1"}`, `{"tuple": [...]}`,
`{"slice": [0, null, null]}`, `{"dtype": "float32"}`, `{"real": "inf"}`, `{"tensor": {...}}`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from partitioner.capture.captured import TensorSpec
from partitioner.errors import PlanError

Value = None | bool | int | float | str | list[Any] | dict[str, Any]

_NAMED: dict[str, type] = {
    "dtype": torch.dtype,
    "layout": torch.layout,
    "memory_format": torch.memory_format,
}


def encode(value: Any) -> Value:
    """Write a value of a graph as plain data.

    Raises:
        PlanError: it has no place in a document.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"real": str(value)}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if value is Ellipsis:
        return {"ellipsis": True}
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, TensorSpec):
        return {"tensor": spec_data(value)}
    if isinstance(value, Tensor):
        return {"tensor": spec_data(TensorSpec.of(value))}
    if isinstance(value, tuple):
        return {"tuple": [encode(item) for item in value]}
    if isinstance(value, list):
        return [encode(item) for item in value]
    if isinstance(value, Mapping):
        return {"dict": [[encode(key), encode(item)] for key, item in value.items()]}
    if isinstance(value, slice):
        return {"slice": [encode(part) for part in (value.start, value.stop, value.step)]}
    for name, kind in _NAMED.items():
        if isinstance(value, kind):
            return {name: str(value).removeprefix("torch.")}
    raise PlanError(f"a plan cannot hold a {type(value).__name__} ({value!r:.60})")


def decode(
    data: Any,
    *,
    node: Callable[[str], Any] | None = None,
    tensor: Callable[[TensorSpec], Any] = lambda spec: spec,
) -> Any:
    """Read a value back.

    Args:
        data: what `encode` wrote.
        node: gives the node of a name; raises a `KeyError` for an unknown one.
        tensor: makes what stands for a tensor.

    Raises:
        PlanError: this is none of the forms above.
    """

    def inner(data: Any) -> Any:
        return decode(data, node=node, tensor=tensor)

    if data is None or isinstance(data, (bool, int, float, str)):
        return data
    if isinstance(data, list):
        return [inner(item) for item in data]
    if not isinstance(data, dict) or len(data) != 1:
        raise PlanError(f"a plan cannot hold the value {data!r:.60}")
    [(kind, content)] = data.items()
    if kind == "node" and node is not None and isinstance(content, str):
        return node(content)
    try:
        match kind:
            case "real" if content in ("inf", "-inf", "nan"):
                return float(content)
            case "complex":
                real, imaginary = content
                return complex(float(real), float(imaginary))
            case "ellipsis":
                return Ellipsis
            case "tensor":
                return tensor(spec_from(content))
            case "tuple":
                return tuple(inner(item) for item in content)
            case "dict":
                return {inner(key): inner(item) for key, item in content}
            case "slice":
                start, stop, step = content
                return slice(inner(start), inner(stop), inner(step))
            case "dtype" | "layout" | "memory_format":
                found = getattr(torch, content)
                if isinstance(found, _NAMED[kind]):
                    return found
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        if isinstance(error, PlanError):
            raise
        raise PlanError(f"a plan cannot hold the value {data!r:.60}: {error}") from None
    raise PlanError(f"a plan cannot hold the value {data!r:.60}")


def spec_data(spec: TensorSpec) -> dict[str, Any]:
    """Write a tensor's description as plain data."""
    data: dict[str, Any] = {"shape": list(spec.shape), "dtype": spec.dtype}
    return {**data, "requires_grad": True} if spec.requires_grad else data


def spec_from(data: Any) -> TensorSpec:
    """Read a tensor's description.

    Raises:
        PlanError: it is none.
    """
    shape, name = data.get("shape"), data.get("dtype")
    dtype = getattr(torch, name, None) if isinstance(name, str) else None
    sizes_are_good = isinstance(shape, list) and all(
        type(size) is int and size >= 0 for size in shape
    )
    extra = set(data) - {"shape", "dtype", "requires_grad"}
    if not sizes_are_good or not isinstance(dtype, torch.dtype) or extra:
        raise PlanError(f"a plan cannot hold the tensor {data!r:.60}")
    shape = tuple(shape)
    requires_grad = data.get("requires_grad", False) is True
    return TensorSpec(shape, name, math.prod(shape) * dtype.itemsize, requires_grad)
