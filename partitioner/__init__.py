"""A declarative graph-partitioning compiler for PyTorch.

In: a model, the devices there are and what is wanted. Out: the placed module, and a plan that says
how good it is.
"""

from partitioner.compiler import partition, plan
from partitioner.emit import PlacedModule
from partitioner.errors import (
    CaptureError,
    CheckpointError,
    InfeasibleError,
    PartitionerError,
    PlanError,
    SolverError,
    SpecError,
)
from partitioner.lean import checkpointed
from partitioner.plan import Plan
from partitioner.spec import Cluster, Colocate, Contiguous, Device, Link, Pin, Separate
from partitioner.sweep import sweep
from partitioner.virtual import virtual_gpus

__all__ = [
    "CaptureError",
    "CheckpointError",
    "Cluster",
    "Colocate",
    "Contiguous",
    "Device",
    "InfeasibleError",
    "Link",
    "PartitionerError",
    "Pin",
    "PlacedModule",
    "Plan",
    "PlanError",
    "Separate",
    "SolverError",
    "SpecError",
    "checkpointed",
    "partition",
    "plan",
    "sweep",
    "virtual_gpus",
]
