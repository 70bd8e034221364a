"""Processes of their own, forked from one that has already imported what they need.

`FORKS` is the context of `multiprocessing` for it; all tests of one process share its server.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import runpy
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "torch._dynamo",
        "torch.distributed.checkpoint",
        "torch.distributed.launcher.api",
        "torch.distributed.pipelining",
        "partitioner.cli",
        "tests.distributed.models",
    ]
)
ROOT = Path(__file__).parent.parent


class Done(NamedTuple):
    """What a process left."""

    returncode: int
    stdout: str
    stderr: str


class Forked:
    """A function that is called in a process of its own.

    Args:
        folder: for what it prints: `stdout` and `stderr`.
        function: to call; a `SystemExit` is its exit code.
        args: for it.
    """

    def __init__(self, folder: Path, function: Callable[..., object], *args: Any) -> None:
        self.out, self.err = folder / "stdout", folder / "stderr"
        for file in (self.out, self.err):
            file.write_text("")
        self.process = FORKS.Process(
            target=_printing, args=(str(self.out), str(self.err), function, args)
        )
        with contextlib.chdir(ROOT):  # from where the server, if it begins now, imports
            self.process.start()

    def finished(self, seconds: float = 500) -> Done:
        """Wait for its end, and bring it about after some seconds."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.terminate()
            self.process.join()
        return Done(self.process.exitcode or 0, self.out.read_text(), self.err.read_text())


def program(
    module: str,
    arguments: tuple[str, ...],
    folder: str,
    paths: tuple[str, ...] = (),
) -> None:
    """Be `python -m MODULE ARGUMENTS`, in a folder, with more paths to import from.

    Ctrl-C interrupts it, as it does a program that a shell starts.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    sys.path[:0] = paths
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _printing(out: str, err: str, function: Callable[..., object], args: Any) -> None:
    for name, stream in ((out, 1), (err, 2)):
        os.dup2(os.open(name, os.O_WRONLY | os.O_TRUNC), stream)
    try:
        function(*args)
    finally:
        ctypes.CDLL(None).fflush(None)  # what C libraries print; the process ends abruptly
