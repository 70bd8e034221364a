"""Jobs of `torchrun`'s agent, forked from a process that has already imported what they need."""

from __future__ import annotations

import runpy
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from tests.forks import Done, Forked


def launch(
    folder: Path,
    processes: int,
    function: Callable[..., None],
    *args: Any,
    seconds: float = 500,
    before: Callable[[], None] | None = None,
) -> Done:
    """Run a function in several processes, as `torchrun` does a script.

    Args:
        folder: of the job's output.
        processes: how many.
        function: called in each with `args`.
        args: for it.
        seconds: after which the job is ended.
        before: called once, before the process divides.
    """
    return Forked(folder, _agent, processes, before, function, args).finished(seconds)


def script(path: str, *arguments: str) -> None:
    """Run a script as a program; to be launched."""
    sys.argv = [path, *arguments]
    runpy.run_path(path, run_name="__main__")


def _agent(
    processes: int,
    before: Callable[[], None] | None,
    function: Callable[..., None],
    args: Any,
) -> None:
    config = LaunchConfig(
        1, 1, processes, rdzv_backend="c10d", rdzv_endpoint="localhost:0", max_restarts=0,
        start_method="fork",
    )  # fmt: skip
    if before is not None:
        before()
    try:
        elastic_launch(config, _worker)(function, args)
    except ChildFailedError as error:
        print(f"{error}", file=sys.stderr)
        sys.exit(1)


def _worker(function: Callable[..., None], args: Any) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    try:
        function(*args)
    except Exception:
        traceback.print_exc()
        sys.exit(1)
