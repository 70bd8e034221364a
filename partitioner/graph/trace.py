"""What one rehearsed step leaves behind: operators by node, storages by point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cost_models import OperatorCall
from partitioner.graph.ledger import Life, StorageLedger


@dataclass(slots=True)
class NodeTrace:
    """What one node did.

    Attributes:
        forward: operators that its forward called.
        backward: operators that its backward called.
        recomputed: operators of its forward that run once more in the backward, since the model
            checkpoints activations.
        values: the storages of its value.
        nbytes: elements of its value.
        gradient_nbytes: elements of its value that have a gradient.
    """

    forward: list[OperatorCall] = field(default_factory=list)
    backward: list[OperatorCall] = field(default_factory=list)
    recomputed: list[OperatorCall] = field(default_factory=list)
    values: list[Life] = field(default_factory=list)
    nbytes: int = 0
    gradient_nbytes: int = 0


@dataclass(frozen=True, slots=True)
class GradientFlow:
    """A gradient that the backward of one node hands to that of another.

    Attributes:
        source: index of the node whose backward made it or passes it on.
        destination: index of the node that it is for.
        elements: which elements of the storage: `(offset, sizes, strides)`.
        nbytes: of these elements.
    """

    source: int
    destination: int
    elements: tuple[Any, ...]
    nbytes: int


@dataclass(frozen=True)
class Rehearsal:
    """A step, written down.

    Attributes:
        order: node names, `output` left out.
        nodes: by position in `order`.
        ledger: every storage's life.
        results: storages that the model returns.
        loss: its storage, in training.
        gradients: by parameter name, the storage of its gradient.
        flows: by storage, the gradients in it that go from node to node.
        points: how many program points there are.
    """

    order: tuple[str, ...]
    nodes: tuple[NodeTrace, ...]
    ledger: StorageLedger
    results: tuple[Life, ...]
    loss: Life | None
    gradients: Mapping[str, Life]
    flows: Mapping[Life, Sequence[GradientFlow]]
    points: int
