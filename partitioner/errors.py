"""What can go wrong, as a tree.

::

    PartitionerError
    ├── CaptureError     the model cannot be recorded, or the inputs do not fit it
    ├── SpecError        devices, links, sizes or constraints that make no sense
    ├── InfeasibleError  nothing fits, and by how much
    ├── SolverError      the solver broke its word, or ran out of time with nothing
    │   └── TimeLimitError
    ├── PlanError        a plan that is damaged, foreign, or for another model
    └── CheckpointError  a checkpoint that is damaged, foreign, or for another model

Each message says what, how much and what to try, in the user's own names.
"""

from collections.abc import Mapping, Sequence


class PartitionerError(Exception):
    """The root of everything that `partitioner` raises on purpose."""


class CaptureError(PartitionerError, ValueError):
    """The model could not be recorded; the message holds the line in the user's code."""


class SpecError(PartitionerError, ValueError):
    """What the user declared (devices, links, sizes, constraints) makes no sense."""


class PlanError(PartitionerError, ValueError):
    """A plan is damaged, foreign, or belongs to another model."""


class CheckpointError(PartitionerError, ValueError):
    """A checkpoint is damaged, holds more than tensors, or belongs to another model."""


class SolverError(PartitionerError, RuntimeError):
    """The solver's answer does not survive a recount, or the solver is missing."""


class TimeLimitError(SolverError):
    """The time limit passed before any plan was found."""


class InfeasibleError(PartitionerError):
    """No placement satisfies every limit and constraint.

    Attributes:
        shortfall: bytes missing, by device name, or under `"total"` for all devices together.
        conflicting: the constraints that clash, as the user wrote them.
        suggestions: what would help, each of them alone; each one holds when tried.

    As a text it is the message, then a line for each suggestion.
    """

    def __init__(
        self,
        message: str,
        *,
        shortfall: Mapping[str, int] | None = None,
        conflicting: Sequence[object] = (),
        suggestions: Sequence[str] = (),
    ) -> None:
        super().__init__(message)
        self.shortfall: dict[str, int] = dict(shortfall or {})
        self.conflicting: tuple[object, ...] = tuple(conflicting)
        self.suggestions: tuple[str, ...] = tuple(suggestions)

    def __str__(self) -> str:
        return "\n".join([super().__str__(), *(f"  try: {text}" for text in self.suggestions)])
