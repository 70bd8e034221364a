"""What each process is at, told to the others, so that those that wait find the one that hangs.

Every process writes its pulse to the job's store, again and again, from a thread of its own. One
that waits too long reads all of them: a process that is silent, or that neither waits nor moves on,
is what all wait for.
"""

from __future__ import annotations

import linecache
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
import torch.distributed as dist

LOOKS = 5
"""A process is silent when as many looks in a row find the same pulse."""

_OWN = str(Path(__file__).parents[1])
_WAITING = str(Path(dist.__file__).parent)
_at: list[tuple[str, float]] = [("outside of the pipeline's step", time.monotonic())]


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Say what this process is at; begin and end are moves."""
    before = _at[0][0]
    _at[0] = what, time.monotonic()
    try:
        yield
    finally:
        _at[0] = before, time.monotonic()


class Pulse(msgspec.Struct, frozen=True):
    """What a process is at.

    Attributes:
        number: grows while the process can answer.
        what: as `doing` was told.
        line: of the user's code, the innermost one.
        seconds: since its last move.
        waits: for other processes.
    """

    number: int
    what: str
    line: str
    seconds: float
    waits: bool

    def __str__(self) -> str:
        return f"{self.what}, at {self.line}" if self.line else self.what


def find_culprit(
    pulses: Mapping[int, Pulse], silent: set[int], seconds: float
) -> tuple[int, str] | None:
    """The rank that all wait for, and the cause; `None` while somebody still moves.

    Where each waits for another one, the cause tells of all.

    Args:
        pulses: by rank.
        silent: ranks whose pulse has stopped.
        seconds: how long a process may stand still while others wait.
    """
    if silent:
        rank = min(silent)
        return rank, f"its process does not answer; last it was {pulses[rank]}"
    still = {rank: pulse for rank, pulse in pulses.items() if pulse.seconds >= seconds}
    busy = [rank for rank, pulse in still.items() if not pulse.waits]
    if busy:
        rank = max(busy, key=lambda rank: still[rank].seconds)
        return rank, f"hangs for {still[rank].seconds:.0f} s {still[rank]}"
    if len(still) == len(pulses):
        told = "; ".join(f"rank {rank} {pulse}" for rank, pulse in sorted(still.items()))
        return min(still), f"all processes wait for one another for {seconds:.0f} s: {told}"
    return None


class Pulses:
    """The pulses of all processes of the job, in its store."""

    def __init__(self, store: Any) -> None:
        """Write the first pulse. To be made in the main thread, whose moves count."""
        self._store = store
        self._rank, self._size = dist.get_rank(), dist.get_world_size()
        self._main = threading.get_ident()
        self._number = 0
        self._seen: dict[int, list[int]] = {}
        self.write()

    def write(self) -> Pulse:
        """Tell the others what this process is at."""
        frame = sys._current_frames().get(self._main)
        what, since = _at[0]
        self._number += 1
        waits = frame is not None and frame.f_code.co_filename.startswith(_WAITING)
        pulse = Pulse(self._number, what, _line(frame), time.monotonic() - since, waits)
        self._store.set(f"partitioner/pulse/{self._rank}", msgspec.json.encode(pulse))
        return pulse

    def culprit(self, own: Pulse, seconds: float) -> tuple[int, str] | None:
        """See `find_culprit`; `None` while this process need not wait, or has not looked enough."""
        if not own.waits or own.seconds < seconds:
            self._seen.clear()
            return None
        pulses = {
            rank: msgspec.json.decode(self._store.get(f"partitioner/pulse/{rank}"), type=Pulse)
            for rank in range(self._size)
        }
        for rank, pulse in pulses.items():
            self._seen.setdefault(rank, []).append(pulse.number)
        if len(self._seen[self._rank]) < LOOKS:
            return None
        silent = {rank for rank, seen in self._seen.items() if len(set(seen[-LOOKS:])) == 1}
        return find_culprit(pulses, silent, seconds)


def _line(frame: FrameType | None) -> str:
    """The innermost line that is neither ours nor a library's."""
    while frame is not None:
        file = frame.f_code.co_filename
        if not (file.startswith(("<", _OWN)) or "site-packages" in file or "/lib/python" in file):
            path = Path(file)
            with suppress(ValueError):
                path = path.relative_to(Path.cwd())
            return f"{path}:{frame.f_lineno}: {linecache.getline(file, frame.f_lineno).strip()}"
        frame = frame.f_back
    return ""
