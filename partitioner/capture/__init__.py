"""`nn.Module` and an example call in, `Captured` out: a graph, and who owns which tensor."""

from partitioner.capture.captured import (
    Captured,
    ModuleCall,
    NodeInfo,
    StateSpec,
    TensorSpec,
    holds_tensor,
    tensor_specs,
)
from partitioner.capture.check import GraphRun
from partitioner.capture.clone import (
    NamedTensor,
    clone,
    fake_clone,
    fetch,
    in_mode,
    named_tensors,
)
from partitioner.capture.conditions import Condition, Dimension
from partitioner.capture.example import example_call
from partitioner.capture.fakes import Fakes
from partitioner.capture.inputs import InputSpec, by_keyword
from partitioner.capture.leaves import collects_results
from partitioner.capture.positions import decided_by_positions
from partitioner.capture.program import (
    captured_of,
    example_of,
    graph_of,
    inputs_of,
    records,
)
from partitioner.capture.quiet import quiet
from partitioner.capture.record import capture
from partitioner.capture.record_types import Inputs, Program
from partitioner.capture.stand_in import has_data
from partitioner.capture.structure import Structure
from partitioner.capture.truths import DATA_DEPENDENT, Answering

__all__ = [
    "DATA_DEPENDENT",
    "Answering",
    "Captured",
    "Condition",
    "Dimension",
    "Fakes",
    "GraphRun",
    "InputSpec",
    "Inputs",
    "ModuleCall",
    "NamedTensor",
    "NodeInfo",
    "Program",
    "StateSpec",
    "Structure",
    "TensorSpec",
    "by_keyword",
    "capture",
    "captured_of",
    "clone",
    "collects_results",
    "decided_by_positions",
    "example_call",
    "example_of",
    "fake_clone",
    "fetch",
    "graph_of",
    "has_data",
    "holds_tensor",
    "in_mode",
    "inputs_of",
    "named_tensors",
    "quiet",
    "records",
    "tensor_specs",
]
