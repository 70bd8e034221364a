"""`example_call`: the call to record, as the user gives, the model offers or its layers fix it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

from partitioner.capture.clone import fake_clone, fake_like
from partitioner.capture.quiet import quiet
from partitioner.errors import CaptureError

Call = tuple[tuple[Any, ...], dict[str, Any]]

BATCH = 8
SEQUENCE = 16
IMAGE_SIZES = (224, 64, 32, 28, 128, 256)
"""Heights and widths that are tried where the first layer is a convolution."""


def example_call(
    model: nn.Module, example_inputs: Any = None, example_kwargs: Mapping[str, Any] | None = None
) -> Call:
    """The positional and keyword arguments to record `model` with.

    Args:
        model: any module.
        example_inputs: a tensor, a tuple or list of positional arguments, or a dict of keyword
            arguments. `None` takes the model's own `dummy_inputs` (Hugging Face) or
            `example_input_array` (Lightning), else what its first layer fixes, tried out on fake
            tensors.
        example_kwargs: further keyword arguments.

    Raises:
        CaptureError: nothing was given, and nothing tells what the model takes.
    """
    kwargs = dict(example_kwargs or {})
    if example_inputs is not None:
        args, named = _call_of(example_inputs)
        twice = sorted(set(named) & set(kwargs))
        if twice:
            raise CaptureError(f"the input '{twice[0]}' is in example_inputs and in example_kwargs")
        return args, {**named, **kwargs}
    if kwargs:
        return (), kwargs
    for offered in _offered(model):
        return _call_of(offered)
    for guess in _guesses(model):
        if _runs(model, guess):
            return (guess,), {}
    raise CaptureError(
        f"what {type(model).__name__} takes cannot be told from its layers: pass example_inputs, a "
        f"tensor, tuple or dict that fits forward{inspect.signature(model.forward)}, such as "
        "torch.empty(8, 784, device='meta'); only sizes and types matter"
    )


def _call_of(inputs: Any) -> Call:
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    if isinstance(inputs, tuple | list) and not hasattr(inputs, "_fields"):
        return tuple(inputs), {}
    return (inputs,), {}


def _offered(model: nn.Module) -> Iterator[Any]:
    """What the model itself says that it takes."""
    for name in ("example_input_array", "dummy_inputs"):
        try:
            with quiet():
                offered = getattr(model, name, None)
        except Exception:
            continue
        if offered is not None:
            yield offered


def _guesses(model: nn.Module) -> Iterator[Tensor]:
    """Inputs that fit the first layer, likeliest first."""
    for layer in model.modules():
        match layer:
            case nn.Linear():
                yield torch.empty(BATCH, layer.in_features, device="meta")
                yield torch.empty(BATCH, SEQUENCE, layer.in_features, device="meta")
            case nn.Conv1d():
                for size in IMAGE_SIZES:
                    yield torch.empty(BATCH, layer.in_channels, size, device="meta")
            case nn.Conv2d():
                for size in IMAGE_SIZES:
                    yield torch.empty(BATCH, layer.in_channels, size, size, device="meta")
            case nn.Conv3d():
                for size in (16, 32, 64):
                    yield torch.empty(BATCH, layer.in_channels, size, size, size, device="meta")
            case nn.Embedding() | nn.EmbeddingBag():
                yield torch.empty(BATCH, SEQUENCE, dtype=torch.int64, device="meta")
            case nn.RNNBase():
                sizes = (BATCH, SEQUENCE) if layer.batch_first else (SEQUENCE, BATCH)
                yield torch.empty(*sizes, layer.input_size, device="meta")
            case nn.TransformerEncoderLayer() | nn.MultiheadAttention():
                attention = layer if isinstance(layer, nn.MultiheadAttention) else layer.self_attn
                yield torch.empty(SEQUENCE, BATCH, attention.embed_dim, device="meta")
            case _:
                continue
        return


def _runs(model: nn.Module, guess: Tensor) -> bool:
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    clone, fake = fake_clone(model, mode), fake_like(guess, mode)
    try:
        with quiet(), mode, torch.no_grad():
            result = clone(fake)
    except Exception:
        return False
    return any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(result))
