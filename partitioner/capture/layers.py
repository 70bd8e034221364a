"""How the layers of a model were made, and small tensors as text: what a source text needs."""

from __future__ import annotations

import base64
import inspect
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.utils import parametrize

from partitioner.capture.clone import joined, named_tensors
from partitioner.capture.leaves import class_name

LARGEST_NBYTES = 64 << 20
"""Tensors with more bytes are not looked at."""
LARGEST_TEXT = 256 << 10
"""Characters that a tensor's data may take in a document."""

_PLAIN = (type(None), bool, int, float, str)
_NOT_ARGUMENTS = frozenset({"self", "device", "dtype"})


@dataclass(frozen=True, slots=True)
class Layer:
    """A leaf module, as a call of its class.

    Attributes:
        kind: qualified name of the class.
        arguments: of its constructor, those that are not the default; plain numbers, texts, flags
            and tuples of them. Those that have no default come first, in their order.
        required: how many of `arguments` have no default.
        layers: of an `nn.Sequential`, its layers by name.
        training: its own flag, in the mode that was recorded.
        obstacle: why it cannot be made like this; empty if it can.
    """

    kind: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    required: int = 0
    layers: tuple[tuple[str, Layer], ...] = ()
    training: bool = True
    obstacle: str = ""


@dataclass(frozen=True, slots=True)
class TensorValue:
    """A small tensor's data, as text.

    Attributes:
        shape: sizes.
        dtype: the name after `torch.`.
        data: its elements' bytes in order, compressed by zlib, in base64.
    """

    shape: tuple[int, ...]
    dtype: str
    data: str

    @classmethod
    def of(cls, tensor: torch.Tensor) -> TensorValue | None:
        """The data of a tensor; `None` where it has none, or too much to be written down."""
        if tensor.is_meta or isinstance(tensor, FakeTensor) or tensor.layout is not torch.strided:
            return None
        nbytes = tensor.numel() * tensor.dtype.itemsize
        if nbytes > LARGEST_NBYTES or tensor.is_quantized:
            return None
        flat = tensor.detach().to("cpu").contiguous().reshape(-1)
        raw = flat.view(torch.uint8).numpy().tobytes() if nbytes else b""
        data = base64.b64encode(zlib.compress(raw, 9)).decode("ascii")
        if len(data) > LARGEST_TEXT:
            return None
        return cls(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), data)


def layers_of(model: nn.Module, paths: Iterable[str], *, training: bool) -> dict[str, Layer]:
    """Describe the modules at some paths of a model, as they are in a mode of the whole."""
    layers = {path: layer_of(model.get_submodule(path)) for path in dict.fromkeys(paths)}
    if model.training == training:
        return layers
    return {path: _switched(layer, training) for path, layer in layers.items()}


def _switched(layer: Layer, training: bool) -> Layer:
    """The layer after `model.train(training)`."""
    inner = tuple((name, _switched(each, training)) for name, each in layer.layers)
    return replace(layer, training=training, layers=inner)


def volatile_names(model: nn.Module) -> tuple[str, ...]:
    """Names of the buffers that are not in the model's `state_dict`."""
    return tuple(
        joined(path, name)
        for path, module in model.named_modules(remove_duplicate=False)
        for name in module._buffers
        if name in module._non_persistent_buffers_set
    )


def values_of(model: nn.Module, constants: Mapping[str, torch.Tensor]) -> dict[str, TensorValue]:
    """Data of the small tensors that are not in the model's `state_dict`, by canonical name.

    Args:
        model: with its data; what is on `meta` is left out.
        constants: further tensors, by name.
    """
    volatile = set(volatile_names(model))
    held = [*named_tensors(model)]
    tensors = {
        each.names[0]: each.tensor
        for each in held
        if each.role == "constant" or (each.role == "buffer" and each.names[0] in volatile)
    }
    values = {name: TensorValue.of(t) for name, t in {**tensors, **constants}.items()}
    return {name: value for name, value in values.items() if value is not None}


def layer_of(module: nn.Module) -> Layer:
    """Describe one module; the description is tried out, on `meta`."""
    kind = class_name(type(module))
    training = module.training
    if parametrize.is_parametrized(module):
        kind = class_name(parametrize.type_before_parametrizations(module))
        return Layer(kind, training=training, obstacle="its weights are parametrized")
    if type(module) is nn.Sequential:
        inner = tuple((name, layer_of(child)) for name, child in module.named_children())
        worst = next((layer.obstacle for _, layer in inner if layer.obstacle), "")
        return Layer(kind, layers=inner, training=training, obstacle=worst)
    if not type(module).__module__.startswith(("torch.nn.modules.", "transformers.pytorch_utils")):
        return Layer(kind, training=training, obstacle="its class is not one of torch.nn")
    arguments, required = _arguments(module, _short)
    obstacle = _tried(module, arguments)
    if obstacle:
        arguments, required = _arguments(module, _as_tuple)
        obstacle = _tried(module, arguments)
    if not obstacle:
        for name in list(arguments)[required:]:
            fewer = {key: value for key, value in arguments.items() if key != name}
            if not _tried(module, fewer):
                arguments = fewer
    return Layer(kind, arguments, required, training=training, obstacle=obstacle)


def _arguments(module: nn.Module, write: Callable[[Any], Any]) -> tuple[dict[str, Any], int]:
    parameters = inspect.signature(type(module).__init__).parameters
    if isinstance(module, nn.RNNBase):
        extra: dict[str, Any] = {"proj_size": 0} if isinstance(module, nn.LSTM) else {}
        extra = {"nonlinearity": "tanh"} if isinstance(module, nn.RNN) else extra
        defaults: dict[str, Any] = {
            "input_size": inspect.Parameter.empty,
            "hidden_size": inspect.Parameter.empty,
            "num_layers": 1,
            "bias": True,
            "batch_first": False,
            "dropout": 0.0,
            "bidirectional": False,
            **extra,
        }
    else:
        defaults = {
            name: parameter.default
            for name, parameter in parameters.items()
            if name not in _NOT_ARGUMENTS
            and not name.startswith("_")
            and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        }
    needed: dict[str, Any] = {}
    chosen: dict[str, Any] = {}
    for name, default in defaults.items():
        value = _attribute(module, name)
        if default is inspect.Parameter.empty:
            needed[name] = write(value)
        elif not _is_default(value, default):
            chosen[name] = write(value)
    return {**needed, **chosen}, len(needed)


def _attribute(module: nn.Module, name: str) -> Any:
    special = _SPECIAL.get((type(module).__name__, name))
    if special is not None:
        return special(module)
    value = getattr(module, name, None)
    if isinstance(value, torch.Tensor) or (name == "bias" and value is None):
        return value is not None
    return value


_SPECIAL: Mapping[tuple[str, str], Callable[[Any], Any]] = {
    ("MultiheadAttention", "bias"): lambda m: m.in_proj_bias is not None,
    ("MultiheadAttention", "add_bias_kv"): lambda m: m.bias_k is not None,
    ("MultiheadAttention", "kdim"): lambda m: None if m.kdim == m.embed_dim else m.kdim,
    ("MultiheadAttention", "vdim"): lambda m: None if m.vdim == m.embed_dim else m.vdim,
    ("PReLU", "init"): lambda m: 0.25,
}


def _short(value: Any) -> Any:
    """`3` for `(3, 3)`: layers take one number for all dimensions."""
    if isinstance(value, (tuple, list)):
        value = tuple(value)
        if value and all(type(part) is int and part == value[0] for part in value):
            return value[0]
    return value


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _is_default(value: Any, default: Any) -> bool:
    short = _short(value)
    return type(short) is type(default) and bool(short == default)


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(_is_plain(part) for part in value)
    return isinstance(value, _PLAIN)


def _tried(module: nn.Module, arguments: Mapping[str, Any]) -> str:
    """Make the module again without data and compare; tells what differs."""
    for name, value in arguments.items():
        if not _is_plain(value):
            return f"its argument '{name}' is a {type(value).__name__}"
    try:
        with torch.device("meta"):
            made = type(module)(**arguments)
    except Exception as error:
        return f"it cannot be made again: {error}"
    mine, theirs = module.state_dict(keep_vars=True), made.state_dict(keep_vars=True)
    if list(mine) != list(theirs):
        return "its parameters are other ones than its class makes"
    for name, tensor in mine.items():
        if tensor.shape != theirs[name].shape:
            return f"its '{name}' has another shape than its class makes"
    for name, value in vars(made).items():
        if _is_plain(value) and name != "training" and vars(module).get(name) != value:
            return f"its attribute '{name}' was changed"
    return ""
