"""What a person is told when a process of a pipeline fails: one message, from one process."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Never

import torch.distributed as dist

from partitioner.distributed.pulse import Pulses
from partitioner.errors import PartitionerError
from partitioner.placement import PipelineRecord

GRACE_SECONDS = 5.0
"""How long a process that lost another one looks for the one that ended."""
INTERVAL_SECONDS = 1.0
"""Between two looks at the other processes."""
ENDED = "its process ended without a word, as when the system kills it for want of memory"

_TELLER = "partitioner/teller"
"""Which rank has told of the failure."""


@contextmanager
def reporting_faults(record: PipelineRecord, timeout_seconds: float = 120.0) -> Iterator[None]:
    """Name rank, stage and cause when this process fails, or when another one ended or hangs.

    The first process that knows tells; the others end silently. All end at once, with exit code 1,
    so that the launcher ends the job; they also end when the launcher does. The default process
    group must exist; its own timeout should be longer than this one, which names the cause.

    Args:
        record: the pipeline of the plan; with replicas, ranks of one replica follow each other.
        timeout_seconds: how long a process may be at one thing (the forward or backward of a stage
            on a micro-batch, loading data, saving) while others wait for it. It is told at most 10
            seconds later.
    """
    job = _Job(record)
    dist.barrier()
    before = signal.signal(signal.SIGTERM, _end)
    over = threading.Event()
    watch = threading.Thread(target=job.watch, args=(over, timeout_seconds), daemon=True)
    watch.start()
    try:
        yield
    except Exception as raised:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the launcher's; this process ends by itself
        error = _root(raised)
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        if isinstance(error, PartitionerError):
            cause = str(error)
        if _is_lost(error):
            gone = job.ended()
            if gone is not None:
                job.tell(gone, ENDED)
            if isinstance(error, _ToldToEnd):
                os._exit(1)
            cause = f"got nothing from another rank; {cause}"
        job.tell(dist.get_rank(), cause)
    finally:
        over.set()
        watch.join()
        signal.signal(signal.SIGTERM, before)


class _ToldToEnd(Exception):
    """The launcher ends this process, as it does when another one has ended."""


def _end(signum: int, frame: object) -> None:
    raise _ToldToEnd


class _Job:
    """The processes of the job, as this one sees them through their store."""

    def __init__(self, record: PipelineRecord) -> None:
        store = dist.distributed_c10d._get_default_store()
        self._store: Any = store.clone() if hasattr(store, "clone") else store
        self._record = record
        self._rank, self._size = dist.get_rank(), dist.get_world_size()
        self._launcher = os.getppid() if dist.is_torchelastic_launched() else None
        self._telling = threading.Lock()
        self._store.set(_process(self._rank), f"{socket.gethostname()} {os.getpid()}")
        self.pulses = Pulses(self._store)

    def watch(self, over: threading.Event, timeout_seconds: float) -> None:
        """Write this process's pulse, and end it with the others, until it is `over`."""
        while not over.wait(INTERVAL_SECONDS):
            try:
                culprit = self.pulses.culprit(self.pulses.write(), timeout_seconds)
                told = self._store.check([_TELLER])
            except RuntimeError:  # the store ended, and with it the launcher that has it
                if over.is_set() or self._launcher is None:
                    return
                os._exit(1)
            if culprit is not None:
                self.tell(*culprit)
            if told or (self._launcher is not None and os.getppid() != self._launcher):
                with self._telling:
                    os._exit(1)

    def tell(self, rank: int, cause: str) -> Never:
        """Say what is the matter with a rank, if nobody has said anything, and end this process."""
        with self._telling:
            own = str(self._rank)
            if self._store.compare_set(_TELLER, "", own) == own.encode():
                ranks = len(self._record.ranks)
                stages = range(rank % ranks, ranks * self._record.stages_per_rank, ranks)
                who = f"rank {rank}, stage {', '.join(map(str, stages))}"
                print(f"error: {who}: {cause}", file=sys.stderr, flush=True)
                if rank != self._rank and (pid := self._pid(rank)) is not None:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)  # it may be unable to end by itself
            sys.stdout.flush()
            os._exit(1)

    def ended(self) -> int | None:
        """A rank on this host whose process ended."""
        until = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < until:
            for rank in range(self._size):
                pid = self._pid(rank)
                if rank != self._rank and pid is not None and not _runs(pid):
                    return rank
            time.sleep(0.1)
        return None

    def _pid(self, rank: int) -> int | None:
        """The process of a rank on this host."""
        host, pid = self._store.get(_process(rank)).decode().split()
        return int(pid) if host == socket.gethostname() else None


def _process(rank: int) -> str:
    return f"partitioner/process/{rank}"


def _root(error: BaseException) -> BaseException:
    """The error that others were raised from, as schedules do."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _is_lost(error: BaseException) -> bool:
    """Whether it is the connection to another rank that failed."""
    text = str(error).lower()
    return isinstance(error, _ToldToEnd | dist.DistError) or (
        isinstance(error, RuntimeError)
        and any(sign in text for sign in ("connection", "timed out", "timeout", "gloo", "nccl"))
    )


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return state not in "ZX"
