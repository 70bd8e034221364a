"""An assignment goes in; a plan comes out: transfers, memory and timeline, checked, as JSON."""

from partitioner.placement.baseline import (
    all_on_one,
    by_hand,
    equal_counts,
    infer_placement,
    next_fit,
)
from partitioner.placement.build import build_pipeline_plan, build_plan
from partitioner.placement.check import check, check_placement, objective_value, targets
from partitioner.placement.curves import memory_curves
from partitioner.placement.document import PlanDocument
from partitioner.placement.memory import Measured, memory_use, peak_nbytes
from partitioner.placement.parts import (
    AllReduce,
    Certificate,
    ClusterRecord,
    DeviceRecord,
    Held,
    LinkRecord,
    LinkTraffic,
    MemoryCurve,
    MemoryUse,
    ModelIdentity,
    NetworkRecord,
    NodeCosts,
    NodeRecord,
    PipelineRecord,
    Rehearsal,
    StateRecord,
    TensorRecord,
    Transfer,
)
from partitioner.placement.pipeline import Pipelined, pipelined, placement_of_stages
from partitioner.placement.pipeline_memory import ReckonedMemory, pipeline_memory
from partitioner.placement.replicas import check_alike
from partitioner.placement.restore import cost_graph_of
from partitioner.placement.state import alternate_placement, owned_state, state_placement
from partitioner.placement.timeline import (
    Span,
    Timeline,
    bottleneck_seconds,
    step_seconds,
    timeline,
)
from partitioner.placement.transfers import transfers

__all__ = [
    "AllReduce",
    "Certificate",
    "ClusterRecord",
    "DeviceRecord",
    "Held",
    "LinkRecord",
    "LinkTraffic",
    "Measured",
    "MemoryCurve",
    "MemoryUse",
    "ModelIdentity",
    "NetworkRecord",
    "NodeCosts",
    "NodeRecord",
    "PipelineRecord",
    "Pipelined",
    "PlanDocument",
    "ReckonedMemory",
    "Rehearsal",
    "Span",
    "StateRecord",
    "TensorRecord",
    "Timeline",
    "Transfer",
    "all_on_one",
    "alternate_placement",
    "bottleneck_seconds",
    "build_pipeline_plan",
    "build_plan",
    "by_hand",
    "check",
    "check_alike",
    "check_placement",
    "cost_graph_of",
    "equal_counts",
    "infer_placement",
    "memory_curves",
    "memory_use",
    "next_fit",
    "objective_value",
    "owned_state",
    "peak_nbytes",
    "pipeline_memory",
    "pipelined",
    "placement_of_stages",
    "state_placement",
    "step_seconds",
    "targets",
    "timeline",
    "transfers",
]
