"""What a command shows: its result on standard output, all else on standard error."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PIPE_WIDTH = 110
"""Columns of a table that goes into a pipe or file."""


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


@contextlib.contextmanager
def steps() -> Iterator[Callable[[str], None]]:
    """Show the current step on a terminal; say nothing into a pipe."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda line: None
        return
    with console.status("") as status:
        yield lambda line: status.update(line)


@contextlib.contextmanager
def counted() -> Iterator[Callable[[int, int, str], None]]:
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


def warn(text: str) -> None:
    """A warning on standard error."""
    click.echo(f"{click.style('warning:', fg='yellow', bold=True)} {text}", err=True)


def note(text: str) -> None:
    """What belongs beside the result, on standard error."""
    click.echo(text, err=True)
