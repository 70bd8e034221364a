"""`Solution` → plan: what follows from an assignment, checked before anyone sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from partitioner.capture.captured import Captured, StateSpec
from partitioner.graph.cost_graph import CostGraph
from partitioner.placement._records import records
from partitioner.placement.check import check, check_placement
from partitioner.placement.document import (
    Certificate,
    ClusterRecord,
    ModelIdentity,
    NodeCosts,
    PlanDocument,
    StateRecord,
    TensorRecord,
)
from partitioner.placement.memory import Measured, memory_use
from partitioner.placement.timeline import bottleneck_seconds, step_seconds
from partitioner.placement.transfers import transfers
from partitioner.solve.problem import Solution
from partitioner.spec import MODES, OBJECTIVES, Cluster, Constraint, check_name

Document = TypeVar("Document", bound=PlanDocument)


def build_plan(
    captured: Captured,
    graph: CostGraph,
    cluster: Cluster,
    solution: Solution,
    *,
    objective: str,
    mode: str,
    optimizer: str | None,
    constraints: Sequence[Constraint] = (),
    measured: Mapping[str, Measured] | None = None,
    document_type: type[Document] = PlanDocument,  # type: ignore[assignment]
) -> Document:
    """The plan that a solution stands for.

    Args:
        captured: the recorded model.
        graph: its costs.
        cluster: that it was planned for.
        solution: an assignment of every node, from a solver or by hand.
        objective: what was minimised.
        mode: `"train"` or `"inference"`.
        optimizer: name, where one was given.
        constraints: that the assignment satisfies.
        measured: bytes by device name, from a run; in place of the predicted ones.
        document_type: `PlanDocument` or a class that adds verbs to it.

    Raises:
        SolverError: the solution breaks a limit or constraint, or is not worth what it claims.
    """
    check_name("objective", objective, OBJECTIVES)
    check_name("mode", mode, MODES)
    check_placement(graph, cluster, solution.assignment, constraints)
    placement = {node: solution.assignment[node] for node in graph.order}
    homes = state_placement(captured, placement)
    document = document_type(
        objective=objective,
        mode=mode,
        optimizer=optimizer,
        devices=cluster.names,
        placement=placement,
        parameters={
            name: homes[canonical]
            for canonical, state in captured.state.items()
            if state.role != "constant"
            for name in state.names
        },
        transfers=transfers(graph, placement, cluster),
        memory=memory_use(graph, placement, cluster, measured),
        step_seconds=step_seconds(graph, placement, cluster),
        bottleneck_seconds=bottleneck_seconds(graph, placement, cluster),
        certificate=Certificate(
            status=solution.status.value,
            objective=float(solution.objective),
            bound=float(solution.bound),
            gap=max(0.0, solution.gap),
            solver=solution.solver,
            seconds=solution.seconds,
        ),
        constraints=tuple(str(constraint) for constraint in constraints),
        cluster=ClusterRecord.of(cluster),
        model=ModelIdentity(captured.model_class, tuple(map(_state, captured.state.values()))),
        inputs=None,
        program=records(captured),
        costs={node: _costs(graph, node) for node in graph.order},
    )
    check(document, graph, cluster)
    return document


def state_placement(captured: Captured, placement: Mapping[str, str]) -> dict[str, str]:
    """Where each parameter, buffer and constant lives, by canonical name.

    State lives where the node that owns it runs (`NodeInfo.state`); what no node uses lives where
    the first node does.
    """
    homes = {name: placement[node] for node, info in captured.nodes.items() for name in info.state}
    first = next(iter(placement.values()), "cpu")
    return {name: homes.get(name, first) for name in captured.state}


def _state(state: StateSpec) -> StateRecord:
    tensor = TensorRecord(
        state.tensor.shape, state.tensor.dtype, state.tensor.nbytes, state.tensor.requires_grad
    )
    return StateRecord(state.names, state.role, tensor)


def _costs(graph: CostGraph, node: str) -> NodeCosts:
    cost, tensor = graph.cost(node), graph.tensor(node)
    return NodeCosts(
        operator=cost.operator,
        module_path=cost.module_path,
        forward_seconds=dict(cost.forward_seconds),
        backward_seconds=dict(cost.backward_seconds),
        nbytes=tensor.nbytes,
        gradient_nbytes=tensor.gradient_nbytes,
        flops=cost.flops,
    )
