"""The command `sweep`."""

from __future__ import annotations

import click
from rich.console import RenderableType

from partitioner.cli.console import steps
from partitioner.cli.group import Talking
from partitioner.cli.options import (
    adapted,
    call_options,
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
    read_targets,
)
from partitioner.loading import load_model
from partitioner.report import check_sweep_suffix, sweep_renderable
from partitioner.spec import Cluster, counted, parse_constraint
from partitioner.sweep import sweep as make_sweep


@click.command(cls=Talking)
@click.argument("model")
@devices_option(
    "ranges",
    required=True,
    multiple=True,
    help="A range such as '1..8x24GiB', or what 'plan' takes; repeatable.",
)
@click.option("--batch", "batches", metavar="SIZES", help="Such as '1,2,4,8'. Default: as given.")
@model_options
@call_options
@mode_option("as the model is")
@optimizer_option("none")
@loss_options
@objective_option("latency")
@click.option(
    "--constraint", "constraints", multiple=True, metavar="TEXT", help="As of 'plan'; repeatable."
)
@pipeline_options
@cost_model_option
@click.option(
    "--time-limit", type=float, callback=positive, metavar="SECONDS", help="For the whole sweep."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the solver.")
@output_option(check_sweep_suffix)
def sweep(
    model: str,
    ranges: tuple[str, ...],
    batches: str | None,
    input_texts: tuple[str, ...],
    inputs: str | None,
    dtype: str | None,
    checkpoints: tuple[str, ...],
    mode: str | None,
    optimizer: str | None,
    loss: str | None,
    target_texts: tuple[str, ...],
    objective: str | None,
    constraints: tuple[str, ...],
    micro_batches: int | None,
    schedule: str | None,
    stages_per_rank: int | None,
    times: str | None,
    time_limit: float | None,
    seed: int,
    output: str | None,
) -> RenderableType:
    """Plan MODEL for several batches on several clusters: what each takes, and what fits.

    The table goes to standard output; -o writes it as .csv or .json, or draws it as .svg, .png or
    .pdf.

    \b
    partitioner sweep examples.seqnet:model --devices 1..4x4MiB --batch 64,256,1024
    partitioner sweep hf:config.json --devices 1..8x24GiB --batch 1,2,4,8 -o sweep.svg
    """
    demands = [parse_constraint(text) for text in constraints]
    clusters = [cluster for each in ranges for cluster in counted(each)]
    cost_model = read_cost_model(times, Cluster.of(clusters[0]))
    args, kwargs = given_call(input_texts, inputs) or (None, None)
    with steps() as progress:
        progress("loading the model")
        found = make_sweep(
            adapted(load_model(model), dtype, checkpoints),
            clusters,
            args,
            batches=_sizes(batches),
            example_kwargs=kwargs,
            mode=mode,
            optimizer=optimizer,
            objective=objective or "latency",
            constraints=demands,
            cost_model=cost_model,
            micro_batches=micro_batches or 1,
            schedule=schedule or "1f1b",
            stages_per_rank=stages_per_rank or 1,
            time_limit=time_limit,
            seed=seed,
            progress=progress,
            loss=loss,
            targets=read_targets(target_texts),
        )
    if output is not None:
        found.save(output)
    return sweep_renderable(found)


def _sizes(text: str | None) -> list[int]:
    """Batches out of `1,2,4,8`."""
    try:
        return [int(each) for each in text.split(",")] if text is not None else []
    except ValueError:
        raise click.BadParameter(
            f"'{text}' must be whole numbers such as '1,2,4,8'", param_hint="'--batch'"
        ) from None
