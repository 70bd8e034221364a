"""What a command shows: its result on standard output, all else on standard error."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PIPE_WIDTH = 110
"""Columns of a table that goes into a pipe or file."""
TALK = "partitioner.talk"
"""Where the context holds how much is told."""
INTERRUPTION = "interrupted: "
"""What steps have in them that tell of an interruption."""


@contextlib.contextmanager
def quiet_stdout() -> Iterator[None]:
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


def show(result: object) -> None:
    """Print what a command returned: a text as it is, anything else through rich."""
    if result is None:
        return
    if isinstance(result, str):
        click.echo(result.rstrip("\n"))
        return
    terminal = sys.stdout.isatty() or "COLUMNS" in os.environ
    console = Console(file=sys.stdout, width=None if terminal else PIPE_WIDTH)
    console.print(result)


def talk(ctx: click.Context) -> str:
    """How much is told on standard error: `"quiet"`, `"normal"` or `"verbose"`."""
    return str(ctx.meta.get(TALK, "normal"))


@contextlib.contextmanager
def steps() -> Iterator[Callable[[str], None]]:
    """Show the current step on a terminal, and every step where that is wanted.

    Interruptions are told anywhere.
    """
    how, console = talk(click.get_current_context()), Console(stderr=True)
    started = time.monotonic()

    def tell(line: str) -> None:
        if INTERRUPTION in line:
            warn(line)
        elif how == "verbose":
            note(f"{time.monotonic() - started:7.1f} s  {line}")
        elif status is not None:
            status.update(escape(line))

    status = console.status("") if console.is_terminal and how == "normal" else None
    with status or contextlib.nullcontext():
        yield tell


@contextlib.contextmanager
def counted() -> Iterator[Callable[[int, int, str], None]]:
    """Show how many of all things are done and which is next, on a terminal."""
    console = Console(stderr=True)
    columns = (
        BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}")
    )  # fmt: skip
    hidden = not console.is_terminal or talk(click.get_current_context()) == "quiet"
    with Progress(*columns, console=console, disable=hidden) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total, what: bar.update(
            task, completed=done, total=total, description=what
        )


def warn(text: str) -> None:
    """A warning on standard error, unless it is to be quiet."""
    if talk(click.get_current_context()) != "quiet":
        click.echo(f"{click.style('warning:', fg='yellow', bold=True)} {text}", err=True)


def note(text: str) -> None:
    """What belongs beside the result, on standard error."""
    click.echo(text, err=True)
