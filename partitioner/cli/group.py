"""The group of all commands: their errors become a line and an exit code."""

from __future__ import annotations

import os
import traceback
import warnings
from typing import Any

import click

from cost_models import CostModelError
from partitioner.cli.console import TALK, quiet_stdout, show
from partitioner.errors import InfeasibleError, PartitionerError, SolverError, TimeLimitError
from partitioner.spec import nearest

BAD_INPUT = 2
NOTHING_FITS = 3
OUT_OF_TIME = 4
OUR_FAULT = 1
INTERRUPTED = 130


class Talking(click.Command):
    """A command that can be told to say less or more; its standard output is its result alone."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name, short, what in (
            ("quiet", "-q", "Say nothing but the result and errors."),
            ("verbose", "-v", "Tell every step, with the seconds passed."),
        ):
            self.params.append(
                click.Option(
                    [short, f"--{name}"],
                    is_flag=True,
                    expose_value=False,
                    callback=_talk,
                    help=what,
                )
            )

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with quiet_stdout():
            return super().invoke(ctx)


def _talk(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta[TALK] = param.name


class Commands(click.Group):
    """Commands whose errors become a line on standard error and an exit code."""

    def invoke(self, ctx: click.Context) -> None:
        """Run the command and show what it returns."""
        debug = ctx.params["debug"]
        if os.environ.get("NO_COLOR"):
            ctx.color = False
        try:
            with warnings.catch_warnings():
                if not debug:
                    warnings.simplefilter("ignore")
                result = super().invoke(ctx)
            show(result)
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

    \b
    Completion of commands, options, kinds of devices and files in bash (or zsh, fish):
    eval "$(_PARTITIONER_COMPLETE=bash_source partitioner)"
    """
