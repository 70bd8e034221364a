"""Options that several commands share, and what reads their values."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import click
import torch
from click.shell_completion import CompletionItem
from torch import nn

from cost_models import DEVICE_KINDS, CostModel, MeasuredCostModel, RooflineCostModel
from partitioner.cli.console import warn
from partitioner.errors import SpecError
from partitioner.lean import checkpointed
from partitioner.loading import Call, load_inputs, parse_dtype, parse_inputs
from partitioner.schedule import SCHEDULES
from partitioner.spec import MODES, OBJECTIVES, Cluster, nearest

Command = TypeVar("Command", bound=Callable[..., Any])


OPTIMIZERS = ("adadelta", "adafactor", "adagrad", "adam", "adamax", "adamw", "rmsprop", "sgd")
"""Names to complete; others of `torch.optim` are taken as well."""


class OneOf(click.Choice[str]):
    """A choice that answers a misspelling with the nearest spelling."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The choice that was meant."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            close = nearest(str(value), list(self.choices), count=1)
            more = f" Did you mean '{close[0]}'?" if close else ""
            self.fail(f"{error.message}{more}", param, ctx)


def _kinds(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Kinds of devices after a count such as `2x`, and cluster files."""
    begun = re.fullmatch(r"([\d.]+x)(.*)", incomplete or "1x")
    if begun is None:
        return complete_files(ctx, param, incomplete)
    count, kind = begun.groups()
    return [CompletionItem(f"{count}{name}") for name in DEVICE_KINDS if name.startswith(kind)]


def complete_files(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Files, as the shell finds them."""
    return [CompletionItem(incomplete, type="file")]


def _optimizers(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    return [name for name in OPTIMIZERS if name.startswith(incomplete)]


plan_argument = click.argument("plan_file", metavar="PLAN", shell_complete=complete_files)
"""A saved plan."""


def devices_option(*names: str, **options: Any) -> Callable[[Command], Command]:
    """The option `--devices`, with completion of kinds."""
    return click.option("--devices", *names, metavar="DEVICES", shell_complete=_kinds, **options)


def mode_option(default: str) -> Callable[[Command], Command]:
    """The option `--mode`."""
    return click.option("--mode", type=OneOf(MODES), help=f"Default: {default}.")


def objective_option(default: str) -> Callable[[Command], Command]:
    """The option `--objective`; `None` where it is not given."""
    return click.option("--objective", type=OneOf(OBJECTIVES), help=f"Default: {default}.")


def optimizer_option(default: str) -> Callable[[Command], Command]:
    """The option `--optimizer`."""
    return click.option(
        "--optimizer",
        metavar="NAME",
        shell_complete=_optimizers,
        help=f"Its state takes memory: adam, adamw, sgd, ... Default: {default}.",
    )


def output_option(
    check: Callable[[str], str] | None = None, required: bool = False
) -> Callable[[Command], Command]:
    """The option `-o`, checked before any work is done; `check` refuses suffixes."""

    def checked(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
        if value is not None:
            path = Path(value)
            if path.is_dir():
                raise click.BadParameter(f"'{value}' is a folder")
            if not path.resolve().parent.is_dir():
                raise click.BadParameter(f"there is no folder '{path.parent}'")
            if check is not None:
                try:
                    check(value)
                except SpecError as error:
                    raise click.BadParameter(str(error)) from error
        return value

    return click.option(
        "-o",
        "--output",
        required=required,
        callback=checked,
        metavar="FILE",
        shell_complete=complete_files,
        help="Write there, whole or not at all.",
    )


def model_options(command: Command) -> Command:
    """The options that change the model before anything else is done with it."""
    command = click.option(
        "--checkpoint",
        "checkpoints",
        multiple=True,
        metavar="MODULES",
        help="Recompute activations in modules such as 'model.layers.*'; repeatable.",
    )(command)
    return click.option(
        "--dtype", metavar="TYPE", help="Cast the model: 'bf16', 'f16', 'f32', ..."
    )(command)


def adapted(model: nn.Module, dtype: str | None, checkpoints: tuple[str, ...]) -> nn.Module:
    """The model under `model_options`."""
    if dtype is not None:
        target = parse_dtype(dtype)
        if not target.is_floating_point:
            raise SpecError(f"--dtype {dtype}: a model is cast to a floating type, such as bf16")
        model = model.to(target)
    return checkpointed(model, *checkpoints) if checkpoints else model


def call_options(command: Command) -> Command:
    """The options that give the example call."""
    command = click.option(
        "--inputs", metavar="MODULE:NAME", help="Inputs from Python: a tensor, tuple or dict."
    )(command)
    return click.option(
        "--input",
        "input_texts",
        multiple=True,
        metavar="[NAME=]TYPE[SIZES]",
        help="An input, such as 'f32[64,1,28,28]' or 'input_ids=i64[2,128]'; repeatable.",
    )(command)


def given_call(input_texts: tuple[str, ...], inputs: str | None) -> Call | None:
    """The call that `call_options` give; `None` where they give none."""
    if input_texts and inputs:
        raise SpecError("give either --input or --inputs, not both")
    if inputs:
        return load_inputs(inputs)
    return parse_inputs(input_texts) if input_texts else None


def loss_options(command: Command) -> Command:
    """The options that give the loss of a training step."""
    command = click.option(
        "--target",
        "target_texts",
        multiple=True,
        metavar="TYPE[SIZES]",
        help="What the loss compares with, such as 'i64[64]', where the output does not tell.",
    )(command)
    return click.option(
        "--loss",
        metavar="NAME",
        help="Counts in training: cross_entropy, mse_loss, ..., or MODULE:NAME of a function.",
    )(command)


def read_targets(texts: tuple[str, ...]) -> tuple[torch.Tensor, ...] | None:
    """The examples that `--target` tells the sizes of."""
    args, kwargs = parse_inputs(texts)
    if kwargs:
        raise SpecError(f"--target takes a type and sizes, not a name ('{next(iter(kwargs))}')")
    return args or None


def replicas_option(command: Command) -> Command:
    """The option that asks for several equal pipelines; `None` where it is not given."""

    def read(
        ctx: click.Context, param: click.Parameter, value: str | None
    ) -> int | Literal["auto"] | None:
        if value is None or value == "auto":
            return "auto" if value else None
        if not value.isdecimal() or int(value) < 1:
            raise click.BadParameter(f"'{value}' is neither a number of at least 1 nor 'auto'")
        return int(value)

    return click.option(
        "--replicas",
        callback=read,
        metavar="NUMBER|auto",
        help="Equal pipelines that train together, each on a batch of its own. Default: 1.",
    )(command)


def cost_model_option(command: Command) -> Command:
    """The option whose value `read_cost_model` reads."""
    return click.option(
        "--cost-model",
        "times",
        metavar="TIMES",
        shell_complete=complete_files,
        help="Times that 'partitioner measure' wrote. Default: reckoned from datasheets.",
    )(command)


def read_cost_model(times: str | None, cluster: Cluster) -> CostModel:
    """The measured times of a file for `cluster`, or a roofline without a file."""
    if times is None:
        return RooflineCostModel()
    cost_model = MeasuredCostModel.load(times)
    measured = sorted(kind for kind, table in cost_model.measurements.items() if table)
    kinds = dict.fromkeys(device.figures().name for device in cluster.devices)
    foreign = ", ".join(f"'{kind}'" for kind in kinds if kind not in measured)
    if not foreign:
        return cost_model
    found = f"'{times}' has times of {', '.join(map(repr, measured)) or 'nothing'}"
    if not any(kind in measured for kind in kinds):
        raise SpecError(
            f"{found}, and the devices are of kind {foreign}; measure on such a device, or declare "
            "the kind that was measured"
        )
    warn(f"{found}; {foreign} is reckoned from its datasheet")
    return cost_model


def read_memory(text: str | None) -> str | dict[str, str] | None:
    """`16GiB`, or `cuda:0=24GiB,cuda:1=16GiB`."""
    if text is None or "=" not in text:
        return text
    return {
        name.strip(): size.strip()
        for name, _, size in (part.partition("=") for part in text.split(","))
    }


def positive(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    """Refuse what is not above 0 and finite."""
    if value is not None and not 0 < value < float("inf"):
        raise click.BadParameter("must be above 0 and finite")
    return value


def pipeline_options(command: Command) -> Command:
    """The options of a pipeline; `None` where they are not given."""
    at_least_one = click.IntRange(min=1)
    command = click.option(
        "--stages-per-rank", type=at_least_one, help="Of the pipeline. Default: 1."
    )(command)
    command = click.option(
        "--schedule", type=OneOf(SCHEDULES), help=f"Of it. Default: {SCHEDULES[0]}."
    )(command)
    return click.option(
        "--micro-batches",
        type=at_least_one,
        help="Divide the batch and plan a pipeline, for --objective throughput. Default: 1.",
    )(command)
