"""Commands that judge placements: `verify` and `compare`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click
from rich.console import RenderableType

from partitioner.capture import example_call, example_of
from partitioner.cli.console import steps
from partitioner.cli.options import (
    adapted,
    call_options,
    cost_model_option,
    given_call,
    model_options,
    read_cost_model,
)
from partitioner.compare import compare as compare_placements
from partitioner.compare import state_devices
from partitioner.distributed import whole_batch
from partitioner.errors import SolverError, SpecError
from partitioner.loading import Call, load_model, with_values
from partitioner.options import Options, mode_of
from partitioner.plan import Plan
from partitioner.report import comparison_renderable
from partitioner.spec import MODES, OBJECTIVES, Cluster, format_nbytes
from partitioner.verify import VerifyReport
from partitioner.verify import verify as verify_plan


@click.command()
@click.argument("model")
@click.argument("plan_file", metavar="PLAN")
@model_options
@call_options
@click.option("--seed", type=int, default=0, show_default=True, help="Of weights and inputs.")
def verify(
    model: str,
    plan_file: str,
    input_texts: tuple[str, ...],
    inputs: str | None,
    dtype: str | None,
    checkpoints: tuple[str, ...],
    seed: int,
) -> str:
    """Run MODEL and its placement by PLAN side by side.

    On the GPUs of the plan where they are here, else on virtual ones: outputs, gradients, two
    optimizer steps, and measured against promised memory.
    """
    found = Plan.load(plan_file)
    original = adapted(load_model(model, materialised=True, seed=seed), dtype, checkpoints)
    call = given_call(input_texts, inputs) or _planned_call(found)
    args, kwargs = with_values(call, original, seed)
    with steps() as progress:
        progress("running both")
        report = verify_plan(original, found, args, kwargs, seed=seed)
    text = _report(report)
    if not report.passed:
        raise VerificationFailed(text)
    return text


def _planned_call(found: Plan) -> Call:
    """The call of a plan; of a pipeline's, on a whole batch."""
    call = example_of(found.inputs)
    return call if found.pipeline is None else whole_batch(*call, found.pipeline.micro_batches)


class VerificationFailed(SolverError):
    """The placed module does not do what the original does."""


def _report(report: VerifyReport) -> str:
    lines = [f"original and placed side by side, on {report.on}:"]
    for comparison in report.comparisons:
        result = (
            f"DIFFERENT: {', '.join(comparison.differing[:5])}" if comparison.differing else "equal"
        )
        lines.append(
            f"  {comparison.what}: {result} ({comparison.tensors} tensors, largest difference "
            f"{comparison.largest_difference:.3g})"
        )
    for device, measured in report.measured_peak_nbytes.items():
        promised = report.promised_peak_nbytes[device]
        lines.append(
            f"  {device}: measured peak {format_nbytes(measured)}, promised "
            f"{format_nbytes(promised)}"
        )
    return "\n".join(lines)


@click.command()
@click.argument("model")
@click.argument("candidates", nargs=-1, required=True, metavar="PLAN_OR_HANDSPLIT...")
@model_options
@call_options
@click.option("--devices", metavar="DEVICES", help="Default: those of the first plan.")
@click.option("--mode", type=click.Choice(MODES), help="Default: that of the first plan.")
@click.option("--optimizer", metavar="NAME", help="Default: that of the first plan.")
@click.option("--objective", type=click.Choice(OBJECTIVES), help="Default: that of the first plan.")
@cost_model_option
def compare(
    model: str,
    candidates: tuple[str, ...],
    input_texts: tuple[str, ...],
    inputs: str | None,
    dtype: str | None,
    checkpoints: tuple[str, ...],
    devices: str | None,
    mode: str | None,
    optimizer: str | None,
    objective: str | None,
    times: str | None,
) -> RenderableType:
    """Put placements of MODEL side by side under one cost model.

    Each of PLAN_OR_HANDSPLIT is a saved plan, or package.module:name of a model that was split by
    hand, whose placement is read off its parameters.
    """
    plans = {name: Plan.load(name) for name in candidates if not _is_reference(name)}
    first = next(iter(plans.values()), None)
    if devices is not None:
        cluster = Cluster.of(devices)
    elif first is not None:
        cluster = first.cluster.cluster()
    else:
        raise SpecError("without a plan among the candidates, say --devices")
    cost_model = read_cost_model(times, cluster)
    original = adapted(load_model(model), dtype, checkpoints)
    args, kwargs = given_call(input_texts, inputs) or (None, None)
    if first is not None and args is None:
        args, kwargs = example_of(first.inputs)
    with steps() as progress:
        options = Options(
            mode=mode_of(original, mode or (first.mode if first else None)),
            objective=objective or (first.objective if first else "latency"),
            optimizer=optimizer or (first.optimizer if first else None),
            cost_model=cost_model,
            progress=progress,
        )
        rows = compare_placements(
            original,
            {
                name: plans[name]
                if name in plans
                else state_devices(partial(load_model, name), cluster)
                for name in candidates
            },
            example_call(original, args, kwargs),
            cluster,
            options,
        )
    return comparison_renderable(rows, options.objective)


def _is_reference(text: str) -> bool:
    """Whether a candidate is Python's `package.module:name` and not a file."""
    return ":" in text and not Path(text).exists()
