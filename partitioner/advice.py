"""What would make a model fit: each change is planned and rehearsed before it is told.

A change is told only where `any_fit` found a placement under it that its dry run confirms. Since
`partitioner.plan` falls back on the same search, it plans under every change that is told.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from cost_models import DEVICE_KINDS, CostModelError
from partitioner.errors import CaptureError, InfeasibleError, SpecError
from partitioner.fit import any_fit
from partitioner.lean import (
    batch_of,
    call_in_dtype,
    checkpointed,
    halvings,
    in_dtype,
    repeated_blocks,
    with_batch,
)
from partitioner.options import Options
from partitioner.priced import Priced, priced
from partitioner.solve.evaluate import everything_nbytes
from partitioner.spec import exact_nbytes, format_nbytes, most_roomy, with_twins

EFFORT = 100_000
"""Nodes times devices, over all changes that are tried: about a minute or two."""
MOST_MORE = 4
"""So many times the devices there are is the most that is tried."""
MOST_SIZES = 32
"""Round sizes that are considered: up to about four times the first."""
TRIAL_REHEARSALS = 3
"""Of each change that is tried."""
LEANER_OPTIMIZERS = ("adafactor", "sgd")
"""Optimizers with less state than Adam, the one that keeps more of it first."""


@dataclass(frozen=True)
class Change:
    """One way out.

    Attributes:
        what: for progress, and for saying that it was not tried.
        tried: the sentence that tells it, or `None` if it does not help.
        cost: nodes times devices that trying it takes.
    """

    what: str
    tried: Callable[[], str | None]
    cost: int


class _Budget:
    """Counted work, and a clock if asked for."""

    def __init__(self, units: float, time_limit: float | None) -> None:
        self.units = units
        self.deadline = None if time_limit is None else time.monotonic() + time_limit

    def allows(self, cost: int) -> bool:
        return self.units >= cost and (self.deadline is None or time.monotonic() < self.deadline)


def advised(error: InfeasibleError, subject: Priced) -> InfeasibleError:
    """The error with suggestions, each of which was tried.

    The work is limited; what it was not enough for is named. A time limit of the user's limits it
    as well.
    """
    budget = _Budget(EFFORT, subject.options.time_limit)
    found, untried = [], []
    for change in _changes(error, subject):
        if not budget.allows(change.cost):
            untried.append(change.what)
            continue
        budget.units -= change.cost
        subject.options.say(f"trying {change.what}")
        try:
            sentence = change.tried()
        except (CaptureError, CostModelError, SpecError, InfeasibleError):
            continue
        if sentence is not None:
            found.append(sentence)
    message = error.args[0]
    if untried:
        message += f"; not tried, to save time: {', '.join(untried)}"
    return InfeasibleError(
        message, shortfall=error.shortfall, conflicting=error.conflicting, suggestions=found
    )


def _changes(error: InfeasibleError, subject: Priced) -> Iterator[Change]:
    """What may help: what the user demands, the devices, the training, the model, the inputs."""
    size = len(subject.captured.nodes) * len(subject.cluster.devices)
    for constraint in error.conflicting:
        yield Change(f"without {constraint!r}", partial(_without, subject, constraint), size)
    if len({device.memory for device in subject.cluster.devices}) == 1:
        yield Change("more memory on every device", partial(_roomier_devices, subject), size)
    for name in _distinct_devices(subject):
        what = f"more memory on '{name}'"
        yield Change(what, partial(_roomier_device, subject, name), size)
    yield Change("more devices", partial(_more_devices, subject), size)
    if subject.options.training:
        yield Change("another optimizer", partial(_leaner_optimizer, subject), 2 * size)
        yield Change("activation checkpointing", partial(_checkpointing, subject), size)
    yield Change("bfloat16", partial(_bfloat16, subject), 2 * size)
    yield Change("a smaller batch", partial(_smaller_batch, subject), 3 * size)


def _fits(subject: Priced) -> bool:
    return any_fit(subject, rehearsals=TRIAL_REHEARSALS) is not None


def _without(subject: Priced, constraint: object) -> str | None:
    kept = tuple(each for each in subject.options.constraints if each is not constraint)
    options = replace(subject.options, constraints=kept)
    return f"drop {constraint!r}" if _fits(replace(subject, options=options)) else None


def _roomier_devices(subject: Priced) -> str | None:
    """The same, larger memory on every device."""
    limit = subject.cluster.devices[0].memory
    if not isinstance(limit, int) or len(subject.cluster.devices) < 2:
        return None
    even = everything_nbytes(subject.problem()) // len(subject.cluster.devices)
    nbytes = _least_memory(subject, subject.cluster.names, max(limit + 1, even))
    if nbytes is None:
        return None
    return f"give every device {_exact(nbytes)} instead of {_exact(limit)}"


def _distinct_devices(subject: Priced) -> Iterator[str]:
    """One of each sort of devices with a limit."""
    seen = set()
    for device in subject.cluster.devices:
        if not isinstance(device.memory, int):
            continue
        sort = device.name if subject.options.constraints else replace(device, name="cuda")
        if sort not in seen:
            seen.add(sort)
            yield device.name


def _roomier_device(subject: Priced, name: str) -> str | None:
    """Larger memory on one device."""
    limit = subject.cluster.device(name).memory
    if not isinstance(limit, int):
        return None
    problem = subject.problem()
    missing = 1
    if None not in problem.capacity_nbytes:
        limits = sum(capacity or 0 for capacity in problem.capacity_nbytes)
        missing = max(1, everything_nbytes(problem) - limits)
    nbytes = _least_memory(subject, [name], limit + missing)
    if nbytes is None:
        return None
    more = format_nbytes(nbytes - limit)
    return f"give '{name}' {_exact(nbytes)} instead of {_exact(limit)} ({more} more)"


def _least_memory(subject: Priced, names: Sequence[str], lowest: int) -> int | None:
    """The least round size from `lowest` on that helps when all these devices have it.

    Sizes are tried in strides that double, then between the last two.
    """
    sizes = [rounded_up(lowest)]
    while len(sizes) < MOST_SIZES:
        sizes.append(rounded_up(sizes[-1] + 1))

    def enough(index: int) -> bool:
        larger = _with_memory(subject, dict.fromkeys(names, sizes[index]))
        return larger is not None and _fits(larger)

    low, high = -1, 0
    while not enough(high):
        low, high = high, 2 * high + 1
        if high >= len(sizes):
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return sizes[high]


def _with_memory(subject: Priced, nbytes: Mapping[str, int]) -> Priced | None:
    """Other limits on some devices; `None` where their kind has no such memory."""
    devices = []
    for device in subject.cluster.devices:
        limit = nbytes.get(device.name)
        if limit is not None:
            if device.kind is not None and DEVICE_KINDS[device.kind].memory_nbytes < limit:
                return None
            device = replace(device, memory=limit)
        devices.append(device)
    return replace(subject, cluster=replace(subject.cluster, devices=tuple(devices)))


def _more_devices(subject: Priced) -> str | None:
    """The fewest further devices like the largest one."""
    limits = [d.memory for d in subject.cluster.devices if isinstance(d.memory, int)]
    twin = most_roomy(subject.cluster)
    room = subject.cluster.device(twin).memory
    if len(limits) < len(subject.cluster.devices) or not isinstance(room, int):
        return None
    missing = everything_nbytes(subject.problem()) - sum(limits)
    fewest = max(1, -(-missing // room))
    most = min(MOST_MORE * len(limits), fewest + 2)
    for count in range(fewest, most + 1):
        if _fits(subject.priced_anew(cluster=with_twins(subject.cluster, twin, count))):
            more = "one more device" if count == 1 else f"{count} more devices"
            return f"add {more} like '{twin}'"
    return None


def _leaner_optimizer(subject: Priced) -> str | None:
    """An optimizer that keeps less."""
    options = subject.options
    if options.optimizer is None:
        return None
    for name in LEANER_OPTIMIZERS:
        if name != options.optimizer_name and _fits(
            subject.priced_anew(options=replace(options, optimizer=name))
        ):
            return f"use the optimizer '{name}' instead of '{options.optimizer_name}'"
    return None


def _checkpointing(subject: Priced) -> str | None:
    """Activations of the repeated blocks made again in the backward."""
    patterns = repeated_blocks(subject.model)
    if not patterns:
        return None
    model = checkpointed(subject.model, *patterns)
    if not _fits(priced(model, subject.cluster, subject.call, _quiet(subject.options))):
        return None
    names = ", ".join(f"'{pattern}'" for pattern in patterns)
    flags = " ".join(f"--checkpoint {name}" for name in names.split(", "))
    return (
        f"checkpoint the activations of {names}: {flags}, or in Python "
        f"partitioner.checkpointed(model, {names})"
    )


def _bfloat16(subject: Priced) -> str | None:
    """Parameters, and all that follows from them, in half the bytes."""
    types = {p.dtype for p in subject.model.parameters() if p.is_floating_point()}
    if all(dtype.itemsize <= 2 for dtype in types):
        return None
    call = call_in_dtype(subject.call, torch.bfloat16)
    model = in_dtype(subject.model, torch.bfloat16)
    if not _fits(priced(model, subject.cluster, call, _quiet(subject.options))):
        return None
    return "use bfloat16: --dtype bf16, or in Python model.to(torch.bfloat16)"


def _smaller_batch(subject: Priced) -> str | None:
    """The largest of the batches that are halved once, twice, ..."""
    whole = batch_of(subject.call)
    if whole is None:
        return None
    room = sum(limit for limit in subject.problem().capacity_nbytes if limit is not None)
    taken = {whole: everything_nbytes(subject.problem())}
    for batch in halvings(whole):
        if len(taken) > 1 and _extrapolated(taken, batch) > room:
            continue
        smaller = priced(
            subject.model,
            subject.cluster,
            with_batch(subject.call, batch),
            _quiet(subject.options),
        )
        if _fits(smaller):
            return f"use a batch of {batch} instead of {whole}"
        taken[batch] = everything_nbytes(smaller.problem())
    return None


def _extrapolated(nbytes: Mapping[int, int], batch: int) -> float:
    """What a batch takes, on a line through the last two that were counted."""
    (more, upper), (fewer, lower) = list(nbytes.items())[-2:]
    return lower - (upper - lower) / (more - fewer) * (fewer - batch)


def _quiet(options: Options) -> Options:
    """The options without reports of each step."""
    return replace(options, progress=None)


def rounded_up(nbytes: int) -> int:
    """The next size of five binary digits: at most 1/16 more."""
    step = 1 << max(0, nbytes.bit_length() - 5)
    return -(-nbytes // step) * step


def _exact(nbytes: int) -> str:
    text = exact_nbytes(nbytes)
    return text if isinstance(text, str) else f"{text} bytes"
