"""`Captured` in, `CostGraph` out: what each node and tensor costs, and what is held how long."""

from partitioner.graph.annotate import annotate
from partitioner.graph.cost_graph import CostGraph, Holding, NodeCost, TensorCost
from partitioner.graph.loss import output_tensors, training_loss
from partitioner.graph.optimizer_state import (
    OPTIMIZERS,
    OptimizerMemory,
    optimizer_factory,
    optimizer_memory,
)

__all__ = [
    "OPTIMIZERS",
    "CostGraph",
    "Holding",
    "NodeCost",
    "OptimizerMemory",
    "TensorCost",
    "annotate",
    "optimizer_factory",
    "optimizer_memory",
    "output_tensors",
    "training_loss",
]
