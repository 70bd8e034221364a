"""`Captured` in, `CostGraph` out: what each node and tensor costs, and what is held how long."""

from partitioner.graph.annotate import annotate, price
from partitioner.graph.cost_graph import CostGraph, Holding, NodeCost, TensorCost
from partitioner.graph.loss import LOSSES, OUTPUT_LOSS, Loss, loss_of, output_tensors, training_loss
from partitioner.graph.optimizer_state import (
    OPTIMIZERS,
    OptimizerMemory,
    optimizer_factory,
    optimizer_memory,
)
from partitioner.graph.parameter_gradients import WEIGHT_SHARE, Meetings, weighted_nodes
from partitioner.graph.rehearsal import Rehearsals
from partitioner.graph.stages import (
    StagePart,
    movable,
    split_stages,
    stage_units,
    tied_parameters,
    wire_specs,
)

__all__ = [
    "LOSSES",
    "OPTIMIZERS",
    "OUTPUT_LOSS",
    "WEIGHT_SHARE",
    "CostGraph",
    "Holding",
    "Loss",
    "Meetings",
    "NodeCost",
    "OptimizerMemory",
    "Rehearsals",
    "StagePart",
    "TensorCost",
    "annotate",
    "loss_of",
    "movable",
    "optimizer_factory",
    "optimizer_memory",
    "output_tensors",
    "price",
    "split_stages",
    "stage_units",
    "tied_parameters",
    "training_loss",
    "weighted_nodes",
    "wire_specs",
]
