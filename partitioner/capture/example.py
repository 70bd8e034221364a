"""`example_call`: the call to record, as the user gives, the model offers or its layers fix it."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from partitioner.capture.quiet import quiet
from partitioner.capture.record import runs
from partitioner.errors import CaptureError

Call = tuple[tuple[Any, ...], dict[str, Any]]

BATCH = 8
SEQUENCE = 16
IMAGE_SIZES = (224, 64, 32, 28, 128, 256)
"""Heights and widths that are tried where the first layer is a convolution."""
VOLUME_SIZES = (32, 16, 64)
"""Sizes that are tried where it is a convolution over volumes."""
FIRST_LAYERS = 4
"""How many layers are taken for the first one, in order of registration."""


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
    for call in (*map(_call_of, _offered(model)), *_guesses(model)):
        if _runs(model, call):
            return call
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


def _guesses(model: nn.Module) -> Iterator[Call]:
    """Calls that fit the model's configuration or its first layers, likeliest first."""
    config = getattr(model, "config", None)
    if getattr(model, "main_input_name", None) == "pixel_values" and config is not None:
        channels, size = getattr(config, "num_channels", 3), getattr(config, "image_size", 224)
        height, width = size if isinstance(size, (tuple, list)) else (size, size)
        yield (), {"pixel_values": torch.zeros(BATCH, channels, height, width)}
    parameters = inspect.signature(model.forward).parameters.values()
    needed = [p for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    if len(needed) > 1:
        return
    layers = (layer for layer in model.modules() if isinstance(layer, _TELLING))
    for layer in itertools.islice(layers, FIRST_LAYERS):
        dtype = next((p.dtype for p in layer.parameters()), torch.float32)
        for sizes in _sizes(layer):
            yield (torch.zeros(sizes, dtype=dtype),), {}
        if isinstance(layer, (nn.Embedding, nn.EmbeddingBag)):
            tables = [each for each in model.modules() if isinstance(each, nn.Embedding)]
            length = min([SEQUENCE, *(each.num_embeddings for each in tables)])
            yield (torch.zeros(BATCH, length, dtype=torch.int64),), {}
            yield (torch.zeros(BATCH, dtype=torch.int64),), {}


_TELLING = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.Embedding,
    nn.EmbeddingBag,
    nn.RNNBase,
    nn.MultiheadAttention,
    nn.TransformerEncoderLayer,
    nn.LayerNorm,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
)


def _sizes(layer: nn.Module) -> Iterator[tuple[int, ...]]:
    """Sizes of a batch that a layer takes."""
    match layer:
        case nn.Linear():
            yield BATCH, layer.in_features
            yield BATCH, SEQUENCE, layer.in_features
        case nn.Conv1d() | nn.Conv2d() | nn.Conv3d():
            dimensions = len(layer.kernel_size)
            sizes = VOLUME_SIZES if dimensions == 3 else IMAGE_SIZES
            for size in sizes:
                yield BATCH, layer.in_channels, *[size] * dimensions
        case nn.RNNBase():
            outer = (BATCH, SEQUENCE) if layer.batch_first else (SEQUENCE, BATCH)
            yield *outer, layer.input_size
        case nn.MultiheadAttention() | nn.TransformerEncoderLayer():
            attention = layer if isinstance(layer, nn.MultiheadAttention) else layer.self_attn
            outer = (BATCH, SEQUENCE) if attention.batch_first else (SEQUENCE, BATCH)
            yield *outer, attention.embed_dim
        case nn.LayerNorm():
            yield BATCH, *layer.normalized_shape
            yield BATCH, SEQUENCE, *layer.normalized_shape
        case nn.BatchNorm1d():
            yield BATCH, layer.num_features
        case nn.BatchNorm2d():
            for size in IMAGE_SIZES:
                yield BATCH, layer.num_features, size, size


def _runs(model: nn.Module, call: Call) -> bool:
    """Whether the model runs on such inputs, as a copy on fake tensors."""
    with quiet():
        return runs(model, *call)
