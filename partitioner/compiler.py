"""The whole compiler: one call per arrow.

::

    model, inputs ─capture─► Captured ─annotate─► CostGraph ─formulate─► Problem ─solve─► Solution
                                                                     ▲                      │
                                                     tighter limits  └──── dry run ◄────────┤
                                                                                            ▼
                                                            PlacedModule ◄─place─ Plan ◄─build_plan
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
import torch
from torch import nn

from cost_models import CostModel, RooflineCostModel
from partitioner.advice import advised
from partitioner.capture import Captured, example_call
from partitioner.distributed import first_micro_batch
from partitioner.emit import PlacedModule, place
from partitioner.errors import InfeasibleError
from partitioner.generation import generating_call
from partitioner.options import LossFunction, Optimizer, Options, Progress, Targets, mode_of
from partitioner.outlook import outlook
from partitioner.pipelined import pipeline_plan
from partitioner.placement import build_plan
from partitioner.plan import Plan
from partitioner.priced import Call, Priced, priced
from partitioner.rehearsed import Rehearsed, solve_and_rehearse
from partitioner.spec import Cluster, Constraint, Device
from partitioner.virtual import suspended

Devices = str | os.PathLike[str] | torch.device | Device | Cluster | Sequence[Any]
Memory = int | str | Mapping[str, int | str] | None


def plan(
    model: nn.Module,
    devices: Devices,
    example_inputs: Any = None,
    *,
    example_kwargs: Mapping[str, Any] | None = None,
    mode: str | None = None,
    optimizer: Optimizer = None,
    objective: str = "latency",
    constraints: Sequence[Constraint] = (),
    cost_model: CostModel | None = None,
    memory: Memory = None,
    micro_batches: int = 1,
    time_limit: float | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    schedule: str = "1f1b",
    stages_per_rank: int = 1,
    cache_tokens: int | None = None,
    start: Plan | None = None,
    loss: LossFunction = None,
    targets: Targets = None,
    replicas: int | Literal["auto"] = 1,
) -> Plan:
    """Find the best placement of `model` on `devices`, from shapes alone.

    Args:
        model: any module; never modified. Its parameters may be on `meta`.
        devices: device names, `Device`s, a `Cluster`, the path of a cluster file, or a shorthand
            such as `"2x16GiB"`.
        example_inputs: a tensor, a tuple, or a dict of keyword arguments; `None` uses what the
            model offers or what its first layer fixes.
        example_kwargs: further keyword arguments.
        mode: `"train"` or `"inference"`; `None` is `"train"` when `model.training`.
        optimizer: a name, a class or a callable `params -> optimizer`; its state's bytes count.
        objective: `"latency"`, `"throughput"` or `"memory"`.
        constraints: `Pin`, `Colocate`, `Separate`, `Contiguous`.
        cost_model: prices operators; `None` is a `RooflineCostModel`.
        memory: limit of every device, or by device name, where the devices do not tell.
        micro_batches: into how many the batch is divided that the example inputs are; more than 1
            plans a pipeline, with objective `"throughput"`.
        time_limit: seconds for the solver; `None` lets it work until a fixed amount of effort.
        seed: of the solver's randomised parts.
        progress: called with a line of text at each step.
        schedule: of the pipeline: `"1f1b"`, `"gpipe"`, `"interleaved"` or `"zero-bubble"`.
        stages_per_rank: of the pipeline; more than 1 for `"interleaved"` and `"zero-bubble"`.
        cache_tokens: of a Hugging Face decoder in inference, how many tokens (prompt and answer)
            the key-value cache of `generate` holds at most; its bytes are in the promise then.
        start: a plan of the same model from whose placement the solver searches as well.
        loss: that is trained with, so that its memory and time count: a name in
            `torch.nn.functional` or `torch.nn` such as `"cross_entropy"`, a class, or a callable
            `(output, *targets) -> scalar`. It is computed where the output is. `None` is the scalar
            that the model itself returns, else the mean square of its outputs.
        targets: an example of what the loss compares with, or several; only sizes and types
            matter. `None` where they follow from the output, as for PyTorch's losses.
        replicas: equal pipelines that train together, each on a batch of its own; `"auto"` takes
            the number with which a batch takes the least time.

    Raises:
        CaptureError: the model cannot be recorded, or the inputs do not fit it.
        SpecError: devices, constraints or options make no sense.
        InfeasibleError: nothing fits, and by how much.
        TimeLimitError: the time limit passed before any plan was found.
    """
    return _compile(
        model,
        devices,
        example_inputs,
        example_kwargs,
        memory,
        Options(
            mode=mode_of(model, mode),
            objective=objective,
            optimizer=optimizer,
            constraints=tuple(constraints),
            cost_model=cost_model or RooflineCostModel(),
            micro_batches=micro_batches,
            schedule=schedule,
            stages_per_rank=stages_per_rank,
            cache_tokens=cache_tokens,
            loss=loss,
            targets=targets,
            replicas=replicas,
            time_limit=time_limit,
            seed=seed,
            progress=progress,
            start=None if start is None else start.placement,
        ),
    )[0]


def partition(
    model: nn.Module,
    devices: Devices,
    example_inputs: Any = None,
    *,
    example_kwargs: Mapping[str, Any] | None = None,
    mode: str | None = None,
    optimizer: Optimizer = None,
    objective: str = "latency",
    constraints: Sequence[Constraint] = (),
    cost_model: CostModel | None = None,
    memory: Memory = None,
    micro_batches: int = 1,
    time_limit: float | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    schedule: str = "1f1b",
    stages_per_rank: int = 1,
    cache_tokens: int | None = None,
    start: Plan | None = None,
    loss: LossFunction = None,
    targets: Targets = None,
) -> PlacedModule:
    """`plan` the model and place it: same signature, `state_dict`, outputs and gradients.

    The original is not modified; each parameter is copied straight to its device. Arguments and
    errors are those of `plan`; the plan is the result's `.plan`.
    """
    the_plan, captured = _compile(
        model,
        devices,
        example_inputs,
        example_kwargs,
        memory,
        Options(
            mode=mode_of(model, mode),
            objective=objective,
            optimizer=optimizer,
            constraints=tuple(constraints),
            cost_model=cost_model or RooflineCostModel(),
            micro_batches=micro_batches,
            schedule=schedule,
            stages_per_rank=stages_per_rank,
            cache_tokens=cache_tokens,
            loss=loss,
            targets=targets,
            time_limit=time_limit,
            seed=seed,
            progress=progress,
            start=None if start is None else start.placement,
        ),
    )
    return place(model, captured, the_plan.placement, plan=the_plan, detours=the_plan.detours)


def _compile(
    model: nn.Module,
    devices: Devices,
    example_inputs: Any,
    example_kwargs: Mapping[str, Any] | None,
    memory: Memory,
    options: Options,
) -> tuple[Plan, Captured]:
    cluster = Cluster.of(devices, memory)
    with suspended():
        call = example_call(model, example_inputs, example_kwargs)
        if options.cache_tokens is not None:
            call = generating_call(model, call)
        if options.is_pipeline:

            def micro(whole: Call) -> Call:
                return first_micro_batch(*whole, options.micro_batches)

            subject = priced(model, cluster, micro(call), options.with_targets(micro))
            return pipeline_plan(subject), subject.captured
        subject = priced(model, cluster, call, options)
        try:
            found = solve_and_rehearse(subject)
        except InfeasibleError as error:
            raise advised(error, subject) from None
        sentences = _outlook(subject, found)
    the_plan = build_plan(
        subject.captured,
        subject.graph,
        cluster,
        found.solution,
        objective=options.objective,
        mode=options.mode,
        optimizer=options.optimizer_name,
        loss=options.loss_function,
        constraints=options.constraints,
        measured=found.measured,
        document_type=Plan,
    )
    return msgspec.structs.replace(
        the_plan, outlook=sentences, cache_tokens=options.cache_tokens
    ), subject.captured


def _outlook(subject: Priced, found: Rehearsed) -> tuple[str, ...]:
    """What limits the plan; an interruption costs no more than this."""
    told = "What more devices or memory would bring was not looked up: the search was interrupted."
    if found.solution.interrupted:
        return (told,)
    subject.options.say("looking at what more devices or memory would bring")
    try:
        return outlook(subject, found.problem, found.solution.assignment)
    except KeyboardInterrupt:
        subject.options.say("interrupted: the plan is found; what more would bring is not told")
        return (told,)
