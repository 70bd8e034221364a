"""Changes of the training, and of the model, that take less memory: one, or two at once.

A way of each is a function from what was priced to the same, priced leaner, so that a second change
starts from where the first one led.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import combinations

import torch
from torch import nn

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
from partitioner.priced import Call, Priced, priced
from partitioner.solve.evaluate import everything_nbytes

TRIAL_REHEARSALS = 3
"""Of each change that is tried."""
LEANER_OPTIMIZERS = ("adafactor", "sgd")
"""Optimizers with less state than Adam, the one that keeps more of it first."""

Way = Callable[[Priced], Iterator[tuple[str, Priced]]]
"""Gives sentences that tell a change, each with what it leads to; the smallest change first."""


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


def fits(subject: Priced) -> bool:
    """Whether a placement was found that its dry run confirms."""
    return any_fit(subject, rehearsals=TRIAL_REHEARSALS) is not None


def size_of(subject: Priced) -> int:
    """Nodes times devices."""
    return len(subject.captured.nodes) * len(subject.cluster.devices)


def single_changes(subject: Priced) -> Iterator[Change]:
    """Each change by itself."""
    for what, (way, effort) in _ways(subject).items():
        yield Change(what, partial(_tried, way, subject), effort * size_of(subject))


def double_changes(subject: Priced) -> Iterator[Change]:
    """Two changes at once: what the first one leads to is where the second one starts."""
    ways = _ways(subject)

    @cache
    def after(what: str) -> tuple[str, Priced] | None:
        return next(ways[what][0](subject), None)

    def tried(first: str, second: str) -> str | None:
        changed = after(first)
        if changed is None:
            return None
        more = _tried(ways[second][0], changed[1])
        return None if more is None else f"{changed[0]}, and {more}"

    for first, second in combinations(ways, 2):
        effort = ways[first][1] + ways[second][1]
        yield Change(
            f"{first} with {second}", partial(tried, first, second), effort * size_of(subject)
        )


def _ways(subject: Priced) -> Mapping[str, tuple[Way, int]]:
    """By name, each way with the effort that it takes, in recordings of the model."""
    ways: dict[str, tuple[Way, int]] = {}
    if subject.options.training:
        ways["another optimizer"] = _leaner_optimizers, 2
        ways["activation checkpointing"] = _checkpointing, 1
    return {**ways, "bfloat16": (_bfloat16, 2), "a smaller batch": (_smaller_batches, 3)}


def _tried(way: Way, subject: Priced) -> str | None:
    """The first change of a way after which the model fits."""
    return next((sentence for sentence, changed in way(subject) if fits(changed)), None)


def _leaner_optimizers(subject: Priced) -> Iterator[tuple[str, Priced]]:
    """An optimizer that keeps less."""
    options = subject.options
    for name in LEANER_OPTIMIZERS if options.optimizer is not None else ():
        if name != options.optimizer_name:
            yield (
                f"use the optimizer '{name}' instead of '{options.optimizer_name}'",
                subject.priced_anew(options=replace(options, optimizer=name)),
            )


def _checkpointing(subject: Priced) -> Iterator[tuple[str, Priced]]:
    """Activations of the repeated blocks made again in the backward."""
    patterns = repeated_blocks(subject.model)
    if patterns:
        names = ", ".join(f"'{pattern}'" for pattern in patterns)
        flags = " ".join(f"--checkpoint '{pattern}'" for pattern in patterns)
        yield (
            f"checkpoint the activations of {names}: {flags}, or in Python "
            f"partitioner.checkpointed(model, {names})",
            _recorded(subject, checkpointed(subject.model, *patterns), subject.call),
        )


def _bfloat16(subject: Priced) -> Iterator[tuple[str, Priced]]:
    """Parameters, and all that follows from them, in half the bytes."""
    types = {p.dtype for p in subject.model.parameters() if p.is_floating_point()}
    if any(dtype.itemsize > 2 for dtype in types):
        cast = partial(call_in_dtype, dtype=torch.bfloat16)
        model = in_dtype(subject.model, torch.bfloat16)
        yield (
            "use bfloat16: --dtype bf16, or in Python model.to(torch.bfloat16)",
            _recorded(subject, model, cast(subject.call), subject.options.with_targets(cast)),
        )


def _smaller_batches(subject: Priced) -> Iterator[tuple[str, Priced]]:
    """The batch halved once, twice, ...; those that cannot help are passed over."""
    whole = batch_of(subject.call)
    if whole is None:
        return
    room = sum(limit for limit in subject.problem().capacity_nbytes if limit is not None)
    taken = {whole: everything_nbytes(subject.problem())}
    for batch in halvings(whole):
        if len(taken) > 1 and _extrapolated(taken, batch) > room:
            continue
        cut = partial(with_batch, batch=batch)
        smaller = _recorded(
            subject, subject.model, cut(subject.call), subject.options.with_targets(cut)
        )
        yield f"use a batch of {batch} instead of {whole}", smaller
        taken[batch] = everything_nbytes(smaller.problem())


def _recorded(
    subject: Priced, model: nn.Module, call: Call, options: Options | None = None
) -> Priced:
    """Another model or call, recorded without reports of each step."""
    quiet = replace(options or subject.options, progress=None)
    return priced(model, subject.cluster, call, quiet)


def _extrapolated(nbytes: Mapping[int, int], batch: int) -> float:
    """What a batch takes, on a line through the last two that were counted."""
    (more, upper), (fewer, lower) = list(nbytes.items())[-2:]
    return lower - (upper - lower) / (more - fewer) * (fewer - batch)
