"""The command `plan`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import click
from rich.console import Group, RenderableType
from rich.text import Text

from partitioner.capture import example_of
from partitioner.cli.console import note, steps
from partitioner.cli.group import Talking
from partitioner.cli.options import (
    adapted,
    call_options,
    complete_files,
    cost_model_option,
    devices_option,
    given_call,
    loss_options,
    mode_option,
    model_options,
    objective_option,
    optimizer_option,
    output_option,
    pipeline_options,
    positive,
    read_cost_model,
    read_memory,
    read_targets,
    replicas_option,
)
from partitioner.compiler import plan as make_plan
from partitioner.distributed import whole_batch
from partitioner.loading import Call, load_model
from partitioner.options import loss_of_plan
from partitioner.plan import Plan
from partitioner.report import as_text, difference_renderable, plan_renderable
from partitioner.spec import Cluster, Constraint, Pin, parse_constraint


@click.command(cls=Talking)
@click.argument("model")
@devices_option(
    help="'2x16GiB', '2xa100-40gb', 'cuda:0=24GiB,cuda:1=16GiB' or a cluster file.",
)
@click.option(
    "--from",
    "old_file",
    metavar="PLAN",
    shell_complete=complete_files,
    help="Begin at this plan of MODEL: what is not said here is as it was there.",
)
@click.option(
    "--pin",
    "pins",
    multiple=True,
    metavar="NAME=DEVICE",
    help="Such as 'lm_head=cuda:1'; repeatable. In place of the old plan's pin of that name.",
)
@click.option(
    "--constraint",
    "constraints",
    multiple=True,
    metavar="TEXT",
    help="'pin lm_head=cuda:1', 'colocate a,b', 'separate a,b' or 'contiguous'; repeatable.",
)
@model_options
@call_options
@mode_option("as the model is")
@optimizer_option("none")
@loss_options
@objective_option("latency")
@click.option("--memory", metavar="SIZE", help="Limit: '16GiB' or 'cuda:0=24GiB,cuda:1=16GiB'.")
@pipeline_options
@click.option(
    "--cache-tokens",
    type=click.IntRange(min=2),
    metavar="N",
    help="For generate, in inference: memory for a key-value cache of N tokens.",
)
@replicas_option
@cost_model_option
@click.option("--time-limit", type=float, callback=positive, metavar="SECONDS")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the solver.")
@output_option()
@click.option("--json", "as_json", is_flag=True, help="The document on standard output.")
def plan(
    model: str,
    devices: str | None,
    old_file: str | None,
    pins: tuple[str, ...],
    constraints: tuple[str, ...],
    input_texts: tuple[str, ...],
    inputs: str | None,
    dtype: str | None,
    checkpoints: tuple[str, ...],
    mode: str | None,
    optimizer: str | None,
    loss: str | None,
    target_texts: tuple[str, ...],
    objective: str | None,
    memory: str | None,
    micro_batches: int | None,
    schedule: str | None,
    stages_per_rank: int | None,
    cache_tokens: int | None,
    replicas: int | Literal["auto"] | None,
    times: str | None,
    time_limit: float | None,
    seed: int,
    output: str | None,
    as_json: bool,
) -> str | RenderableType:
    """Find the best placement of MODEL.

    MODEL is package.module:name (a module, a class or a function), or hf:FOLDER_OR_CONFIG.JSON.
    Ctrl-C ends the search with the best plan so far, where there is one.

    \b
    partitioner plan examples.seqnet:model --devices 2x16GiB --optimizer adam -o plan.json
    partitioner plan hf:config.json --devices 2xa100-40gb --input 'input_ids=i64[2,128]'
    partitioner plan examples.seqnet:model --from plan.json --pin lin2=cuda:1
    """
    old = None if old_file is None else Plan.load(old_file)
    demands = [parse_constraint(text) for text in (*(f"pin {pin}" for pin in pins), *constraints)]
    if devices is None and old is None:
        raise click.UsageError("Missing option '--devices' (or --from PLAN).")
    given = old.cluster.cluster() if devices is None and old else devices
    cluster = Cluster.of(given, read_memory(memory))
    cost_model = read_cost_model(times, cluster)
    call = given_call(input_texts, inputs) or (None if old is None else planned_call(old))
    args, kwargs = call or (None, None)
    pipeline = None if old is None else old.pipeline
    targets = read_targets(target_texts)
    with steps() as progress:
        progress("loading the model")
        found = make_plan(
            adapted(load_model(model), dtype, checkpoints),
            cluster,
            args,
            example_kwargs=kwargs,
            mode=mode or (old.mode if old else None),
            optimizer=optimizer or (old.optimizer if old else None),
            objective=objective or (old.objective if old else "latency"),
            constraints=_together(old, demands),
            cost_model=cost_model,
            micro_batches=micro_batches or (pipeline.micro_batches if pipeline else 1),
            schedule=schedule or (pipeline.schedule if pipeline else "1f1b"),
            stages_per_rank=stages_per_rank or (pipeline.stages_per_rank if pipeline else 1),
            cache_tokens=cache_tokens or (old.cache_tokens if old else None),
            time_limit=time_limit,
            seed=seed,
            progress=progress,
            replicas=replicas or (len(pipeline.pipelines) if pipeline else 1),
            loss=loss_of_plan(old, loss, targets) if old else loss,
            targets=None if old else targets,
            start=old,
        )
    if output is not None:
        found.save(output)
    changes = None
    if old is not None and old_file is not None:
        changes = difference_renderable(found.changes_from(old), (Path(old_file).name, "now"))
    if as_json:
        if changes is not None:
            note(as_text(changes))
        return found.to_json()
    return plan_renderable(found) if changes is None else Group(
        plan_renderable(found), Text(), changes
    )  # fmt: skip


def planned_call(found: Plan) -> Call:
    """The call of a plan; of a pipeline's, on a whole batch."""
    call = example_of(found.inputs)
    return call if found.pipeline is None else whole_batch(*call, found.pipeline.micro_batches)


def _together(old: Plan | None, demands: Sequence[Constraint]) -> list[Constraint]:
    """The old plan's constraints and the new ones; a pin takes the place of one of its pattern."""
    before = [] if old is None else [parse_constraint(text) for text in old.constraints]
    anew = {demand.pattern for demand in demands if isinstance(demand, Pin)}
    kept = [each for each in before if not (isinstance(each, Pin) and each.pattern in anew)]
    return [*(each for each in kept if each not in demands), *demands]
