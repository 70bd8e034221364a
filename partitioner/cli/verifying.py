"""The command `verify`."""

from __future__ import annotations

import click

from partitioner.cli.console import steps
from partitioner.cli.group import Talking
from partitioner.cli.options import (
    adapted,
    call_options,
    given_call,
    loss_options,
    model_options,
    plan_argument,
    read_targets,
)
from partitioner.cli.planning import planned_call
from partitioner.errors import SolverError
from partitioner.loading import load_model, with_values
from partitioner.plan import Plan
from partitioner.spec import format_nbytes
from partitioner.verify import VerifyReport
from partitioner.verify import verify as verify_plan


@click.command(cls=Talking)
@click.argument("model")
@plan_argument
@model_options
@call_options
@loss_options
@click.option("--seed", type=int, default=0, show_default=True, help="Of weights and inputs.")
def verify(
    model: str,
    plan_file: str,
    input_texts: tuple[str, ...],
    inputs: str | None,
    dtype: str | None,
    checkpoints: tuple[str, ...],
    loss: str | None,
    target_texts: tuple[str, ...],
    seed: int,
) -> str:
    """Run MODEL and its placement by PLAN side by side.

    On the GPUs of the plan where they are here, else on virtual ones: outputs, gradients, two
    optimizer steps, and measured against promised memory.

    \b
    partitioner verify examples.seqnet:model plan.json
    """
    found = Plan.load(plan_file)
    original = adapted(load_model(model, materialised=True, seed=seed), dtype, checkpoints)
    call = given_call(input_texts, inputs) or planned_call(found)
    args, kwargs = with_values(call, original, seed)
    with steps() as progress:
        progress("running both")
        report = verify_plan(
            original, found, args, kwargs, loss=loss, targets=read_targets(target_texts), seed=seed
        )
    text = _report(report)
    if not report.passed:
        raise VerificationFailed(text)
    return text


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
