"""What would make a model fit: each change is planned and rehearsed before it is told.

A change is told only where `any_fit` found a placement under it that its dry run confirms. Since
`partitioner.plan` falls back on the same search, it plans under every change that is told.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from cost_models import DEVICE_KINDS, CostModelError
from partitioner.changes import Change, double_changes, fits, single_changes, size_of
from partitioner.errors import CaptureError, InfeasibleError, SpecError
from partitioner.priced import Priced
from partitioner.solve.evaluate import everything_nbytes
from partitioner.spec import exact_nbytes, format_nbytes, most_roomy, with_twins

EFFORT = 100_000
"""Nodes times devices, over all changes that are tried: about a minute or two."""
MOST_MORE = 4
"""So many times the devices there are is the most that is tried."""
MOST_SIZES = 32
"""Round sizes that are considered: up to about four times the first."""
MOST_PAIRS = 2
"""So many of the pairs of changes that help are told."""


class _Attempts:
    """Tries changes as long as counted work, and a clock if asked for, allow.

    Attributes:
        untried: what there was no time for.
    """

    def __init__(self, subject: Priced) -> None:
        limit = subject.options.time_limit
        self.say = subject.options.say
        self.units = EFFORT
        self.deadline = None if limit is None else time.monotonic() + limit
        self.untried: list[str] = []

    def sentences(self, changes: Iterable[Change], most: int | None = None) -> list[str]:
        """The changes that help, the first `most` of them."""
        found: list[str] = []
        for change in changes:
            if len(found) == most:
                break
            late = self.deadline is not None and time.monotonic() >= self.deadline
            if late or self.units < change.cost:
                self.untried.append(change.what)
                continue
            self.units -= change.cost
            self.say(f"trying {change.what}")
            try:
                sentence = change.tried()
            except (CaptureError, CostModelError, SpecError, InfeasibleError):
                continue
            if sentence is not None:
                found.append(sentence)
        return found


def advised(error: InfeasibleError, subject: Priced) -> InfeasibleError:
    """The error with suggestions, each of which was tried.

    Two changes of the training at once are tried where none of them helps by itself. The work is
    limited; what it was not enough for is named. A time limit of the user's limits it as well.
    """
    attempts = _Attempts(subject)
    found = attempts.sentences(_changes(error, subject))
    leaner = attempts.sentences(single_changes(subject))
    if not leaner and not attempts.untried:
        leaner = attempts.sentences(double_changes(subject), MOST_PAIRS)
    message = error.args[0]
    if attempts.untried:
        message += f"; not tried, to save time: {', '.join(attempts.untried)}"
    return InfeasibleError(
        message,
        shortfall=error.shortfall,
        conflicting=error.conflicting,
        suggestions=[*found, *leaner],
    )


def _changes(error: InfeasibleError, subject: Priced) -> Iterator[Change]:
    """What may help of what the user demands, and of the devices."""
    size = size_of(subject)
    for constraint in error.conflicting:
        yield Change(f"without {constraint!r}", partial(_without, subject, constraint), size)
    if len({device.memory for device in subject.cluster.devices}) == 1:
        yield Change("more memory on every device", partial(_roomier_devices, subject), size)
    for name in _distinct_devices(subject):
        what = f"more memory on '{name}'"
        yield Change(what, partial(_roomier_device, subject, name), size)
    yield Change("more devices", partial(_more_devices, subject), size)


def _without(subject: Priced, constraint: object) -> str | None:
    kept = tuple(each for each in subject.options.constraints if each is not constraint)
    options = replace(subject.options, constraints=kept)
    return f"drop {constraint!r}" if fits(replace(subject, options=options)) else None


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
        return larger is not None and fits(larger)

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
        if fits(subject.priced_anew(cluster=with_twins(subject.cluster, twin, count))):
            more = "one more device" if count == 1 else f"{count} more devices"
            return f"add {more} like '{twin}'"
    return None


def rounded_up(nbytes: int) -> int:
    """The next size of five binary digits: at most 1/16 more."""
    step = 1 << max(0, nbytes.bit_length() - 5)
    return -(-nbytes // step) * step


def _exact(nbytes: int) -> str:
    text = exact_nbytes(nbytes)
    return text if isinstance(text, str) else f"{text} bytes"
