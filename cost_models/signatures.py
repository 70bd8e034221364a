"""Operator calls as text: `signature_of` writes one, `rebuild` makes arguments from it again."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

import torch

from cost_models.errors import CostModelError
from cost_models.kernels import overload_of


def element_key(tensor: torch.Tensor) -> tuple[Any, ...]:
    """Equal for tensors that are the same elements of one storage."""
    if tensor.layout != torch.strided:
        return (storage_key(tensor),)
    return (storage_key(tensor), tensor.storage_offset(), tensor.size(), tensor.stride())


def storage_key(tensor: torch.Tensor) -> int:
    """Equal for tensors that share a storage."""
    if tensor.layout != torch.strided:
        return id(tensor)
    return int(tensor.untyped_storage()._cdata)


def dtype_name(dtype: torch.dtype) -> str:
    """The name after `torch.`, such as `"float32"`."""
    return str(dtype).removeprefix("torch.")


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """The tensors of nested tuples, lists and dicts, in order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for entry in value:
            yield from tensors_in(entry)
    elif isinstance(value, dict):
        for entry in value.values():
            yield from tensors_in(entry)


def signature_of(func: Any, args: Any, kwargs: Any) -> str:
    """One text for the operator, the shapes, dtypes and strides of its tensors, and the rest.

    A tensor reads `float32[4, 8]`, one that is not contiguous `float32[4, 8](1, 4)` with its
    strides, and one that was an argument before `same(0)`, by its place among the tensors. The text
    is a Python expression, which `rebuild` reads.
    """
    seen: dict[tuple[Any, ...], int] = {}
    parts = [_spell(arg, seen) for arg in args]
    parts += [f"{name}={_spell(value, seen)}" for name, value in sorted(kwargs.items())]
    return f"{func}({', '.join(parts)})"


def _spell(value: Any, seen: dict[tuple[Any, ...], int]) -> str:
    if isinstance(value, torch.Tensor):
        key = element_key(value)
        if key in seen:
            return f"same({seen[key]})"
        seen[key] = len(seen)
        dtype, shape = dtype_name(value.dtype), tuple(int(size) for size in value.shape)
        text = f"{dtype}[{', '.join(map(str, shape)) or '()'}]"
        if value.layout == torch.strided and not value.is_contiguous():
            text += f"({', '.join(str(int(stride)) for stride in value.stride())})"
        return text
    if isinstance(value, tuple | list):
        return f"[{', '.join(_spell(entry, seen) for entry in value)}]"
    if isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
        return str(value)
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return f"number('{value}')"
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    if isinstance(value, complex):
        return f"number('{value}')"
    return f"{type(value).__name__}('{value}')"


_TRUSTS_ITS_ARGUMENTS = ("rnn", "embedding_bag", "packed", "ctc_loss", "nested", "sparse")
"""Parts of names of operators that read past their tensors, or crash, when what was computed
before (workspaces, offsets, lengths) is not as they left it."""
_COMPLETED = ("aten.mkldnn_rnn_layer.default", "aten.mkldnn_rnn_layer_backward.default")
"""Operators of that kind for which `rebuild` knows what is to be computed before."""


def rebuild(
    signature: str, device: torch.device | str
) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """The operator of a signature and real arguments for it: `(overload, args, kwargs)`.

    Floating tensors hold random numbers near 0; integers hold zeros, except that the indices of
    an embedding or of a class run over what they index, so that they are valid and spread.

    Raises:
        CostModelError: the text is no signature, or names an operator that is not there.
    """
    try:
        tree = ast.parse(signature, mode="eval").body
        if not isinstance(tree, ast.Call):
            raise CostModelError(f"{signature!r} is no operator call")
        overload = overload_of(ast.unparse(tree.func))
        if not isinstance(overload, torch._ops.OpOverload):
            raise CostModelError(f"{signature!r} names an operator that this PyTorch has not")
        trusting = any(part in str(overload) for part in _TRUSTS_ITS_ARGUMENTS)
        if trusting and str(overload) not in _COMPLETED:
            raise CostModelError(f"'{overload}' cannot be called with made-up arguments")
        tensors: list[torch.Tensor] = []
        args = tuple(_build(arg, tensors, device) for arg in tree.args)
        kwargs = {str(word.arg): _build(word.value, tensors, device) for word in tree.keywords}
    except (SyntaxError, ValueError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        if isinstance(error, CostModelError):
            raise
        raise CostModelError(f"{signature!r} cannot be rebuilt: {error}") from error
    _spread_indices(str(overload._overloadpacket), tensors)
    if str(overload) == "aten.mkldnn_rnn_layer_backward.default":
        args = _after_forward(args)
    return overload, args, kwargs


def _after_forward(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments for the backward of a recurrent layer, with the workspace of its forward."""
    (reverse, mode, hidden_size, layers, has_biases, train, bidirectional, batch_sizes, first) = (
        args[13:22]
    )
    flags = (reverse, batch_sizes, mode, hidden_size, layers, has_biases, bidirectional, first)
    output, hy, cy, workspace = torch.ops.aten.mkldnn_rnn_layer(*args[:7], *flags, train)
    return (*args[:7], output, hy, cy, *args[10:22], workspace)


def _build(tree: ast.expr, tensors: list[torch.Tensor], device: torch.device | str) -> Any:
    match tree:
        case ast.List(elts=entries):
            return [_build(entry, tensors, device) for entry in entries]
        case ast.Subscript(value=ast.Name(id=dtype)):
            return _tensor(dtype, ast.literal_eval(tree.slice), None, tensors, device)
        case ast.Call(func=ast.Subscript(value=ast.Name(id=dtype), slice=shape), args=strides):
            return _tensor(
                dtype,
                ast.literal_eval(shape),
                tuple(ast.literal_eval(stride) for stride in strides),
                tensors,
                device,
            )
        case ast.Call(func=ast.Name(id="same"), args=[ast.Constant(value=int(place))]):
            return tensors[place]
        case ast.Call(func=ast.Name(id="number"), args=[ast.Constant(value=str(text))]):
            return complex(text) if "j" in text else float(text)
        case ast.Call(func=ast.Name(id="dtype" | "layout" | "memory_format"), args=[what]):
            return getattr(torch, str(ast.literal_eval(what)).removeprefix("torch."))
        case ast.Call(func=ast.Name(id="device")):
            return torch.device(device)
        case _:
            return ast.literal_eval(tree)


def _tensor(
    dtype: str,
    shape: Any,
    strides: tuple[int, ...] | None,
    tensors: list[torch.Tensor],
    device: torch.device | str,
) -> torch.Tensor:
    sizes = shape if isinstance(shape, tuple) else (shape,)
    kind = getattr(torch, dtype)
    if strides is None:
        made = torch.zeros(sizes, dtype=kind, device=device)
    else:
        made = torch.empty_strided(sizes, strides, dtype=kind, device=device).zero_()
    if kind.is_floating_point and kind.itemsize > 1 and 0 not in (strides or ()):
        made.normal_(std=0.1)
    tensors.append(made)
    return made


def _spread_indices(packet: str, tensors: list[torch.Tensor]) -> None:
    """Let indices run over what they index, where the operator says what that is."""
    if packet == "aten.embedding" and len(tensors) == 2:
        _fill_range(tensors[1], tensors[0].shape[0])
    elif packet in ("aten.nll_loss_forward", "aten.nll_loss_backward"):
        for tensor in tensors:
            if not tensor.is_floating_point() and tensor.dim() == 1:
                _fill_range(tensor, next(t for t in tensors if t.dim() == 2).shape[1])


def _fill_range(indices: torch.Tensor, limit: int) -> None:
    steps = torch.arange(indices.numel(), device=indices.device, dtype=torch.int64)
    indices.copy_(((steps * 7919) % max(limit, 1)).view(indices.shape))
