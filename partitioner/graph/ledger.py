"""When each storage is born and dies, and when the most is live: `StorageLedger`.

The clock ticks at each birth and each death. Time is cut into program points (see `Holding`); of
each point the ledger keeps the moment at which most is live. A storage counts at the points at
whose moment it lives, so that the bytes of all that count at a point are what really was its peak.

::

    clock     1   2   3   4   5   6   7
    point     |--- 0 ---|--- 1 ---|- 2 -|
    storage a     [===============)           born 2, died 6: counts at 0 and 1
    storage b         [=)                     a transient of point 0
    moment            ^       ^     ^
"""

from __future__ import annotations

import bisect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cost_models.signatures import tensors_in
from partitioner.virtual import computed, rounded

_LABEL = "_partitioner_life"


@dataclass(slots=True, eq=False)
class Life:
    """One storage.

    Attributes:
        nbytes: rounded.
        born: clock at its birth.
        point: program point of its birth.
        maker: index of the node that made it.
        died: clock at its death, `None` while it lives.
        death_point: program point of its death.
        state: canonical name of the parameter, buffer or constant that it is.
        savers: indices of the nodes that keep it for their backward.
    """

    nbytes: int
    born: int
    point: int
    maker: int
    died: int | None = None
    death_point: int | None = None
    state: str | None = None
    savers: list[int] = field(default_factory=list)


class _Mark:
    """Sits on a storage and tells the ledger when it is gone."""

    __slots__ = ("ledger", "life")

    def __init__(self, ledger: StorageLedger, life: Life) -> None:
        self.ledger = ledger
        self.life = life

    def __del__(self) -> None:
        self.ledger.bury(self.life)


class StorageLedger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every storage that an operator makes.

    While `aside` is set, what is born counts towards the peak but is not listed.

    Args:
        locate: called with each operator before it runs; may call `enter`.
        counts: which of the tensors that operators make are followed.
    """

    def __init__(
        self,
        locate: Callable[[Any], None] = lambda operator: None,
        counts: Callable[[torch.Tensor], bool] = lambda tensor: True,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.locate = locate
        self.counts = counts
        self.lives: list[Life] = []
        self.moments: list[int] = []
        self.peaks: list[int] = []
        self.clock = 0
        self.live_nbytes = 0
        self.point = -1
        self.maker = 0
        self.aside = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run `func` and note what is new."""
        self.locate(func)
        result = computed(func, args, kwargs or {})
        for tensor in tensors_in(result):
            if self.counts(tensor):
                self.note(tensor)
        return result

    def enter(self, point: int, maker: int) -> None:
        """Go on to `point` (never back); what is born from now on is made by node `maker`."""
        self.maker = maker
        if point > self.point:
            self.moments += [self.clock] * (point - self.point)
            self.peaks += [self.live_nbytes] * (point - self.point)
            self.point = point

    def note(self, tensor: torch.Tensor) -> Life | None:
        """The life of a tensor's storage, which begins now if the ledger has not seen it.

        `None` for a tensor without one storage (a sparse one).
        """
        if tensor.layout != torch.strided:
            return None
        storage = tensor.untyped_storage()
        mark = getattr(storage, _LABEL, None)
        if mark is not None and mark.ledger is self:
            known: Life = mark.life
            return known
        self.clock += 1
        life = Life(rounded(int(storage.nbytes())), self.clock, self.point, self.maker)
        setattr(storage, _LABEL, _Mark(self, life))
        if not self.aside:
            self.lives.append(life)
        self.live_nbytes += life.nbytes
        if self.peaks and self.live_nbytes > self.peaks[-1]:
            self.peaks[-1] = self.live_nbytes
            self.moments[-1] = self.clock
        return life

    def follow(self, other: StorageLedger, end: int) -> None:
        """Take births and deaths in the forward from another run of the same operators.

        Args:
            other: the other run's ledger, at the end of its forward.
            end: this ledger's clock at the end of the forward; what came after stays after.
        """
        forward = [life for life in self.lives if life.born <= end]
        if [life.nbytes for life in forward] != [life.nbytes for life in other.lives]:
            return
        shift = other.clock - end
        for life in self.lives:
            life.born += shift
            if life.died is not None:
                life.died += shift
        for life, twin in zip(forward, other.lives, strict=True):
            life.born = twin.born
            if life.died is not None and life.died <= other.clock:
                life.died = other.clock if twin.died is None else twin.died
        later = [moment + shift for moment in self.moments[len(other.moments) :]]
        self.moments = [*other.moments, *later]
        self.clock += shift

    def note_state(self, tensor: torch.Tensor, name: str) -> None:
        """Note a tensor of the model: it is there all the time and counts by itself."""
        life = self.note(tensor)
        if life is not None and life.state is None:
            life.state = name
            self.live_nbytes -= life.nbytes

    def peak_nbytes(self, point: int) -> int:
        """The most that was live at a point, the model's own tensors not counted."""
        return self.peaks[point]

    def life_of(self, tensor: torch.Tensor) -> Life | None:
        """The life of a tensor's storage, if the ledger has seen it."""
        if tensor.layout != torch.strided:
            return None
        mark = getattr(tensor.untyped_storage(), _LABEL, None)
        return mark.life if mark is not None and mark.ledger is self else None

    def bury(self, life: Life) -> None:
        """Note that a storage is gone."""
        self.clock += 1
        life.died = self.clock
        life.death_point = self.point
        if life.state is None:
            self.live_nbytes -= life.nbytes

    def points_of(self, life: Life) -> tuple[int, int]:
        """The first and the last point at which `life` counts; the last is smaller for none."""
        first = bisect.bisect_left(self.moments, life.born)
        died = self.clock + 1 if life.died is None else life.died
        return first, bisect.bisect_left(self.moments, died) - 1
