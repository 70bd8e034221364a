"""Functions that run in several processes of `torch.distributed` at once, on gloo."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


def together(processes: int, jobs: Mapping[str, Any]) -> dict[str, Any]:
    """Run functions one after another in `processes` processes, each pinned to one core.

    Args:
        processes: how many there are; cores are dealt out in turn.
        jobs: by `module:function`, the argument, as JSON has it.

    Returns:
        What each function returned on rank 0.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "jobs.json")
        file.write_text(json.dumps(jobs))
        done = subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--standalone",
             "--nproc-per-node", str(processes), "-m", "benchmarks.processes", str(file)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )  # fmt: skip
    told = [line for line in done.stdout.splitlines() if line.startswith("told:")]
    if done.returncode or not told:
        raise RuntimeError(done.stderr[-3000:])
    answers: dict[str, Any] = json.loads(told[0].removeprefix("told:"))
    return answers


def pin(rank: int) -> None:
    """Keep this process on one core, and on one thread."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[rank % len(cores)]})
    torch.set_num_threads(1)


def main() -> None:
    """One of the processes."""
    jobs = json.loads(Path(sys.argv[1]).read_text())
    pin(int(os.environ["RANK"]))
    dist.init_process_group("gloo")
    answers = {}
    for name, job in jobs.items():
        module, _, function = name.partition(":")
        answers[name] = getattr(importlib.import_module(module), function)(job)
    if dist.get_rank() == 0:
        print("told:" + json.dumps(answers), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
