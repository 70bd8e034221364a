"""Planning a pipeline of micro-batches: stages, their memory under the schedule, the plan.

Several equal pipelines may train together, each on a batch of its own, and sum their gradients at
the end of a step. Of the numbers of pipelines to choose from, the one is taken that needs the least
time for a batch; the sums over replicas take part in that choice, not in where stages are cut.

The rehearsal runs the very stages under the schedule, on fake tensors that know their device. A
process of `torch.distributed.pipelining` holds more: buffers for all micro-batches' wires, of
which one process needs those in flight. They are added to the promise.

The tables say more of a stage than it takes. Where by them nothing fits, rehearsals of the
divisions that lack least have the last word.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, permutations

import torch

from partitioner.capture import (
    DATA_DEPENDENT,
    Fakes,
    decided_by_positions,
    fake_clone,
    in_mode,
    quiet,
)
from partitioner.distributed import LocalPipeline, PipelineLayout
from partitioner.dry_run import MeasuredMemory, state_tensors
from partitioner.errors import InfeasibleError, SpecError
from partitioner.graph import stage_units
from partitioner.options import Options
from partitioner.placement import (
    Measured,
    PipelineRecord,
    build_pipeline_plan,
    check_alike,
    pipeline_memory,
    pipelined,
    targets,
)
from partitioner.plan import Plan
from partitioner.priced import Priced
from partitioner.schedule import check_schedule, in_flight_by_stage
from partitioner.solve import (
    Shortfall,
    StageProblem,
    formulate_stages,
    lower_bound,
    solve_stages,
)
from partitioner.spec import Cluster, Demands, format_nbytes, format_seconds, resolve
from partitioner.virtual import rounded, virtual_gpus

REHEARSALS = 8
"""How often stages that the rehearsal finds too large are planned anew with tighter limits."""
MOST_REHEARSED = 20_000
"""Nodes times micro-batches that are rehearsed; of more, memory is reckoned."""

_BROKEN = (
    "the link between '{}' and '{}' is broken, and the stages of a pipeline send straight to each "
    "other"
)
Lines = tuple[tuple[str, ...], ...]
Shape = tuple[tuple[str, ...], ...]
"""Equal pipelines: by replica, its devices by rank."""


@dataclass(frozen=True)
class _Asked:
    """What is to be divided, and what any division has to keep to."""

    subject: Priced
    demands: Demands
    units: Lines
    returned: tuple[str, ...]

    def problem(self, ranks: Sequence[str]) -> tuple[StageProblem, Lines]:
        """The tables of one pipeline on these devices, and its units."""
        options = self.subject.options
        return formulate_stages(
            replace(self.subject.graph, devices=tuple(ranks)),
            self.subject.cluster,
            self.units,
            self.returned,
            self.demands,
            schedule=options.schedule,
            micro_batches=options.micro_batches,
            stages_per_rank=options.stages_per_rank,
        )


@dataclass(frozen=True)
class _Found:
    """Stages that fit.

    Attributes:
        record: the stages, without what is counted from them.
        memory: by device of the first replica.
        bound: seconds of a step of one pipeline that no division can beat.
        seconds: of a step of all replicas.
    """

    record: PipelineRecord
    memory: Mapping[str, Measured]
    bound: float
    seconds: float

    @property
    def seconds_per_batch(self) -> float:
        """Of a step, in which each replica takes a batch."""
        return self.seconds / len(self.record.pipelines)


def pipeline_plan(subject: Priced) -> Plan:
    """The best pipeline, or number of equal ones, for a model priced for one micro-batch.

    Raises:
        SpecError: the model has fewer parts than stages are asked for, or a constraint that no
            pipeline can keep, or the devices cannot be that many equal pipelines, or what is sent
            would have to cross a broken link: stages send straight to each other.
        InfeasibleError: nothing fits, and by how much.
    """
    options, cluster, graph = subject.options, subject.cluster, subject.graph
    if options.replicas != 1:
        _refuse_broken(cluster, cluster.detours)
    demands = resolve(options.constraints, targets(graph), cluster.names, graph.colocated)
    units = stage_units(subject.captured, demands.colocated)
    output = next(iter(reversed(subject.captured.graph.nodes)))
    if len(units) < options.stages_per_rank:
        raise SpecError(
            f"stages_per_rank={options.stages_per_rank}: the model has only {len(units)} parts "
            "that can be stages"
        )
    asked = _Asked(subject, demands, units, tuple(n.name for n in output.all_input_nodes))
    found, tried = _best(asked, shapes(cluster, options, demands))
    weighed = f"Numbers of pipelines that were weighed: {'; '.join(tried)}."
    return build_pipeline_plan(
        subject.captured,
        graph,
        cluster,
        found.record,
        bound=found.bound,
        mode=options.mode,
        optimizer=options.optimizer_name,
        loss=options.loss_function,
        constraints=options.constraints,
        measured=found.memory,
        outlook=(weighed,) if options.replicas == "auto" else (),
        document_type=Plan,
    )


def shapes(cluster: Cluster, options: Options, demands: Demands) -> tuple[Shape, ...]:
    """The numbers of pipelines to choose from, the most first: by replica, its devices by rank.

    Each pipeline has devices that follow each other in the cluster, so that it stays inside a node
    where it can.

    Raises:
        SpecError: the devices cannot be that many equal pipelines.
    """
    count = len(cluster.names)
    if options.replicas != "auto":
        shape = _divided(cluster, options.replicas)
        check_alike(cluster, shape)
        outside = set(demands.pinned.values()) - set(shape[0])
        if outside:
            raise SpecError(
                f"a node is pinned to '{min(outside)}', which the first of the replicas has not: "
                f"{', '.join(shape[0])}; all replicas are as the first one"
            )
        return (shape,)
    found = []
    for replicas in range(count, 0, -1):
        if count % replicas:
            continue
        shape = _divided(cluster, replicas)
        ranks = count // replicas
        with contextlib.suppress(SpecError):
            check_alike(cluster, shape)
            check_schedule(options.schedule, ranks, options.micro_batches, options.stages_per_rank)
            if set(demands.pinned.values()) <= set(shape[0]):
                found.append(shape)
    if not found:
        raise SpecError(
            f"replicas='auto': no number of equal pipelines on these {count} devices takes "
            f"{options.micro_batches} micro-batches under '{options.schedule}'"
        )
    return tuple(found)


def _divided(cluster: Cluster, replicas: int) -> Shape:
    names = cluster.names
    if len(names) % replicas:
        fitting = [str(n) for n in range(1, len(names) + 1) if len(names) % n == 0]
        raise SpecError(
            f"replicas={replicas}: {len(names)} devices cannot be so many equal pipelines; take "
            f"{', '.join(fitting)} or 'auto'"
        )
    ranks = len(names) // replicas
    return tuple(names[i : i + ranks] for i in range(0, len(names), ranks))


def _best(asked: _Asked, choice: Sequence[Shape]) -> tuple[_Found, list[str]]:
    """The shape that takes the least time for a batch, and in a few words, what each would."""
    best: _Found | None = None
    lacking: InfeasibleError | None = None
    sentences = []
    for shape in choice:
        problem, line = asked.problem(shape[0])
        least = lower_bound(problem) / len(shape)
        what = f"{len(shape)} of {len(shape[0])} devices"
        if best is not None and least >= best.seconds_per_batch:
            sentences.append(f"{what}: at least {format_seconds(least)} for a batch")
            continue
        try:
            found = _fitted(asked, problem, line, shape)
        except InfeasibleError as error:
            lacking = error
            sentences.append(f"{what}: nothing fits")
            continue
        each = format_seconds(found.seconds_per_batch)
        sentences.append(f"{what}: {each} for a batch")
        if best is None or found.seconds_per_batch < best.seconds_per_batch * (1 - 1e-12):
            best = found
    if best is None:
        assert lacking is not None
        raise lacking
    return best, sentences


def _fitted(asked: _Asked, problem: StageProblem, line: Lines, shape: Shape) -> _Found:
    """The best stages of one shape that fit by the rehearsal.

    Raises:
        InfeasibleError: there are none.
    """
    subject, names = asked.subject, shape[0]
    options = subject.options
    limits = problem.capacity_nbytes
    bound = lower_bound(problem)
    lacks: Sequence[int] = ()
    known: dict[tuple[object, ...], dict[str, MeasuredMemory] | None] = {}
    seen: Counter[tuple[object, ...]] = Counter()
    for _ in range(REHEARSALS):
        options.say(f"dividing the model into stages on {len(names)} devices")
        solution = solve_stages(problem)
        if not solution.cuts:
            _refuse_broken(subject.cluster, subject.cluster.detours)
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
        ranks = tuple(names[device] for device in solution.devices)
        _check_separated(asked.demands, stages, ranks)
        layout = PipelineLayout.of(
            subject.captured, stages, options.schedule, options.micro_batches,
            options.stages_per_rank,
        )  # fmt: skip
        _refuse_broken(subject.cluster, _tied_pairs(layout, ranks))
        division = (*solution.cuts, *ranks)
        if division not in known:
            known[division] = rehearse_pipeline(subject, layout, ranks)
        rehearsed = known[division]
        if isinstance(solution, Shortfall) and rehearsed is None:
            raise _infeasible(subject.cluster, names, solution.nbytes)
        memory = rehearsed or _reckoned(subject, layout, ranks)
        excess = [
            max(0, memory[name].peak - limit) if name in memory and limit is not None else 0
            for name, limit in zip(names, limits, strict=True)
        ]
        if not any(excess):
            replicas = tuple(
                tuple(devices[device] for device in solution.devices) for devices in shape[1:]
            )
            record = PipelineRecord(
                options.schedule, options.micro_batches, ranks, stages, 0.0, replicas
            )
            counted = pipelined(subject.captured, subject.graph, subject.cluster, record)
            return _Found(record, memory, bound, counted.step_seconds)
        lacks = min(lacks or excess, excess, key=sum)
        again = 0 if isinstance(solution, Shortfall) else seen[division]
        seen[division] += 1
        problem = replace(
            problem,
            capacity_nbytes=tuple(
                None if capacity is None else capacity - _tighter(more, again)
                for capacity, more in zip(problem.capacity_nbytes, excess, strict=True)
            ),
        )
    raise _infeasible(subject.cluster, names, lacks)


def _refuse_broken(cluster: Cluster, pairs: Iterable[tuple[str, str]]) -> None:
    """Refuse to send straight from one device to another over a broken link."""
    detours = cluster.detours
    for source, destination in pairs:
        if (source, destination) in detours:
            raise SpecError(
                f"{_BROKEN.format(source, destination)}; leave one of the two devices out, or plan "
                "with micro_batches=1"
            )


def _tied_pairs(layout: PipelineLayout, ranks: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Devices between which gradients of tied parameters are summed."""
    for stages in layout.tied.values():
        yield from permutations(dict.fromkeys(ranks[stage % len(ranks)] for stage in stages), 2)


def _tighter(excess: int, again: int) -> int:
    """By how much a limit is lowered: more each time that the same stages come back."""
    return excess if not again or not excess else max(excess, rounded(1)) << again


def _reckoned(subject: Priced, layout: PipelineLayout, ranks: Sequence[str]) -> dict[str, Measured]:
    found = pipeline_memory(
        layout.captured, subject.graph, layout.parts, layout.orders, layout.micro_batches
    )
    return dict(zip(ranks, found, strict=True))


def rehearse_pipeline(
    subject: Priced, layout: PipelineLayout, ranks: Sequence[str]
) -> dict[str, MeasuredMemory] | None:
    """The bytes that each rank's device holds, by name.

    `None` where the model decides by its data, or where there are too many micro-batches of too
    many nodes, or more devices than PyTorch can count.
    """
    if layout.micro_batches * len(layout.captured.nodes) > MOST_REHEARSED:
        return None
    if any(str(torch.device(name)) not in (name, f"{name}:0") for name in ranks):
        return None
    subject.options.say("rehearsing the pipeline on fake tensors")
    try:
        with quiet(), Fakes() as mode, decided_by_positions():
            return _rehearsed(subject, layout, ranks, mode)
    except DATA_DEPENDENT:
        return None


def _rehearsed(
    subject: Priced, layout: PipelineLayout, ranks: Sequence[str], mode: Fakes
) -> dict[str, MeasuredMemory]:
    fake = in_mode(fake_clone(subject.model, mode), layout.captured.training)
    devices = tuple(device for device in subject.cluster.devices if device.name in ranks)
    names = [device.name for device in devices]
    batch = {
        name: torch.empty(
            (layout.micro_batches * tensor.shape[0], *tensor.shape[1:])
            if layout.divided[name]
            else tensor.shape,
            dtype=tensor.dtype,
        )
        for name, tensor in layout.example.items()
    }
    with virtual_gpus(Cluster(devices), limits=False) as gpus:
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


def _infeasible(cluster: Cluster, names: Sequence[str], lacks: Sequence[int]) -> InfeasibleError:
    shortfall = {name: nbytes for name, nbytes in zip(names, lacks, strict=True) if nbytes}
    total = sum(lacks)
    told = ", ".join(f"{format_nbytes(nbytes)} on '{name}'" for name, nbytes in shortfall.items())
    broken = next(iter(cluster.detours), None)
    apart = f"; {_BROKEN.format(*broken)}, which keeps these two apart" if broken else ""
    return InfeasibleError(
        f"no pipeline fits: the stages with the least excess lack {told or 'a device'}; more "
        "micro-batches of a smaller size, or more devices, take less memory each" + apart,
        shortfall={**shortfall, "total": total},
    )
