"""`PartitionGraph`: what a picture or a table needs to know of a plan, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Operation:
    """One node of the plan.

    Attributes:
        name: of the node.
        operator: for people, such as `"Linear"`.
        module_path: qualified name of the module that made it; `""` is the root.
        device: where it runs; `None` for the model's output.
        role: `"input"`, `"state"` (a parameter or buffer that is read), `"operator"` or `"output"`.
        seconds: of forward and backward on that device.
        state_nbytes: of the parameters, buffers and constants that live with it.
        value: shape and type of the result, such as `"f32[64,200]"`; `""` where it is no tensor.
        line: of the user's code.
    """

    name: str
    operator: str
    module_path: str
    device: str | None
    role: str = "operator"
    seconds: float = 0.0
    state_nbytes: int = 0
    value: str = ""
    line: str = ""


@dataclass(frozen=True, slots=True)
class Crossing:
    """One value that moves to one other device.

    Attributes:
        tensor: the node that makes it.
        destination: a device name.
        nbytes: carried in the forward.
        gradient_nbytes: carried back in the backward.
    """

    tensor: str
    destination: str
    nbytes: int
    gradient_nbytes: int = 0


@dataclass(frozen=True)
class PartitionGraph:
    """The planned graph.

    Attributes:
        operations: in execution order.
        edges: `(node, node that reads it)`, in order and without doubles.
        devices: names, in the cluster's order.
        crossings: what moves between devices, in order.
    """

    operations: tuple[Operation, ...]
    edges: tuple[tuple[str, str], ...]
    devices: tuple[str, ...]
    crossings: tuple[Crossing, ...] = ()
