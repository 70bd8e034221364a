"""Hooks on modules that a placed model takes apart: they do not run, and who adds one is told."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import nn

from partitioner.capture import Captured, collects_results
from partitioner.emit.forward import Forward

_KINDS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class _UnheardHooks(OrderedDict[int, Any]):
    """The hooks of a module that is never called; a new one is kept, with a warning."""

    path = ""

    def __setitem__(self, number: int, hook: Any) -> None:
        super().__setitem__(number, hook)
        if not collects_results(hook):
            warnings.warn(
                f"a hook on '{self.path}' does not run: the placed model calls the modules inside "
                "of it one by one; put the hook on one of those, or on the model",
                stacklevel=3,
            )


def warn_of_unheard_hooks(
    placed: nn.Module, recordings: Mapping[bool, Captured], forward: Forward
) -> None:
    """Have the modules that `forward` takes apart in all its modes warn of hooks put on them."""
    called = {
        str(node.target)
        for mode in forward.modes.values()
        for node in mode.graph.nodes
        if node.op == "call_module"
    }
    heard = {id(inner) for path in called for inner in placed.get_submodule(path).modules()}
    for path in {call.path: None for each in recordings.values() for call in each.calls}:
        module = placed.get_submodule(path)
        if path and id(module) not in heard:
            for kind in _KINDS:
                hooks = _UnheardHooks()
                hooks.path = path
                for number, hook in getattr(module, kind).items():
                    OrderedDict.__setitem__(hooks, number, hook)
                setattr(module, kind, hooks)
