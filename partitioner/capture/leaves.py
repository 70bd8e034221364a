"""Which modules are recorded as one call."""

from __future__ import annotations

from torch import nn
from torch.nn.utils import parametrize

_RECORDED_THROUGH = (
    nn.Sequential,
    nn.ModuleList,
    nn.ModuleDict,
    nn.Transformer,
    nn.TransformerEncoder,
    nn.TransformerDecoder,
    nn.TransformerEncoderLayer,
    nn.TransformerDecoderLayer,
)

# Layers that other libraries define as PyTorch would, by qualified class name.
_LAYERS_ELSEWHERE = frozenset({"transformers.pytorch_utils.Conv1D"})


def is_leaf(module: nn.Module) -> bool:
    """Whether calls of this module are one node: the layers of `torch.nn`, and their like."""
    if isinstance(module, _RECORDED_THROUGH):
        return False
    cls = (
        parametrize.type_before_parametrizations(module)
        if parametrize.is_parametrized(module)
        else type(module)
    )
    return cls.__module__.startswith("torch.nn.") or class_name(cls) in _LAYERS_ELSEWHERE


def class_name(cls: type) -> str:
    """The class's qualified name, with its module's."""
    return f"{cls.__module__}.{cls.__qualname__}"
