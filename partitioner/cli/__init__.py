"""The command line: arguments, exit codes, and the only printing.

A command returns what belongs on standard output. While it works, whatever models and libraries
print there goes to standard error, so that a document on standard output is a document.
"""

from __future__ import annotations

import gc
import io
import sys

from partitioner.cli.comparing import compare
from partitioner.cli.group import INTERRUPTED, cli
from partitioner.cli.machine import devices, measure
from partitioner.cli.planning import plan
from partitioner.cli.saved import draw, emit, report, show
from partitioner.cli.sweeping import sweep
from partitioner.cli.verifying import verify

__all__ = ["INTERRUPTED", "cli", "main"]

for _command in (plan, sweep, show, draw, report, emit, verify, compare, measure, devices):
    cli.add_command(_command)


def main() -> None:
    """The console script."""
    gc.freeze()  # all that is imported by now stays: the collector need not search it
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    cli(prog_name="partitioner")
