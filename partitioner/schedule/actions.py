"""What each rank of a pipeline does, in order.

Stage `s` of `ranks * stages_per_rank` lives on rank `s % ranks`. Sources:

- `gpipe`: Huang et al., "GPipe" (2019): all forwards, then all backwards.
- `1f1b`: Narayanan et al., "PipeDream" (2019), in its synchronous form: after a warm-up, one
  forward and one backward in turn, so that stage `s` keeps at most `stages - s` micro-batches.
- `interleaved`: Narayanan et al., "Efficient Large-Scale Language Model Training" (2021): several
  stages a rank, micro-batches in rounds.
- `zero-bubble`: Qi et al., "Zero Bubble Pipeline Parallelism" (2023), schedule ZB1P: the backward
  is split, gradients of weights are computed when a rank would be idle.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from partitioner.errors import SpecError
from partitioner.spec import check_name

SCHEDULES = ("1f1b", "gpipe", "interleaved", "zero-bubble")


class Kind(StrEnum):
    """What an action computes, spelled as in `torch.distributed.pipelining`."""

    FORWARD = "F"
    BACKWARD = "B"
    BACKWARD_INPUT = "I"
    BACKWARD_WEIGHT = "W"


@dataclass(frozen=True, slots=True)
class Action:
    """One stage's work on one micro-batch."""

    stage: int
    kind: Kind
    micro_batch: int

    def __str__(self) -> str:
        return f"{self.stage}{self.kind}{self.micro_batch}"


Orders = tuple[tuple[Action, ...], ...]
"""By rank, its actions in the order in which it does them."""


def check_schedule(schedule: str, ranks: int, micro_batches: int, stages_per_rank: int) -> None:
    """Refuse what `torch.distributed.pipelining` refuses.

    Raises:
        SpecError: an unknown schedule, or numbers that it does not take; says which it would take.
    """
    check_name("schedule", schedule, SCHEDULES)
    if micro_batches < 1:
        raise SpecError(f"micro_batches={micro_batches}: at least 1 is needed")
    if stages_per_rank < 1:
        raise SpecError(f"stages_per_rank={stages_per_rank}: at least 1 is needed")
    if schedule in ("1f1b", "gpipe") and stages_per_rank != 1:
        raise SpecError(
            f"stages_per_rank={stages_per_rank}: the schedule '{schedule}' has one stage a rank; "
            "'interleaved' and 'zero-bubble' take more"
        )
    if schedule == "1f1b" and micro_batches < ranks:
        raise SpecError(
            f"micro_batches={micro_batches}: the schedule '1f1b' needs at least as many as there "
            f"are stages ({ranks}); 'gpipe' takes fewer"
        )
    rounds = max(1, micro_batches // ranks)
    if schedule in ("interleaved", "zero-bubble") and micro_batches % rounds:
        near = micro_batches - micro_batches % rounds
        raise SpecError(
            f"micro_batches={micro_batches}: the schedule '{schedule}' works in rounds on {ranks} "
            f"ranks and needs a multiple of {rounds} here; take {near} or {near + rounds}"
        )


def receives_ahead(schedule: str) -> bool:
    """Whether a rank asks for a message long before it reads it.

    `torch.distributed.pipelining` does under the schedules that have several stages a rank. Under
    the others it asks when it has come to the action that reads the message, and waits: nothing
    moves before both sides are there.
    """
    return schedule in ("interleaved", "zero-bubble")


def orders(
    schedule: str,
    ranks: int,
    micro_batches: int,
    *,
    stages_per_rank: int = 1,
    training: bool = True,
) -> Orders:
    """By rank, the actions of one step.

    Raises:
        SpecError: see `check_schedule`.
    """
    check_schedule(schedule, ranks, micro_batches, stages_per_rank)
    if not training:
        return tuple(
            tuple(
                Action(chunk * ranks + rank, Kind.FORWARD, micro_batch)
                for chunk in range(stages_per_rank)
                for micro_batch in range(micro_batches)
            )
            for rank in range(ranks)
        )
    make = {"gpipe": _gpipe, "1f1b": _one_forward_one_backward}.get(schedule)
    if make is not None:
        return tuple(tuple(make(rank, ranks, micro_batches)) for rank in range(ranks))
    split = schedule == "zero-bubble"
    return tuple(
        tuple(_interleaved(rank, ranks, micro_batches, stages_per_rank, split))
        for rank in range(ranks)
    )


def _gpipe(rank: int, ranks: int, micro_batches: int) -> Iterator[Action]:
    for kind in (Kind.FORWARD, Kind.BACKWARD):
        for micro_batch in range(micro_batches):
            yield Action(rank, kind, micro_batch)


def _one_forward_one_backward(rank: int, ranks: int, micro_batches: int) -> Iterator[Action]:
    warm_up = min(micro_batches, ranks - rank)
    for micro_batch in range(warm_up):
        yield Action(rank, Kind.FORWARD, micro_batch)
    for micro_batch in range(micro_batches):
        yield Action(rank, Kind.BACKWARD, micro_batch)
        if micro_batch + warm_up < micro_batches:
            yield Action(rank, Kind.FORWARD, micro_batch + warm_up)


def _interleaved(
    rank: int, ranks: int, micro_batches: int, chunks: int, split: bool
) -> Iterator[Action]:
    """Rounds of micro-batches pass through a rank's stages in turn, depth first."""
    each = micro_batches // max(1, micro_batches // ranks)
    total = micro_batches * chunks
    hops = (1 if split else 2) * (ranks - 1 - rank)
    warm_up = min((chunks - 1) * each + hops, total)
    seen: Counter[tuple[Kind, int]] = Counter()

    def action(kind: Kind, chunk: int) -> Action:
        stage = chunk * ranks + rank
        micro_batch = seen[kind, stage]
        seen[kind, stage] += 1
        return Action(stage, kind, micro_batch)

    def forward(step: int) -> Action:
        return action(Kind.FORWARD, step // each % chunks)

    def backward(kind: Kind, step: int) -> Action:
        return action(kind, chunks - 1 - step // each % chunks)

    whole = Kind.BACKWARD_INPUT if split else Kind.BACKWARD
    for step in range(warm_up):
        yield forward(step)
    for step in range(total):
        if step + warm_up < total:
            yield forward(step + warm_up)
        yield backward(whole, step)
        if split and step >= rank:
            yield backward(Kind.BACKWARD_WEIGHT, step - rank)
    if split:
        for step in range(max(0, total - rank), total):
            yield backward(Kind.BACKWARD_WEIGHT, step)


def in_flight(order: Sequence[Action]) -> dict[int, int]:
    """By stage of one rank, the most micro-batches that are between forward and backward."""
    stages = sorted({action.stage for action in order})
    return {stage: int(peak_in_flight(order, {stage: 1})) for stage in stages}


def in_flight_by_stage(orders: Orders) -> list[int]:
    """`in_flight` of every stage of all ranks, the first stage first."""
    found: dict[int, int] = {}
    for order in orders:
        found.update(in_flight(order))
    return [found[stage] for stage in sorted(found)]


def peak_in_flight(order: Sequence[Action], nbytes: Mapping[int, int]) -> int:
    """The most that a rank holds at once for micro-batches between forward and backward.

    Args:
        order: of one rank.
        nbytes: by stage, what one micro-batch keeps there; other stages keep nothing.
    """
    ends = {(a.stage, a.micro_batch): i for i, a in enumerate(order) if a.kind != Kind.FORWARD}
    held = most = 0
    for place, action in enumerate(order):
        amount = nbytes.get(action.stage, 0)
        if action.kind == Kind.FORWARD:
            held += amount
            most = max(most, held)
            if (action.stage, action.micro_batch) not in ends:
                held -= amount
        elif ends[action.stage, action.micro_batch] == place:
            held -= amount
    return most
