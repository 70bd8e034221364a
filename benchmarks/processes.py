"""Functions that run in several processes of `torch.distributed` at once, on gloo."""

from __future__ import annotations

import importlib
import json
import os
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing


def together(processes: int, jobs: Mapping[str, Any]) -> dict[str, Any]:
    """Run functions one after another in `processes` processes, each pinned to one core.

    They are forked from one that has imported what takes long.

    Args:
        processes: how many there are; cores are dealt out in turn.
        jobs: by `module:function`, the argument, as JSON has it.

    Returns:
        What each function returned on rank 0.
    """
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["torch.distributed.pipelining", "partitioner.distributed"])
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.start_processes(
            _process, (processes, json.dumps(jobs), folder), processes, start_method="forkserver"
        )
        answers: dict[str, Any] = json.loads(Path(folder, "answers.json").read_text())
    return answers


def pin(rank: int) -> None:
    """Keep this process on one core, and on one thread."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[rank % len(cores)]})
    torch.set_num_threads(1)


def _process(rank: int, processes: int, jobs: str, folder: str) -> None:
    """One of the processes."""
    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # gloo tells there of its connections
    pin(rank)
    meeting = Path(folder, "meeting").as_uri()
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=processes)
    answers = {}
    for name, job in json.loads(jobs).items():
        module, _, function = name.partition(":")
        answers[name] = getattr(importlib.import_module(module), function)(job)
    if rank == 0:
        Path(folder, "answers.json").write_text(json.dumps(answers))
    dist.destroy_process_group()
