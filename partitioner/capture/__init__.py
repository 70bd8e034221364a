"""`nn.Module` and an example call in, `Captured` out: a graph, and who owns which tensor."""

from partitioner.capture.captured import Captured, ModuleCall, NodeInfo, StateSpec, TensorSpec
from partitioner.capture.check import GraphRun
from partitioner.capture.clone import NamedTensor, clone, fake_clone, fetch, named_tensors
from partitioner.capture.example import example_call
from partitioner.capture.inputs import InputSpec
from partitioner.capture.program import (
    Inputs,
    Program,
    captured_of,
    example_of,
    graph_of,
    inputs_of,
    records,
)
from partitioner.capture.quiet import quiet
from partitioner.capture.record import capture
from partitioner.capture.recorder import DATA_DEPENDENT
from partitioner.capture.structure import Structure
from partitioner.capture.symbols import Condition, Dimension

__all__ = [
    "DATA_DEPENDENT",
    "Captured",
    "Condition",
    "Dimension",
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
    "capture",
    "captured_of",
    "clone",
    "example_call",
    "example_of",
    "fake_clone",
    "fetch",
    "graph_of",
    "inputs_of",
    "named_tensors",
    "quiet",
    "records",
]
