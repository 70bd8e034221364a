"""What recording writes down while it runs, and why it stops."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx, nn

from partitioner.capture.captured import NodeInfo, TensorSpec
from partitioner.capture.devices import DeviceUse
from partitioner.errors import CaptureError


class OpaqueNeededError(BaseException):
    """A module cannot be recorded through: it is to be a leaf, and recording starts again.

    Not an `Exception`, so that no model swallows it.

    Attributes:
        path: of the module.
        reason: why.
        error: what to raise if calling the module as a whole does not work either.
    """

    def __init__(self, path: str, reason: str, error: CaptureError | None = None) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason
        self.error = error


class HooksLostError(BaseException):
    """A module with hooks cannot be called whole: it is recorded through, and its hooks do not run.

    Attributes:
        path: of the module.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path


class InexpressibleError(Exception):
    """A value has no place in a graph."""


@dataclass(slots=True)
class Frame:
    """A module call that is being recorded through."""

    path: str
    module: nn.Module
    start: int
    hooks: object
    args: Any = None
    kwargs: Any = None
    expressible: bool = True
    literal_device: bool = False
    result: Any = None
    stop: int = 0


@dataclass(slots=True)
class Recording:
    """What one run left behind, before it is put in order.

    Attributes:
        graph: all recorded nodes, with no `output` yet.
        infos: by node.
        calls: of modules that were recorded through, in order of their beginning.
        sequence: all nodes in order, those included that are dropped later.
        leaf_state: by leaf call, `{name inside the module: canonical name}`.
        leaf_mutates: by leaf call, canonical names of the state that it changed.
        storages: by storage, its nodes in order; `mutated` holds those changed in place.
        leaf_specs: by canonical name, the state of leaf calls.
        state_nodes: by canonical name, the `get_attr` nodes.
        follows: by factory call, how its device was named.
        flags: by node, the path of the module whose code made it, and that module's flag.
        constants: real tensors that belong to no module, by the name of their `get_attr`.
        checkpointed: paths of the modules that were called under activation checkpointing.
        failed_at: the innermost module that an exception came out of.
        failed_whole: the innermost one around it that can be a leaf.
    """

    graph: fx.Graph
    infos: dict[fx.Node, NodeInfo] = field(default_factory=dict)
    sequence: list[fx.Node] = field(default_factory=list)
    leaf_specs: dict[str, TensorSpec] = field(default_factory=dict)
    checkpointed: dict[str, None] = field(default_factory=dict)
    calls: list[Frame] = field(default_factory=list)
    leaf_state: dict[fx.Node, dict[str, str]] = field(default_factory=dict)
    leaf_mutates: dict[fx.Node, list[str]] = field(default_factory=dict)
    storages: dict[int, list[fx.Node]] = field(default_factory=dict)
    mutated: dict[int, None] = field(default_factory=dict)
    state_nodes: dict[str, fx.Node] = field(default_factory=dict)
    constants: dict[str, Tensor] = field(default_factory=dict)
    follows: dict[fx.Node, DeviceUse] = field(default_factory=dict)
    flags: dict[fx.Node, tuple[str, bool]] = field(default_factory=dict)
    failed_at: str | None = None
    failed_whole: str = ""
