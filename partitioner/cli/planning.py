"""Commands that search: `plan`."""

from __future__ import annotations

import click
from rich.console import RenderableType

from partitioner.cli.console import steps
from partitioner.cli.options import (
    adapted,
    call_options,
    cost_model_option,
    given_call,
    model_options,
    output_option,
    positive,
    read_cost_model,
    read_memory,
)
from partitioner.compiler import plan as make_plan
from partitioner.loading import load_model
from partitioner.report import plan_renderable
from partitioner.schedule import SCHEDULES
from partitioner.spec import MODES, OBJECTIVES, Cluster, parse_constraint


@click.command()
@click.argument("model")
@click.option(
    "--devices",
    required=True,
    metavar="DEVICES",
    help="'2x16GiB', '2xa100-40gb', 'cuda:0=24GiB,cuda:1=16GiB' or a cluster file.",
)
@model_options
@call_options
@click.option("--mode", type=click.Choice(MODES), help="Default: as the model is.")
@click.option("--optimizer", metavar="NAME", help="Its state takes memory: adam, adamw, sgd, ...")
@click.option("--objective", type=click.Choice(OBJECTIVES), default="latency", show_default=True)
@click.option("--memory", metavar="SIZE", help="Limit: '16GiB' or 'cuda:0=24GiB,cuda:1=16GiB'.")
@click.option(
    "--constraint",
    "constraints",
    multiple=True,
    metavar="TEXT",
    help="'pin lm_head=cuda:1', 'colocate a,b', 'separate a,b' or 'contiguous'; repeatable.",
)
@click.option(
    "--micro-batches",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Divide the batch and plan a pipeline, for --objective throughput.",
)
@click.option(
    "--schedule",
    type=click.Choice(SCHEDULES),
    default=SCHEDULES[0],
    show_default=True,
    help="Of the pipeline.",
)
@click.option(
    "--stages-per-rank",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Of the pipeline.",
)
@cost_model_option
@click.option("--time-limit", type=float, callback=positive, metavar="SECONDS")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the solver.")
@output_option()
@click.option("--json", "as_json", is_flag=True, help="The document on standard output.")
def plan(
    model: str,
    devices: str,
    input_texts: tuple[str, ...],
    inputs: str | None,
    dtype: str | None,
    checkpoints: tuple[str, ...],
    mode: str | None,
    optimizer: str | None,
    objective: str,
    memory: str | None,
    constraints: tuple[str, ...],
    micro_batches: int,
    schedule: str,
    stages_per_rank: int,
    times: str | None,
    time_limit: float | None,
    seed: int,
    output: str | None,
    as_json: bool,
) -> str | RenderableType:
    """Find the best placement of MODEL.

    MODEL is package.module:name (a module, a class or a function), or hf:FOLDER_OR_CONFIG.JSON.
    """
    demands = [parse_constraint(text) for text in constraints]
    cluster = Cluster.of(devices, read_memory(memory))
    cost_model = read_cost_model(times, cluster)
    args, kwargs = given_call(input_texts, inputs) or (None, None)
    with steps() as progress:
        progress("loading the model")
        found = make_plan(
            adapted(load_model(model), dtype, checkpoints),
            cluster,
            args,
            example_kwargs=kwargs,
            mode=mode,
            optimizer=optimizer,
            objective=objective,
            constraints=demands,
            cost_model=cost_model,
            micro_batches=micro_batches,
            schedule=schedule,
            stages_per_rank=stages_per_rank,
            time_limit=time_limit,
            seed=seed,
            progress=progress,
        )
    if output is not None:
        found.save(output)
    return found.to_json() if as_json else plan_renderable(found)
