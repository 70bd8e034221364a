"""What the ranks of a pipeline hold, reckoned from the tensors of one micro-batch and the schedule.

A rank holds its parameters, their gradients and optimizer state once, what the backward needs for
each micro-batch in flight, what passes while one of them runs, and buffers for all wires. Sizes are
those of the cost graph; nothing runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from partitioner.capture import Captured
from partitioner.graph import StagePart
from partitioner.graph.cost_graph import CostGraph
from partitioner.placement.memory import STATIC, held_nbytes
from partitioner.placement.parts import Rehearsal
from partitioner.schedule import Orders, peak_in_flight


@dataclass(frozen=True, slots=True)
class ReckonedMemory:
    """Bytes on one device; see `MemoryUse` for the meaning of each."""

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    peak: int
    rehearsal: Rehearsal = "none"


def pipeline_memory(
    captured: Captured,
    graph: CostGraph,
    parts: Sequence[StagePart],
    orders: Orders,
    micro_batches: int,
) -> tuple[ReckonedMemory, ...]:
    """By rank, what it holds.

    Args:
        captured: the recording of one micro-batch.
        graph: its costs.
        parts: the stages.
        orders: by rank, its actions in a step.
        micro_batches: in a step.
    """
    placeholders = {str(n.target): n.name for n in captured.graph.nodes if n.op == "placeholder"}
    stages = [_Stage(captured, graph, part, placeholders) for part in parts]
    found = []
    for rank, order in enumerate(orders):
        own = [stage for stage in stages if stage.part.index % len(orders) == rank]
        static = {role: sum(stage.static[role] for stage in own) for role in STATIC}
        kept = {stage.part.index: stage.kept for stage in own}
        wires = sum(stage.wire_nbytes(micro_batches, len(parts)) for stage in own)
        results = micro_batches * sum(stage.result_nbytes(len(parts)) for stage in own)
        flying = wires + peak_in_flight(order, kept)
        working = flying + results + max(stage.passing for stage in own)
        resting = wires + 2 * results + max(stage.at_rest for stage in own)
        found.append(
            ReckonedMemory(
                parameters=static["parameters"],
                gradients=static["gradients"],
                optimizer=static["optimizer"],
                activations=flying,
                peak=sum(static.values()) + max(working, resting),
            )
        )
    return tuple(found)


class _Stage:
    """One stage's bytes.

    Attributes:
        static: by role, there once.
        kept: for each micro-batch between its forward and its backward.
        passing: the most that one micro-batch has beside `kept`, a new gradient among it.
        at_rest: what the optimizer's step needs beside its state.
    """

    def __init__(
        self,
        captured: Captured,
        graph: CostGraph,
        part: StagePart,
        placeholders: Mapping[str, str],
    ) -> None:
        self.part = part
        self.graph = graph
        self.training = captured.training
        nodes = {*part.nodes, *(placeholders[name] for name in part.inputs)}
        nodes |= _state_nodes(captured, part)
        here = [holding for holding in graph.holdings if not nodes.isdisjoint(holding.nodes)]
        self.static = {
            role: max(held_nbytes((h for h in here if h.role == role), graph.points))
            for role in STATIC
        }
        turn = len(graph.order)
        moving = [holding for holding in here if holding.role not in STATIC]
        kept = [holding for holding in moving if holding.first < turn <= holding.last]
        handles = {node for holding in kept for node in holding.nodes}
        held = sum(holding.nbytes for holding in kept)
        self.kept = held + sum(
            graph.tensor(node).nbytes for node in part.wires_out if node not in handles
        )
        curve = held_nbytes(moving, graph.points)
        trained = [
            captured.state[name].tensor.nbytes
            for name in part.state
            if captured.training and captured.state[name].tensor.requires_grad
        ]
        self.passing = max(curve[: 2 * turn]) - held + max(trained, default=0)
        self.at_rest = curve[-1] if captured.training else 0

    def wire_nbytes(self, micro_batches: int, stages: int) -> int:
        """Buffers for what comes in, and for the gradients of what goes out."""
        part, graph = self.part, self.graph
        found = micro_batches * sum(graph.tensor(node).nbytes for node in part.wires_in)
        if self.training:
            found += sum(graph.tensor(node).gradient_nbytes for node in part.wires_in)
            if part.index + 1 < stages:
                back = sum(graph.tensor(node).gradient_nbytes for node in part.wires_out)
                found += micro_batches * back
        return found

    def result_nbytes(self, stages: int) -> int:
        """What the model returns for one micro-batch; kept until all are put together."""
        if self.part.index + 1 < stages:
            return 0
        return sum(self.graph.tensor(node).nbytes for node in self.part.wires_out)


def _state_nodes(captured: Captured, part: StagePart) -> set[str]:
    """The `get_attr` nodes of a stage's state."""
    state = set(part.state)
    return {
        name for name, info in captured.nodes.items() if info.state and state.issuperset(info.state)
    }
