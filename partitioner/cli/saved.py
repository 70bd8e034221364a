"""Commands that read a saved plan: `show`, `draw` and `emit`."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import RenderableType

from partitioner.cli.options import output_option
from partitioner.distributed import training_script
from partitioner.errors import SpecError
from partitioner.plan import Plan
from partitioner.report import check_suffix, plan_renderable, write_whole


@click.command()
@click.argument("plan_file", metavar="PLAN")
@click.option("--explain", is_flag=True, help="Why it is like this, instead of what it is.")
def show(plan_file: str, explain: bool) -> str | RenderableType:
    """Show a saved plan."""
    found = Plan.load(plan_file)
    return found.explain() if explain else plan_renderable(found)


@click.command()
@click.argument("plan_file", metavar="PLAN")
@output_option(check_suffix, required=True)
def draw(plan_file: str, output: str) -> None:
    """Draw a saved plan into a .svg, .png, .dot or .html file."""
    Plan.load(plan_file).draw(output)


@click.command()
@click.argument("plan_file", metavar="PLAN")
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
    default=1,
    show_default=True,
    help="For 'pipeline': copies that train together.",
)
@output_option()
def emit(
    plan_file: str, target: str, model: str | None, replicas: int, output: str | None
) -> str | None:
    """Write a saved plan as readable Python."""
    found = Plan.load(plan_file)
    if target == "pipeline":
        if found.pipeline is None or found.mode != "train" or model is None:
            raise SpecError(
                "--target pipeline needs a plan that trains several micro-batches (see 'plan "
                "--micro-batches') and --model MODULE:NAME"
            )
        source = training_script(
            found.pipeline, found.inputs, Path(plan_file).resolve(), model, replicas
        )
    else:
        source = found.source()
    if output is None:
        return source
    write_whole(output, source.encode())
    return None
