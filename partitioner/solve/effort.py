"""How long a search may go on: counted work, so that results repeat, and a clock if asked for."""

from __future__ import annotations

import time


class Effort:
    """Work left to spend; one unit is about one node looked at.

    Attributes:
        deadline: in `time.monotonic()` seconds, or `None`.
    """

    def __init__(self, units: float, deadline: float | None = None) -> None:
        self.units = units
        self.deadline = deadline

    def spend(self, units: float) -> bool:
        """Pay for some work; `False` when nothing is left or the time is up."""
        self.units -= units
        return self.units > 0 and not self.late()

    def late(self) -> bool:
        """Whether the clock has run out."""
        return self.deadline is not None and time.monotonic() >= self.deadline

    def part(self, share: float) -> Effort:
        """Some of it, taken out of this."""
        taken = max(0.0, self.units * share)
        self.units -= taken
        return Effort(taken, self.deadline)
