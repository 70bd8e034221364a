"""Commands that read a saved plan: `show`, `draw`, `report` and `emit`."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import RenderableType

from partitioner.cli.group import Talking
from partitioner.cli.options import (
    OneOf,
    output_option,
    plan_argument,
)
from partitioner.distributed import training_script
from partitioner.errors import SpecError
from partitioner.plan import Plan
from partitioner.report import DRAWINGS, plan_renderable, renderer, write_whole


@click.command(cls=Talking)
@plan_argument
@click.option("--explain", is_flag=True, help="Why it is like this, instead of what it is.")
def show(plan_file: str, explain: bool) -> str | RenderableType:
    """Show a saved plan.

    \b
    partitioner show plan.json
    partitioner show plan.json --explain
    """
    found = Plan.load(plan_file)
    return found.explain() if explain else plan_renderable(found)


@click.command(cls=Talking)
@plan_argument
@click.option(
    "--what",
    type=OneOf(tuple(DRAWINGS)),
    help="Default: the page for .html, the timeline for .json, else the graph.",
)
@output_option(required=True)
def draw(plan_file: str, what: str | None, output: str) -> None:
    """Draw a saved plan into a file, by its suffix.

    \b
    graph      .svg .png .pdf .dot .graphml, .json for Model Explorer
    timeline   .svg .png .pdf, .json for Perfetto and chrome://tracing
    memory     .svg .png .pdf, of each device in the course of a step
    overlay    .json, devices as Model Explorer's node data; overlay-time: seconds
    page       .html, all of it, to look into

    \b
    partitioner draw plan.json -o plan.svg
    partitioner draw plan.json --what timeline -o timeline.pdf
    """
    renderer(output, what)
    Plan.load(plan_file).draw(output, what)


@click.command(cls=Talking)
@plan_argument
@output_option(required=True)
def report(plan_file: str, output: str) -> None:
    """Write a saved plan as one page, to look into it in a browser: a .html file.

    \b
    partitioner report plan.json -o report.html
    """
    renderer(output, "page")
    Plan.load(plan_file).draw(output, "page")


@click.command(cls=Talking)
@plan_argument
@click.option(
    "--target",
    type=click.Choice(("module", "pipeline")),
    default="module",
    show_default=True,
    help="The placed model, or a training loop for torchrun.",
)
@click.option("--model", metavar="MODULE:NAME", help="For 'pipeline': gives the model.")
@click.option(
    "--replicas",
    type=click.IntRange(min=1),
    help="For 'pipeline': copies that train together. Default: as planned.",
)
@output_option()
def emit(
    plan_file: str, target: str, model: str | None, replicas: int | None, output: str | None
) -> str | None:
    """Write a saved plan as readable Python.

    \b
    partitioner emit plan.json -o placed.py
    partitioner emit plan.json --target pipeline --model examples.seqnet:model -o train.py
    """
    found = Plan.load(plan_file)
    if target == "pipeline":
        if found.pipeline is None or found.mode != "train" or model is None:
            raise SpecError(
                "--target pipeline needs a plan that trains several micro-batches (see 'plan "
                "--micro-batches') and --model MODULE:NAME"
            )
        copies = replicas or len(found.pipeline.pipelines)
        source = training_script(
            found.pipeline, found.inputs, Path(plan_file).resolve(), model, copies
        )
    else:
        source = found.source()
    if output is None:
        return source
    write_whole(output, source.encode())
    return None
