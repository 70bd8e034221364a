"""Planning a pipeline of micro-batches: stages, their memory under the schedule, the plan.

The rehearsal runs the very stages under the schedule, on fake tensors that know their device. A
process of `torch.distributed.pipelining` holds more: buffers for all micro-batches' wires, of
which one process needs those in flight. They are added to the promise.

The tables say more of a stage than it takes. Where by them nothing fits, the rehearsal of the
division that lacks least has the last word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from partitioner.capture import DATA_DEPENDENT, fake_clone, in_mode, quiet
from partitioner.distributed import LocalPipeline, PipelineLayout
from partitioner.dry_run import MeasuredMemory, state_tensors
from partitioner.errors import InfeasibleError, SpecError
from partitioner.graph import stage_units
from partitioner.placement import PipelineRecord, build_pipeline_plan, targets
from partitioner.plan import Plan
from partitioner.priced import Priced
from partitioner.schedule import in_flight_by_stage
from partitioner.solve import Shortfall, formulate_stages, lower_bound, solve_stages
from partitioner.spec import Demands, format_nbytes, resolve
from partitioner.virtual import rounded, virtual_gpus

REHEARSALS = 8
"""How often stages that the rehearsal finds too large are planned anew with tighter limits."""


def pipeline_plan(subject: Priced) -> Plan:
    """The best pipeline for a model that was priced for one micro-batch.

    Raises:
        SpecError: the model has fewer parts than stages are asked for, or a constraint that no
            pipeline can keep, or a link is broken: stages send straight to each other.
        InfeasibleError: nothing fits, and by how much.
    """
    options, cluster, graph = subject.options, subject.cluster, subject.graph
    for link in cluster.links:
        if link.broken:
            raise SpecError(
                f"the {link} is broken, and the stages of a pipeline send straight to each other; "
                "leave one of the two devices out, or plan with micro_batches=1"
            )
    demands = resolve(options.constraints, targets(graph), cluster.names, graph.colocated)
    units = stage_units(subject.captured, demands.colocated)
    output = next(iter(reversed(subject.captured.graph.nodes)))
    returned = [node.name for node in output.all_input_nodes]
    if len(units) < options.stages_per_rank:
        raise SpecError(
            f"stages_per_rank={options.stages_per_rank}: the model has only {len(units)} parts "
            "that can be stages"
        )
    problem, line = formulate_stages(
        graph,
        cluster,
        units,
        returned,
        demands,
        schedule=options.schedule,
        micro_batches=options.micro_batches,
        stages_per_rank=options.stages_per_rank,
    )
    limits = problem.capacity_nbytes
    bound = lower_bound(problem)
    excess: Sequence[int] = ()
    for _ in range(REHEARSALS):
        options.say("dividing the model into stages")
        solution = solve_stages(problem)
        if not solution.cuts:
            raise InfeasibleError(
                "no pipeline keeps all constraints: values pass from each stage to the next one "
                "only, which pinned or separated parts may not allow",
                shortfall={"total": 0},
            )
        stages = {
            node: stage
            for stage, (first, last) in enumerate(pairwise(solution.cuts))
            for unit in line[first:last]
            for node in unit
        }
        ranks = tuple(cluster.names[device] for device in solution.devices)
        _check_separated(demands, stages, ranks)
        options.say("rehearsing the pipeline on fake tensors")
        layout = PipelineLayout.of(
            subject.captured, stages, options.schedule, options.micro_batches,
            options.stages_per_rank,
        )  # fmt: skip
        measured = rehearse_pipeline(subject, layout, ranks)
        if isinstance(solution, Shortfall) and measured is None:
            raise _infeasible(cluster.names, solution.nbytes)
        excess = [
            max(0, measured[name].peak - limit) if measured and limit is not None else 0
            for name, limit in zip(cluster.names, limits, strict=True)
        ]
        if not any(excess):
            return build_pipeline_plan(
                subject.captured,
                graph,
                cluster,
                PipelineRecord(options.schedule, options.micro_batches, ranks, stages, 0.0),
                bound=bound,
                mode=options.mode,
                optimizer=options.optimizer_name,
                loss=options.loss_function,
                constraints=options.constraints,
                measured=measured,
                document_type=Plan,
            )
        if isinstance(solution, Shortfall):
            break
        problem = replace(
            problem,
            capacity_nbytes=tuple(
                None if capacity is None else capacity - more
                for capacity, more in zip(problem.capacity_nbytes, excess, strict=True)
            ),
        )
    raise _infeasible(cluster.names, excess)


def rehearse_pipeline(
    subject: Priced, layout: PipelineLayout, ranks: Sequence[str]
) -> dict[str, MeasuredMemory] | None:
    """The bytes that each device holds, by name; `None` where the model decides by its data."""
    try:
        with quiet(), FakeTensorMode(allow_non_fake_inputs=True) as mode:
            return _rehearsed(subject, layout, ranks, mode)
    except DATA_DEPENDENT:
        return None


def _rehearsed(
    subject: Priced, layout: PipelineLayout, ranks: Sequence[str], mode: FakeTensorMode
) -> dict[str, MeasuredMemory]:
    fake = in_mode(fake_clone(subject.model, mode), layout.captured.training)
    names = subject.cluster.names
    batch = {
        name: torch.empty(
            (layout.micro_batches * tensor.shape[0], *tensor.shape[1:])
            if layout.divided[name]
            else tensor.shape,
            dtype=tensor.dtype,
        )
        for name, tensor in layout.example.items()
    }
    with virtual_gpus(subject.cluster, limits=False) as gpus:
        loss = subject.options.loss_function.without_data()
        pipeline = LocalPipeline(fake, layout, ranks, lambda output, _: loss(output))
        del fake
        before = {name: gpus[name].allocated_nbytes for name in names}
        trainable = [p for p in pipeline.parameters() if p.requires_grad]
        make = subject.options.make_optimizer
        optimizer = make(trainable) if make and trainable else None
        for _ in range(2 if layout.captured.training else 1):
            pipeline.zero_grad()
            pipeline.step_on(batch)
            if optimizer is not None:
                optimizer.step()
        gradients = [p.grad for p in trainable if p.grad is not None]
        state = state_tensors(optimizer)
        extra = _buffers(subject, layout, ranks)
        found = {}
        for name in names:
            gpu = gpus[name]
            held = gpu.live_nbytes_of(gradients), gpu.live_nbytes_of(state)
            peak = gpu.peak_nbytes + extra.get(name, 0)
            found[name] = MeasuredMemory(
                parameters=before[name],
                gradients=held[0],
                optimizer=held[1],
                activations=max(0, peak - before[name] - sum(held)),
                peak=peak,
            )
        return found


def _buffers(subject: Priced, layout: PipelineLayout, ranks: Sequence[str]) -> Mapping[str, int]:
    """By device, what the buffers of all micro-batches take beyond those in flight."""
    flying = in_flight_by_stage(layout.orders)
    found = dict.fromkeys(ranks, 0)
    m, last = layout.micro_batches, len(layout.parts) - 1
    for part in layout.parts:
        taken = sum(rounded(subject.graph.tensor(node).nbytes) for node in part.wires_in)
        given = sum(
            rounded(subject.graph.tensor(node).gradient_nbytes)
            for node in part.wires_out
            if part.index != last
        )
        name = ranks[part.index % len(ranks)]
        found[name] += (m - flying[part.index]) * taken + (m - 1) * given
    return found


def _check_separated(demands: Demands, stages: Mapping[str, int], ranks: Sequence[str]) -> None:
    for one, other in demands.separated:
        here = {stages[node] % len(ranks) for node in one if node in stages}
        there = {stages[node] % len(ranks) for node in other if node in stages}
        if here & there:
            raise SpecError(
                "nodes that were to be separate would be on one device in different stages; "
                "take stages_per_rank=1"
            )


def _infeasible(names: Sequence[str], lacks: Sequence[int]) -> InfeasibleError:
    shortfall = {name: nbytes for name, nbytes in zip(names, lacks, strict=True) if nbytes}
    total = sum(lacks)
    told = ", ".join(f"{format_nbytes(nbytes)} on '{name}'" for name, nbytes in shortfall.items())
    return InfeasibleError(
        f"no pipeline fits: the stages with the least excess lack {told or 'a device'}; more "
        "micro-batches of a smaller size, or more devices, take less memory each",
        shortfall={**shortfall, "total": total},
    )
