"""`CostGraph`: what each node and each tensor costs. Knows networkx, never torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import networkx as nx


@dataclass(frozen=True, slots=True)
class NodeCost:
    """One node's time and what it is.

    Attributes:
        operator: for people, such as `"Linear"` or `"log_softmax"`.
        module_path: qualified name of the module that made it.
        forward_seconds: by device name; a device that cannot run the node is absent.
        backward_seconds: by device name; zeros in inference.
        flops: of the forward, all operators together.
    """

    operator: str
    module_path: str
    forward_seconds: Mapping[str, float]
    backward_seconds: Mapping[str, float]
    flops: int = 0


@dataclass(frozen=True, slots=True)
class TensorCost:
    """The value of one node, as something to move.

    Attributes:
        nbytes: that a move to another device carries in the forward.
        gradient_nbytes: that the backward carries back; 0 where no gradient flows.
    """

    nbytes: int
    gradient_nbytes: int = 0


@dataclass(frozen=True, slots=True)
class Holding:
    """Bytes that stay on a device for a while.

    A device holds `nbytes` at every program point from `first` to `last` (inclusive) when any of
    `nodes` is placed there. Program points: `0 .. n-1` the forward of `order[i]`; in training
    `n .. 2n-1` the backward of `order[2n-1-i]`, and `2n` the optimizer's step.

    Attributes:
        role: `"parameters"`, `"gradients"`, `"optimizer"`, `"activations"` or `"workspace"`
            (buffers and constants count as parameters).
        what: for people: the parameter's or the node's name.
    """

    nodes: tuple[str, ...]
    nbytes: int
    first: int
    last: int
    role: str
    what: str


@dataclass(frozen=True)
class CostGraph:
    """The annotated graph.

    Attributes:
        graph: a DAG over node names; an edge `u -> v` means that `v` reads `u`'s value. Node
            attribute `cost` is a `NodeCost`, and `tensor` a `TensorCost`.
        order: node names in execution order (a topological order); placeholders included,
            `output` not.
        devices: device names, in the cluster's order.
        holdings: what takes memory, and when.
        points: how many program points there are.
        colocated: groups of nodes that must share a device.
        unpriced: operators that have no FLOP formula, were not measured, and were charged by bytes
            alone.
        owners: where each parameter, buffer and constant lives: the nodes that own it, by every
            name it has. (`holdings` have the name of one of those that they sum up.)
    """

    graph: nx.DiGraph[str]
    order: tuple[str, ...]
    devices: tuple[str, ...]
    holdings: tuple[Holding, ...]
    points: int
    colocated: tuple[tuple[str, ...], ...] = ()
    unpriced: tuple[str, ...] = ()
    owners: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def cost(self, node: str) -> NodeCost:
        """The time that `node` takes."""
        cost: NodeCost = self.graph.nodes[node]["cost"]
        return cost

    def tensor(self, node: str) -> TensorCost:
        """What moving `node`'s value costs."""
        tensor: TensorCost = self.graph.nodes[node]["tensor"]
        return tensor
