"""`Solution` → plan: what follows from an assignment, checked before anyone sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from partitioner.capture import Captured, StateSpec, TensorSpec, inputs_of, records
from partitioner.graph.cost_graph import CostGraph
from partitioner.graph.loss import OUTPUT_LOSS, Loss
from partitioner.placement.check import check, check_placement
from partitioner.placement.curves import memory_curves, pipeline_memory_curves
from partitioner.placement.document import PlanDocument
from partitioner.placement.memory import Measured, memory_use
from partitioner.placement.parts import (
    Certificate,
    ClusterRecord,
    LossRecord,
    ModelIdentity,
    NodeCosts,
    PipelineRecord,
    Rehearsal,
    StateRecord,
    TensorRecord,
)
from partitioner.placement.pipeline import pipelined, placement_of_stages
from partitioner.placement.state import state_placement
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
    loss: Loss = OUTPUT_LOSS,
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
        loss: of a training step.
        constraints: that the assignment satisfies.
        measured: bytes by device name, from a run; in place of the predicted ones.
        document_type: `PlanDocument` or a class that adds verbs to it.

    Raises:
        SolverError: the solution breaks a limit or constraint, or is not worth what it claims.
    """
    check_name("objective", objective, OBJECTIVES)
    check_name("mode", mode, MODES)
    check_placement(graph, cluster, solution.assignment, constraints, measured)
    placement = {node: solution.assignment[node] for node in graph.order}
    homes = state_placement(captured, placement)
    document = document_type(
        **_records(captured, graph, cluster, constraints, graph.devices),
        objective=objective,
        mode=mode,
        optimizer=optimizer,
        loss=_loss(loss, mode),
        placement=placement,
        parameters={
            name: homes[name]
            for state in captured.state.values()
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
        memory_curves=memory_curves(graph, placement, cluster),
        rehearsal=_rehearsal(measured),
    )
    check(document, graph, cluster, measured)
    return document


def build_pipeline_plan(
    captured: Captured,
    graph: CostGraph,
    cluster: Cluster,
    record: PipelineRecord,
    *,
    bound: float,
    mode: str,
    optimizer: str | None,
    loss: Loss = OUTPUT_LOSS,
    constraints: Sequence[Constraint] = (),
    measured: Mapping[str, Measured],
    outlook: Sequence[str] = (),
    document_type: type[Document] = PlanDocument,  # type: ignore[assignment]
) -> Document:
    """The plan that stages stand for; see `build_plan` for what both take.

    Args:
        captured: the recording of one micro-batch.
        graph: its costs.
        cluster: that it was planned for.
        record: stages, schedule and replicas; what follows from these is counted anew.
        bound: seconds that no division can beat.
        mode: `"train"` or `"inference"`.
        optimizer: name, where one was given.
        loss: of a training step.
        constraints: that the stages satisfy.
        measured: bytes by name of the first replica's devices, from a run of the pipeline, or
            reckoned by `pipeline_memory`.
        outlook: sentences for the document.
        document_type: `PlanDocument` or a class that adds verbs to it.

    Raises:
        SolverError: the stages break a limit or constraint.
    """
    check_name("mode", mode, MODES)
    found = pipelined(captured, graph, cluster, record)
    step = found.step_seconds
    placement = placement_of_stages(captured, found.parts, record.ranks)
    held = {
        name: measured[first]
        for devices in record.pipelines
        for first, name in zip(record.ranks, devices, strict=True)
    }
    homes: dict[str, str] = {}
    for part in found.parts:
        for name in part.state:
            homes.setdefault(name, record.ranks[part.index % len(record.ranks)])
    priced = record.ranks if record.replicas else graph.devices
    document = document_type(
        **_records(captured, graph, cluster, constraints, priced),
        objective="throughput",
        mode=mode,
        optimizer=optimizer,
        loss=_loss(loss, mode),
        placement=placement,
        parameters={
            name: homes.get(canonical, record.ranks[0])
            for canonical, state in captured.state.items()
            if state.role != "constant"
            for name in state.names
        },
        transfers=found.transfers,
        memory=memory_use(graph, placement, cluster, held),
        step_seconds=step,
        bottleneck_seconds=found.bottleneck_seconds,
        certificate=Certificate(
            status="optimal" if bound >= step * (1 - 1e-9) else "feasible",
            objective=step,
            bound=min(bound, step),
            gap=max(0.0, (step - bound) / step) if step else 0.0,
            solver="dynamic programme over stages",
        ),
        memory_curves=pipeline_memory_curves(graph, record, found),
        rehearsal=_rehearsal(measured),
        pipeline=found.recorded(record),
        outlook=tuple(outlook),
    )
    check(document, graph, cluster)
    return document


def _records(
    captured: Captured,
    graph: CostGraph,
    cluster: Cluster,
    constraints: Sequence[Constraint],
    priced: Sequence[str],
) -> dict[str, Any]:
    """What every plan keeps of the model, its inputs and costs, and of what was asked for.

    Args:
        captured: the recorded model.
        graph: its costs.
        cluster: the devices and links.
        constraints: of the user.
        priced: devices whose costs are kept.
    """
    return {
        "devices": cluster.names,
        "constraints": tuple(str(constraint) for constraint in constraints),
        "cluster": ClusterRecord.of(cluster),
        "model": ModelIdentity(captured.model_class, tuple(map(_state, captured.state.values()))),
        "inputs": inputs_of(captured),
        "program": records(captured),
        "costs": {node: _costs(graph, node, priced) for node in graph.order},
        "unpriced": graph.unpriced,
    }


def _state(state: StateSpec) -> StateRecord:
    return StateRecord(state.names, state.role, _tensor(state.tensor))


def _loss(loss: Loss, mode: str) -> LossRecord | None:
    if loss.name is None or mode != "train":
        return None
    if loss.targets is None:
        return LossRecord(loss.name)
    return LossRecord(loss.name, tuple(_tensor(TensorSpec.of(each)) for each in loss.targets))


def _rehearsal(measured: Mapping[str, Measured] | None) -> Rehearsal:
    if measured is None:
        return "none"
    return next((use.rehearsal for use in measured.values()), "sizes")


def _tensor(spec: TensorSpec) -> TensorRecord:
    return TensorRecord(spec.shape, spec.dtype, spec.nbytes, spec.requires_grad)


def _costs(graph: CostGraph, node: str, devices: Sequence[str]) -> NodeCosts:
    cost, tensor = graph.cost(node), graph.tensor(node)

    def by_device(seconds: Mapping[str, float]) -> dict[str, float]:
        return {device: float(seconds[device]) for device in devices if device in seconds}

    return NodeCosts(
        operator=cost.operator,
        module_path=cost.module_path,
        forward_seconds=by_device(cost.forward_seconds),
        backward_seconds=by_device(cost.backward_seconds),
        nbytes=tensor.nbytes,
        gradient_nbytes=tensor.gradient_nbytes,
        flops=cost.flops,
    )
