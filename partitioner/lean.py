"""The same model, leaner: activations made again in the backward, or tensors of half the size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import checkpoint

from partitioner.capture import clone
from partitioner.errors import SpecError
from partitioner.spec import hint

Call = tuple[tuple[Any, ...], dict[str, Any]]


def checkpointed(model: nn.Module, *patterns: str) -> nn.Module:
    """A copy of `model` whose modules of these paths run under `torch.utils.checkpoint`.

    The copy shares the tensors of `model`, and has its names, its `state_dict` and its outputs.

    Args:
        model: any module; never modified.
        patterns: globs on module paths, such as `"model.layers.*"`, where `*` stands for one name.
            Of modules within each other, the outermost is taken.

    Raises:
        SpecError: a pattern matches no module.
    """
    copy = clone(model, lambda tensor, _: tensor)
    paths = [path for path, _ in copy.named_modules() if path]
    chosen: list[str] = []
    for pattern in patterns:
        found = [path for path in paths if _matches(path, pattern)]
        if not found:
            raise SpecError(f"'{pattern}' matches no module; {hint(pattern, paths)}")
        chosen += found
    for path in chosen:
        if not any(path.startswith(f"{outer}.") for outer in chosen):
            module = copy.get_submodule(path)
            module.__class__ = _checkpointing(type(module))
    return copy


def _matches(path: str, pattern: str) -> bool:
    steps, globs = path.split("."), pattern.split(".")
    return len(steps) == len(globs) and all(map(fnmatchcase, steps, globs))


def _checkpointing(kind: type[nn.Module]) -> type[nn.Module]:
    """A class that is `kind` in all but how it is called."""

    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if not self.training:
            return kind.__call__(self, *args, **kwargs)
        return checkpoint(partial(kind.__call__, self), *args, use_reentrant=False, **kwargs)

    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__call__": call}
    return type(kind.__name__, (kind,), names)


def repeated_blocks(model: nn.Module) -> tuple[str, ...]:
    """Patterns of the modules that repeat: lists of modules of one class, the outermost ones."""
    found: list[str] = []
    for path, module in model.named_modules():
        children = list(module.children())
        if (
            isinstance(module, nn.ModuleList | nn.Sequential)
            and len(children) > 1
            and max(Counter(map(type, children)).values()) == len(children)
            and any(True for _ in module.parameters())
            and not any(_matches_below(path, pattern) for pattern in found)
        ):
            found.append(f"{path}.*" if path else "*")
    return tuple(found)


def _matches_below(path: str, pattern: str) -> bool:
    """Whether a path is within modules that a pattern matches."""
    count = pattern.count(".") + 1
    steps = path.split(".")
    return len(steps) >= count and _matches(".".join(steps[:count]), pattern)


def in_dtype(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy of `model` without data whose floating parameters and buffers are of `dtype`.

    It has the sizes and types of `model.to(dtype)`, and takes no memory.
    """
    state = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}

    def replaced(tensor: Tensor, _: str) -> Tensor:
        if id(tensor) not in state or not tensor.is_floating_point():
            return tensor
        made = torch.empty_like(tensor, dtype=dtype, device="meta")
        if isinstance(tensor, nn.Parameter):
            return nn.Parameter(made, requires_grad=tensor.requires_grad)
        return made

    return clone(model, replaced)


def call_in_dtype(call: Call, dtype: torch.dtype) -> Call:
    """The call with floating inputs of `dtype`."""

    def replaced(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        return torch.empty_like(tensor, dtype=dtype, device="meta")

    args, kwargs = pytree.tree_map_only(Tensor, replaced, call)
    return args, kwargs


def batch_of(call: Call) -> int | None:
    """The leading size that the inputs have in common; `None` where there is none."""
    tensors = [leaf for leaf in pytree.tree_leaves(call) if isinstance(leaf, Tensor) and leaf.dim()]
    sizes = {tensor.shape[0] for tensor in tensors}
    return sizes.pop() if len(sizes) == 1 else None


def with_batch(call: Call, batch: int) -> Call:
    """The call with another leading size of every input."""

    def cut(tensor: Tensor) -> Tensor:
        if not tensor.dim():
            return tensor
        return torch.empty(
            (batch, *tensor.shape[1:]),
            dtype=tensor.dtype,
            device="meta",
            requires_grad=tensor.requires_grad,
        )

    args, kwargs = pytree.tree_map_only(Tensor, cut, call)
    return args, kwargs


def halvings(batch: int) -> Sequence[int]:
    """Smaller batches, each half of the one before."""
    found = []
    while batch > 1:
        batch //= 2
        found.append(batch)
    return found
