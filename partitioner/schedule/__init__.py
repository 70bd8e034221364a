"""Pipelines of micro-batches: who does what in which order, and how long a step takes.

Orders are those of `torch.distributed.pipelining`; a `Timetable` is their simulation.
"""

from partitioner.schedule.actions import (
    SCHEDULES,
    Action,
    Kind,
    Orders,
    check_schedule,
    in_flight,
    in_flight_by_stage,
    orders,
    peak_in_flight,
    receives_ahead,
)
from partitioner.schedule.timetable import (
    Interval,
    StageSeconds,
    Timetable,
    backward_parts,
    simulate,
)

__all__ = [
    "SCHEDULES",
    "Action",
    "Interval",
    "Kind",
    "Orders",
    "StageSeconds",
    "Timetable",
    "backward_parts",
    "check_schedule",
    "in_flight",
    "in_flight_by_stage",
    "orders",
    "peak_in_flight",
    "receives_ahead",
    "simulate",
]
