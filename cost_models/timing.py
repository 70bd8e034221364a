"""Timing one operator call on the device itself.

An operator alone is faster than in a model: modules, Python and autograd come on top. What they add
per operator is measured on a chain of small layers.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from cost_models.interface import OperatorCall
from cost_models.operators import observe
from cost_models.signatures import rebuild, tensors_in

WARM_UP_RUNS = 3
TIMED_SECONDS = 0.01
FEWEST_RUNS = 5
MOST_RUNS = 34
"""A call is timed at least and at most so often in one go, and otherwise for so long."""

CACHED_NBYTES, MOST_COPIES = 128 << 10, 32
"""Operands of more bytes than the first have left a core's own cache when a step comes to them:
calls take turns on copies, at most so many."""
REACH_NBYTES = 32 << 20
"""What a step touches between two uses of a tensor, at most: copies of operands take as many bytes
together, and results are kept until they do, so that an allocator has given their memory before."""
LARGE_NBYTES = 31 << 20
"""Once a tensor of this size was freed, glibc takes all smaller ones from memory that it keeps; at
32 MiB it no longer does."""
CLOCK_SECONDS = 1e-6
"""No run is taken to be shorter."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One call's time on one kind of device.

    Attributes:
        median_seconds: of the runs.
        spread_seconds: between their first and third quartile.
        runs: how many there were.
        flops: of the call.
        nbytes: of the call.
        dtype: of its arithmetic.
    """

    median_seconds: float
    spread_seconds: float
    runs: int
    flops: int
    nbytes: int
    dtype: str

    @classmethod
    def of(cls, call: OperatorCall, samples: Sequence[float]) -> Measurement:
        """What was seen of a call: the seconds of its runs, at least two."""
        first, median, third = statistics.quantiles(samples, n=4)
        return cls(median, third - first, len(samples), call.flops, call.nbytes, call.dtype)


def time_call(
    call: OperatorCall,
    device: str | torch.device,
    clock: Callable[[], float],
    step_nbytes: int = REACH_NBYTES,
) -> list[float]:
    """Run a call on made-up tensors, warm up, and time it.

    Args:
        call: what to time.
        device: where.
        clock: tells seconds.
        step_nbytes: what the step touches that makes the call: of less, more is still in a cache.

    Returns:
        Seconds of each run.
    """
    reach = min(step_nbytes, REACH_NBYTES)
    built = [rebuild(call.signature, device)]
    taken = sum(tensor.nbytes for tensor in tensors_in(built[0][1:]))
    copies = min(MOST_COPIES, max(1, reach // max(1, taken))) if taken > CACHED_NBYTES else 1
    built += [rebuild(call.signature, device) for _ in range(copies - 1)]
    turns = itertools.cycle(built)

    def run() -> object:
        overload, args, kwargs = next(turns)
        return overload(*args, **kwargs)

    with torch.no_grad():
        return _samples(run, torch.device(device), clock, reach)


def _samples(
    run: Callable[[], object],
    device: torch.device,
    clock: Callable[[], float],
    kept_nbytes: int = REACH_NBYTES,
) -> list[float]:
    """Seconds of repeated runs, each waited for.

    Results are kept for a round and then let go together, as a step keeps what its backward needs:
    memory that was given back a moment ago is still in the cache. A round before the timed ones
    takes the memory from the system, which is slow, and which a process that trains has behind it.
    """
    wait = _waiter(device)
    if device.type == "cpu":
        torch.empty(LARGE_NBYTES, dtype=torch.uint8)
    for _ in range(WARM_UP_RUNS):
        start = clock()
        result = run()
        wait()
        once = clock() - start
    runs = min(max(int(TIMED_SECONDS / max(once, CLOCK_SECONDS)), FEWEST_RUNS), MOST_RUNS)
    nbytes = sum(tensor.nbytes for tensor in tensors_in(result))
    round_runs = min(max(kept_nbytes // max(nbytes, 1), 1), runs)
    samples: list[float] = []
    for round_number in range(1 + math.ceil(runs / round_runs)):
        kept: list[object] = []
        fresh: list[float] = []
        for _ in range(round_runs):
            start = clock()
            result = run()
            wait()
            fresh.append(clock() - start)
            kept.append(result)
        start = clock()
        kept.clear()
        freeing = (clock() - start) / round_runs
        if round_number:
            samples += [seconds + freeing for seconds in fresh]
    return samples


def overhead_seconds(device: str | torch.device, clock: Callable[[], float]) -> float:
    """What a training step of small layers takes beyond its operators, per operator."""
    layers = [layer for _ in range(16) for layer in (nn.Linear(16, 16), nn.Tanh())]
    chain = nn.Sequential(*layers).to(device)
    inputs = torch.zeros(4, 16, device=device)
    gradient = torch.ones_like(inputs)

    def step() -> None:
        chain.zero_grad()
        torch.autograd.backward(chain(inputs), gradient)

    whole = statistics.median(_samples(step, torch.device(device), clock))
    observation = observe(chain, (inputs,), backward=True)
    calls = (*observation.forward, *observation.backward)
    alone = {c.signature: statistics.median(time_call(c, device, clock)) for c in set(calls)}
    return max(whole - sum(alone[call.signature] for call in calls), 0.0) / len(calls)


def _waiter(device: torch.device) -> Callable[[], None]:
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return lambda: None
