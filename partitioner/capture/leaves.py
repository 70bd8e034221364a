"""Which modules are recorded as one call."""

from __future__ import annotations

from typing import Any

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


def hooked(model: nn.Module) -> dict[str, str]:
    """The modules below a model that would be recorded through but for their hooks, with why not.

    A hook may do what no graph shows (count, print, keep), so its module is called whole. Those by
    which transformers collects what it returns are part of the model.
    """
    return {
        path: "it has hooks"
        for path, module in model.named_modules()
        if path and not is_leaf(module) and _has_hooks(module)
    }


def _has_hooks(module: nn.Module) -> bool:
    return any(
        not collects_results(hook)
        for hooks in (
            module._forward_hooks,
            module._forward_pre_hooks,
            module._backward_hooks,
            module._backward_pre_hooks,
        )
        for hook in hooks.values()
    )


def collects_results(hook: Any) -> bool:
    """Whether a hook is one by which transformers collects what a model returns."""
    return getattr(hook, "__module__", "") == "transformers.utils.output_capturing"


def class_name(cls: type) -> str:
    """The class's qualified name, with its module's."""
    return f"{cls.__module__}.{cls.__qualname__}"
