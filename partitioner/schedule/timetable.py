"""`simulate`: when each action of a pipeline runs, under the times of its stages and links."""

from __future__ import annotations

from collections import deque
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


def simulate(orders: Orders, stages: Sequence[StageSeconds], *, ahead: bool = True) -> Timetable:
    """Run `orders`: an action waits for its rank and for what it reads.

    Transfers run beside computing; those between the same two ranks, in one direction, run one
    after another.

    Args:
        orders: by rank, its actions.
        stages: what they cost.
        ahead: whether a rank takes what it is sent while it still computes something else; see
            `receives_ahead`.

    Raises:
        ValueError: an order waits for something that comes later; such orders cannot run at all.
    """
    run = _Run(orders, stages, ahead)
    turns = deque(range(len(orders)))
    while turns:
        turns += run.go_on(turns.popleft())
    waiting = [str(o[p]) for o, p in zip(orders, run.position, strict=True) if p < len(o)]
    if waiting:
        raise ValueError(f"these actions wait for each other: {', '.join(waiting)}")
    rows = tuple(map(tuple, run.compute)), tuple(map(tuple, run.transfers))
    ends = [interval.end for row in (*run.compute, *run.transfers) for interval in row]
    return Timetable(*rows, max(ends, default=0.0))


_Message = tuple[int, bool, int]
"""To which stage, whether in the forward, and of which micro-batch."""


class _Run:
    """A step under way.

    Attributes:
        position: by rank, how many of its actions are done.
        free: by rank, when it is done with these.
        sent: messages that nobody has taken yet: from whom, of which action, and when it ended.
        arrived: when messages were there.
        done: when forwards and first halves of backwards ended, by stage and micro-batch.
    """

    def __init__(self, orders: Orders, stages: Sequence[StageSeconds], ahead: bool) -> None:
        self.orders, self.stages, self.ahead = orders, stages, ahead
        self.seconds = [{kind: stage.of(kind) for kind in Kind} for stage in stages]
        self.compute: list[list[Interval]] = [[] for _ in orders]
        self.transfers: list[list[Interval]] = [[] for _ in orders]
        self.position = [0] * len(orders)
        self.free = [0.0] * len(orders)
        self.sent: dict[_Message, tuple[int, Action, float]] = {}
        self.arrived: dict[_Message, float] = {}
        self.done: dict[tuple[int, Kind, int], float] = {}
        self.free_links: dict[tuple[int, int], float] = {}

    def go_on(self, rank: int) -> list[int]:
        """Do the actions of a rank until one has to wait; the ranks that were sent something."""
        reached: list[int] = []
        order = self.orders[rank]
        while self.position[rank] < len(order):
            action = order[self.position[rank]]
            ready = self._ready(rank, action)
            if ready is None:
                break
            start = max(ready, self.free[rank])
            end = start + self.seconds[action.stage][action.kind]
            self.compute[rank].append(Interval(action, start, end))
            self.done[action.stage, action.kind, action.micro_batch] = end
            self.free[rank] = end
            self.position[rank] += 1
            reached += self._send(rank, action, end)
        return reached

    def _ready(self, rank: int, action: Action) -> float | None:
        """When everything that an action reads is there; `None` if that is not known yet."""
        stage, kind, micro_batch = action.stage, action.kind, action.micro_batch
        if kind is Kind.FORWARD:
            return self._taken(rank, (stage, True, micro_batch)) if stage else 0.0
        if kind is Kind.BACKWARD_WEIGHT:
            return self.done.get((stage, Kind.BACKWARD_INPUT, micro_batch))
        own = self.done.get((stage, Kind.FORWARD, micro_batch))
        if own is None or stage + 1 == len(self.stages):
            return own
        given = self._taken(rank, (stage, False, micro_batch))
        return None if given is None else max(own, given)

    def _taken(self, rank: int, message: _Message) -> float | None:
        """When a message is there, which a rank has come to ask for."""
        if message in self.sent:
            source, action, end = self.sent.pop(message)
            self._carry(source, rank, action, message, max(end, self.free[rank]))
        return self.arrived.get(message)

    def _send(self, rank: int, action: Action, end: float) -> tuple[int, ...]:
        """Send on what an action computed; the rank that it goes to."""
        forward = action.kind is Kind.FORWARD
        last = len(self.stages) - 1 if forward else 0
        if action.kind is Kind.BACKWARD_WEIGHT or action.stage == last:
            return ()
        to = action.stage + (1 if forward else -1)
        there = to % len(self.orders)
        message = (to, forward, action.micro_batch)
        if there == rank:
            self.arrived[message] = end
        elif self.ahead:
            self._carry(rank, there, action, message, end)
        else:
            self.sent[message] = rank, action, end
        return (there,)

    def _carry(
        self, source: int, target: int, action: Action, message: _Message, earliest: float
    ) -> None:
        stage = self.stages[action.stage]
        seconds = stage.send if action.kind is Kind.FORWARD else stage.send_back
        start = max(earliest, self.free_links.get((source, target), 0.0))
        self.free_links[source, target] = self.arrived[message] = start + seconds
        self.transfers[source].append(Interval(action, start, start + seconds))
