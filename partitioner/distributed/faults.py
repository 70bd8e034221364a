"""What a person is told when a process of a pipeline fails: one message, from one process."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed as dist

from partitioner.errors import PartitionerError
from partitioner.placement import PipelineRecord

GRACE_SECONDS = 5.0
"""How long a process that lost another one looks for the one that ended."""


@contextmanager
def reporting_faults(record: PipelineRecord) -> Iterator[None]:
    """Name rank, stage and cause when this process fails, or when another one ended.

    The first process that fails tells; the others end silently. All end at once, with exit code 1,
    so that the launcher ends the job. A rank that hangs is noticed after the `timeout` of
    `init_process_group`. The default process group must exist.

    Args:
        record: the pipeline of the plan; with replicas, ranks of one replica follow each other.
    """
    store = dist.distributed_c10d._get_default_store()
    rank, size = dist.get_rank(), dist.get_world_size()
    store.set(f"partitioner/process/{rank}", f"{socket.gethostname()} {os.getpid()}")
    dist.barrier()
    before = signal.signal(signal.SIGTERM, _end)
    try:
        yield
        signal.signal(signal.SIGTERM, before)
    except Exception as raised:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the launcher's; this process ends by itself
        error = _root(raised)
        who, cause = _who(record, rank), " ".join(f"{type(error).__name__}: {error}".split())
        if isinstance(error, PartitionerError):
            cause = str(error)
        if _is_lost(error):
            gone = _ended(store, rank, size)
            if gone is not None:
                who, cause = _who(record, gone), "its process ended"
            elif isinstance(error, _ToldToEnd):
                os._exit(1)
            else:
                cause = f"got nothing from another rank; {cause}"
        first = str(rank).encode()
        if store.compare_set("partitioner/failed", "", str(rank)) == first:
            print(f"error: {who}: {cause}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(1)


class _ToldToEnd(Exception):
    """The launcher ends this process, as it does when another one has ended."""


def _end(signum: int, frame: object) -> None:
    raise _ToldToEnd


def _who(record: PipelineRecord, rank: int) -> str:
    ranks = len(record.ranks)
    mine = range(rank % ranks, ranks * record.stages_per_rank, ranks)
    return f"rank {rank}, stage {', '.join(map(str, mine))}"


def _root(error: BaseException) -> BaseException:
    """The error that others were raised from, as schedules do."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _is_lost(error: BaseException) -> bool:
    """Whether it is the connection to another rank that failed."""
    text = str(error).lower()
    return isinstance(error, _ToldToEnd | dist.DistError) or any(
        sign in text for sign in ("connection", "timed out", "timeout", "gloo", "nccl")
    )


def _ended(store: Any, rank: int, size: int) -> int | None:
    """A rank on this host whose process ended."""
    until = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < until:
        for other in range(size):
            host, pid = store.get(f"partitioner/process/{other}").decode().split()
            if other != rank and host == socket.gethostname() and not _runs(pid):
                return other
        time.sleep(0.1)
    return None


def _runs(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return state not in "ZX"
