"""The command line: arguments, exit codes, and the only printing.

A command returns what belongs on standard output. While it works, whatever models and libraries
print there goes to standard error, so that a document on standard output is a document.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from cost_models import (
    CostModel,
    CostModelError,
    MeasuredCostModel,
    RooflineCostModel,
    local_device,
)
from partitioner.capture import example_call, example_of
from partitioner.compare import compare as compare_placements
from partitioner.compare import state_devices
from partitioner.compiler import plan as make_plan
from partitioner.distributed import training_script, whole_batch
from partitioner.errors import (
    InfeasibleError,
    PartitionerError,
    SolverError,
    SpecError,
    TimeLimitError,
)
from partitioner.lean import checkpointed
from partitioner.loading import (
    Call,
    load_inputs,
    load_model,
    parse_dtype,
    parse_inputs,
    with_values,
)
from partitioner.machine import inventory, measure_links, surveyed
from partitioner.options import Options, mode_of
from partitioner.plan import Plan
from partitioner.report import (
    check_suffix,
    comparison_renderable,
    plan_renderable,
    write_whole,
)
from partitioner.schedule import SCHEDULES
from partitioner.spec import (
    MODES,
    OBJECTIVES,
    Cluster,
    format_nbytes,
    is_host,
    nearest,
    parse_constraint,
)
from partitioner.verify import VerifyReport
from partitioner.verify import verify as verify_plan

BAD_INPUT = 2
NOTHING_FITS = 3
OUT_OF_TIME = 4
OUR_FAULT = 1
INTERRUPTED = 130
PIPE_WIDTH = 110
"""Columns of a table that goes into a pipe or file."""

Command = TypeVar("Command", bound=Callable[..., Any])


class Commands(click.Group):
    """Commands whose errors become a line on standard error and an exit code."""

    def invoke(self, ctx: click.Context) -> None:
        """Run the command and show what it returns."""
        debug = ctx.params["debug"]
        try:
            with _quiet_stdout(), warnings.catch_warnings():
                if not debug:
                    warnings.simplefilter("ignore")
                result = super().invoke(ctx)
            _show(result)
        except click.exceptions.Exit:
            raise
        except (click.ClickException, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(INTERRUPTED)
        except Exception as error:
            code, text = _told(error)
            if debug:
                traceback.print_exc()
            click.echo(f"{click.style('error:', fg='red', bold=True)} {text}", err=True)
            ctx.exit(code)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; an unknown one is told with the nearest spelling."""
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            close = nearest(args[0], self.list_commands(ctx), count=1)
            more = f"; did you mean '{close[0]}'?" if close else ""
            ctx.fail(f"there is no command '{args[0]}'{more}")
        return super().resolve_command(ctx, args)


def _told(error: Exception) -> tuple[int, str]:
    """The exit code and the message of an error."""
    match error:
        case InfeasibleError():
            return NOTHING_FITS, str(error)
        case TimeLimitError():
            return OUT_OF_TIME, str(error)
        case PartitionerError() if not isinstance(error, SolverError):
            return BAD_INPUT, str(error)
        case CostModelError():
            return BAD_INPUT, str(error)
        case OSError() if error.filename is not None:
            return BAD_INPUT, f"cannot use '{error.filename}': {error.strerror}"
    return OUR_FAULT, (
        f"{type(error).__name__}: {error}\nThis is a fault of partitioner. Please report it with "
        "what --debug prints (partitioner --debug COMMAND ...)."
    )


@contextlib.contextmanager
def _quiet_stdout() -> Iterator[None]:
    """Send what is printed meanwhile, from Python or from C, to standard error."""
    sys.stdout.flush()
    with contextlib.redirect_stdout(sys.stderr), contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            if sys.__stdout__ is not None and sys.__stdout__.fileno() == 1:
                saved = os.dup(1)
                stack.callback(os.close, saved)
                stack.callback(os.dup2, saved, 1)
                os.dup2(2, 1)
        yield


def _show(result: object) -> None:
    """Print what a command returned: a text as it is, anything else through rich."""
    if result is None:
        return
    if isinstance(result, str):
        click.echo(result.rstrip("\n"))
        return
    terminal = sys.stdout.isatty() or "COLUMNS" in os.environ
    console = Console(file=sys.stdout, width=None if terminal else PIPE_WIDTH)
    console.print(result)


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Show the current step on a terminal; say nothing into a pipe."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda line: None
        return
    with console.status("") as status:
        yield lambda line: status.update(line)


@contextlib.contextmanager
def _progress_bar() -> Iterator[Callable[[int, int, str], None]]:
    """Show how many of all things are done and which is next, on a terminal."""
    console = Console(stderr=True)
    columns = (
        BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}")
    )  # fmt: skip
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total, what: bar.update(
            task, completed=done, total=total, description=what
        )


def _warn(text: str) -> None:
    click.echo(f"{click.style('warning:', fg='yellow', bold=True)} {text}", err=True)


def _output(suffixes: bool = False, required: bool = False) -> Callable[[Command], Command]:
    """The option `-o`, checked before any work is done."""

    def checked(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
        if value is not None:
            path = Path(value)
            if path.is_dir():
                raise click.BadParameter(f"'{value}' is a folder")
            if not path.resolve().parent.is_dir():
                raise click.BadParameter(f"there is no folder '{path.parent}'")
            if suffixes:
                try:
                    check_suffix(value)
                except SpecError as error:
                    raise click.BadParameter(str(error)) from error
        return value

    return click.option(
        "-o",
        "--output",
        required=required,
        callback=checked,
        metavar="FILE",
        help="Write there, whole or not at all.",
    )


def _model_options(command: Command) -> Command:
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


def _adapted(model: nn.Module, dtype: str | None, checkpoints: tuple[str, ...]) -> nn.Module:
    """The model under `_model_options`."""
    if dtype is not None:
        target = parse_dtype(dtype)
        if not target.is_floating_point:
            raise SpecError(f"--dtype {dtype}: a model is cast to a floating type, such as bf16")
        model = model.to(target)
    return checkpointed(model, *checkpoints) if checkpoints else model


def _call_options(command: Command) -> Command:
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


def _call(input_texts: tuple[str, ...], inputs: str | None) -> Call | None:
    if input_texts and inputs:
        raise SpecError("give either --input or --inputs, not both")
    if inputs:
        return load_inputs(inputs)
    return parse_inputs(input_texts) if input_texts else None


def _cost_model_option(command: Command) -> Command:
    """The option whose value `_cost_model` reads."""
    return click.option(
        "--cost-model",
        "times",
        metavar="TIMES",
        help="Times that 'partitioner measure' wrote. Default: reckoned from datasheets.",
    )(command)


def _cost_model(times: str | None, cluster: Cluster) -> CostModel:
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
    _warn(f"{found}; {foreign} is reckoned from its datasheet")
    return cost_model


def _memory(text: str | None) -> str | dict[str, str] | None:
    """`16GiB`, or `cuda:0=24GiB,cuda:1=16GiB`."""
    if text is None or "=" not in text:
        return text
    return {
        name.strip(): size.strip()
        for name, _, size in (part.partition("=") for part in text.split(","))
    }


def _positive(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    if value is not None and not 0 < value < float("inf"):
        raise click.BadParameter("must be above 0 and finite")
    return value


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--debug", is_flag=True, envvar="PARTITIONER_DEBUG", help="Show tracebacks and warnings."
)
@click.version_option(package_name="partitioner")
def cli(debug: bool) -> None:
    """Split a PyTorch model over devices, as well as can be proved.

    \b
    partitioner plan examples.seqnet:model --devices 2x16GiB
    partitioner plan hf:config.json --devices 2x24GiB --optimizer adamw -o plan.json
    partitioner draw plan.json -o plan.svg
    """


@cli.command()
@click.argument("model")
@click.option(
    "--devices",
    required=True,
    metavar="DEVICES",
    help="'2x16GiB', '2xa100-40gb', 'cuda:0=24GiB,cuda:1=16GiB' or a cluster file.",
)
@_model_options
@_call_options
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
@click.option(
    "--cache-tokens",
    type=int,
    metavar="N",
    help="For generate, in inference: memory for a key-value cache of N tokens.",
)
@_cost_model_option
@click.option("--time-limit", type=float, callback=_positive, metavar="SECONDS")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the solver.")
@_output()
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
    cache_tokens: int | None,
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
    cluster = Cluster.of(devices, _memory(memory))
    cost_model = _cost_model(times, cluster)
    args, kwargs = _call(input_texts, inputs) or (None, None)
    with _progress() as progress:
        progress("loading the model")
        found = make_plan(
            _adapted(load_model(model), dtype, checkpoints),
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
            cache_tokens=cache_tokens,
            time_limit=time_limit,
            seed=seed,
            progress=progress,
        )
    if output is not None:
        found.save(output)
    return found.to_json() if as_json else plan_renderable(found)


@cli.command()
@click.argument("plan_file", metavar="PLAN")
@click.option("--explain", is_flag=True, help="Why it is like this, instead of what it is.")
def show(plan_file: str, explain: bool) -> str | RenderableType:
    """Show a saved plan."""
    found = Plan.load(plan_file)
    return found.explain() if explain else plan_renderable(found)


@cli.command()
@click.argument("plan_file", metavar="PLAN")
@_output(suffixes=True, required=True)
def draw(plan_file: str, output: str) -> None:
    """Draw a saved plan into a .svg, .png, .dot or .html file."""
    Plan.load(plan_file).draw(output)


@cli.command()
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
@_output()
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


@cli.command()
@click.argument("model")
@click.argument("plan_file", metavar="PLAN")
@_model_options
@_call_options
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
    original = _adapted(load_model(model, materialised=True, seed=seed), dtype, checkpoints)
    call = _call(input_texts, inputs) or _planned_call(found)
    args, kwargs = with_values(call, original, seed)
    with _progress() as progress:
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


@cli.command()
@click.argument("model")
@click.argument("candidates", nargs=-1, required=True, metavar="PLAN_OR_HANDSPLIT...")
@_model_options
@_call_options
@click.option("--devices", metavar="DEVICES", help="Default: those of the first plan.")
@click.option("--mode", type=click.Choice(MODES), help="Default: that of the first plan.")
@click.option("--optimizer", metavar="NAME", help="Default: that of the first plan.")
@click.option("--objective", type=click.Choice(OBJECTIVES), help="Default: that of the first plan.")
@_cost_model_option
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
    cost_model = _cost_model(times, cluster)
    original = _adapted(load_model(model), dtype, checkpoints)
    args, kwargs = _call(input_texts, inputs) or (None, None)
    if first is not None and args is None:
        args, kwargs = example_of(first.inputs)
    with _progress() as progress:
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


@cli.command()
@click.argument("model")
@click.option(
    "--device", default="cpu", show_default=True, help="Of this machine: 'cpu', 'cuda:0', ..."
)
@_model_options
@_call_options
@click.option("--mode", type=click.Choice(MODES), help="Default: as the model is.")
@click.option("--add-to", metavar="TIMES", help="Measure only what is not in there; write both.")
@_output()
def measure(
    model: str,
    device: str,
    input_texts: tuple[str, ...],
    inputs: str | None,
    dtype: str | None,
    checkpoints: tuple[str, ...],
    mode: str | None,
    add_to: str | None,
    output: str | None,
) -> str | None:
    """Time the operators of MODEL on a device of this machine, each distinct one once.

    The times serve any model with equal operators: partitioner plan ... --cost-model TIMES.
    """
    if local_device(device) is None:
        raise SpecError(f"there is no device '{device}' in this machine to measure on")
    cost_model = MeasuredCostModel() if add_to is None else MeasuredCostModel.load(add_to)
    args, kwargs = _call(input_texts, inputs) or (None, None)
    original = _adapted(load_model(model), dtype, checkpoints)
    original.train(mode_of(original, mode) == "train")
    args, kwargs = example_call(original, args, kwargs)
    with _progress_bar() as progress:
        cost_model.measure(original, device, args, example_kwargs=kwargs, progress=progress)
    for signature, why in cost_model.skipped.items():
        _warn(f"'{signature.partition('(')[0]}' was not measured: {why}")
    text = cost_model.to_json()
    if output is None:
        return text
    write_whole(output, text.encode())
    return None


@cli.command()
@click.option("--measure", is_flag=True, help="Measure every link and check what arrives.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the bytes that are sent.")
@_output()
def devices(measure: bool, seed: int, output: str | None) -> str | None:
    """Tell what is in this machine, as a cluster file.

    GPUs with their kinds and memory, and the links between them as CUDA and nvidia-smi tell of
    them, or as they are measured. Links over which copies arrive changed are marked as broken.
    """
    found = inventory()
    if measure:
        gpus = [name for name in found.cluster.names if not is_host(name)]
        if not gpus:
            raise SpecError(
                "there is no GPU that PyTorch can see, and so no link to measure; without "
                "--measure, 'partitioner devices' tells what is there"
            )
        with _progress() as progress:
            found = surveyed(found, measure_links(gpus, seed=seed, progress=progress))
    for warning in found.warnings:
        _warn(warning)
    text = found.to_toml()
    if output is None:
        return text
    write_whole(output, text.encode())
    return None


def main() -> None:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    cli(prog_name="partitioner")
