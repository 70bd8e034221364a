"""`simulate`: when each action of a pipeline runs, under the times of its stages and links."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from partitioner.schedule.actions import Action, Kind, Orders


@dataclass(frozen=True, slots=True)
class StageSeconds:
    """What one micro-batch costs on one stage.

    Attributes:
        forward: of the forward.
        backward_input: of the backward up to the gradients of the stage's inputs.
        backward_weight: of the gradients of its parameters.
        send: that its outputs take to the next stage; 0 where that is on the same device.
        send_back: that the gradients of its inputs take to the stage before.
    """

    forward: float
    backward_input: float = 0.0
    backward_weight: float = 0.0
    send: float = 0.0
    send_back: float = 0.0

    def of(self, kind: Kind) -> float:
        """Seconds of one action."""
        match kind:
            case Kind.FORWARD:
                return self.forward
            case Kind.BACKWARD:
                return self.backward_input + self.backward_weight
            case Kind.BACKWARD_INPUT:
                return self.backward_input
            case Kind.BACKWARD_WEIGHT:
                return self.backward_weight


def backward_parts(
    stage: int, backward: float, weight: float, splits: bool = True
) -> tuple[float, float]:
    """The backward of a stage as `zero-bubble` divides it: first for inputs, then for parameters.

    The first stage has no gradients of inputs, and does all of it in the second part, like
    `torch.distributed.pipelining`; a stage that cannot be split does all of it in the first.

    Args:
        stage: its index.
        backward: seconds of all of it.
        weight: seconds of what gradients of parameters alone need.
        splits: whether the two can be computed apart.
    """
    if stage == 0:
        return 0.0, backward
    return (backward - weight, weight) if splits else (backward, 0.0)


@dataclass(frozen=True, slots=True)
class Interval:
    """An action and when it runs, in seconds from the start of the step."""

    action: Action
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Timetable:
    """One step of a pipeline.

    Attributes:
        compute: by rank, what it does and when.
        transfers: by rank, what it sends (the outputs of a forward, or the gradients that a
            backward passes back) and when.
        seconds: of the whole step.
    """

    compute: tuple[tuple[Interval, ...], ...]
    transfers: tuple[tuple[Interval, ...], ...]
    seconds: float

    @property
    def busy_seconds(self) -> tuple[float, ...]:
        """By rank, the time in which it computes."""
        return tuple(sum(i.end - i.start for i in intervals) for intervals in self.compute)

    @property
    def ends(self) -> tuple[float, ...]:
        """By rank, when it has nothing more to compute or to send."""
        return tuple(
            max((interval.end for interval in (*computed, *sent)), default=0.0)
            for computed, sent in zip(self.compute, self.transfers, strict=True)
        )

    @property
    def bubble(self) -> float:
        """The share of all ranks' time in which they do not compute."""
        if not self.seconds:
            return 0.0
        return 1 - sum(self.busy_seconds) / (len(self.compute) * self.seconds)


def simulate(orders: Orders, stages: Sequence[StageSeconds]) -> Timetable:
    """Run `orders`: an action waits for its rank and for what it reads.

    Transfers run beside computing; those between the same two ranks, in one direction, run one
    after another.

    Raises:
        ValueError: an order waits for something that comes later; such orders cannot run at all.
    """
    ranks, last = len(orders), len(stages) - 1
    compute: list[list[Interval]] = [[] for _ in orders]
    transfers: list[list[Interval]] = [[] for _ in orders]
    arrived: dict[tuple[int, bool, int], float] = {}
    done: dict[tuple[int, Kind, int], float] = {}
    free_links: dict[tuple[int, int], float] = {}
    position = [0] * ranks

    def ready(action: Action) -> float | None:
        """When everything that an action reads is there; `None` if that is not known yet."""
        stage, micro_batch = action.stage, action.micro_batch
        if action.kind == Kind.FORWARD:
            return 0.0 if stage == 0 else arrived.get((stage, True, micro_batch))
        if action.kind == Kind.BACKWARD_WEIGHT:
            return done.get((stage, Kind.BACKWARD_INPUT, micro_batch))
        own = done.get((stage, Kind.FORWARD, micro_batch))
        given = 0.0 if stage == last else arrived.get((stage, False, micro_batch))
        return None if own is None or given is None else max(own, given)

    def send(rank: int, action: Action, end: float) -> None:
        forward = action.kind == Kind.FORWARD
        if action.kind == Kind.BACKWARD_WEIGHT or action.stage == (last if forward else 0):
            return
        to = action.stage + (1 if forward else -1)
        seconds = stages[action.stage].send if forward else stages[action.stage].send_back
        start = end
        if to % ranks != rank:
            start = max(end, free_links.get((rank, to % ranks), 0.0))
            end = start + seconds
            free_links[rank, to % ranks] = end
            transfers[rank].append(Interval(action, start, end))
        arrived[to, forward, action.micro_batch] = end

    left = sum(map(len, orders))
    while left:
        before = left
        for rank, order in enumerate(orders):
            while position[rank] < len(order):
                action = order[position[rank]]
                at = ready(action)
                if at is None:
                    break
                start = max(at, compute[rank][-1].end if compute[rank] else 0.0)
                end = start + stages[action.stage].of(action.kind)
                compute[rank].append(Interval(action, start, end))
                done[action.stage, action.kind, action.micro_batch] = end
                send(rank, action, end)
                position[rank] += 1
                left -= 1
        if left == before:
            waiting = [str(o[p]) for o, p in zip(orders, position, strict=True) if p < len(o)]
            raise ValueError(f"these actions wait for each other: {', '.join(waiting)}")
    rows = tuple(map(tuple, compute)), tuple(map(tuple, transfers))
    ends = [interval.end for row in (*compute, *transfers) for interval in row]
    return Timetable(*rows, max(ends, default=0.0))
