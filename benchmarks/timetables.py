"""The simulated timetable beside real processes: `python -m benchmarks.timetables [--smoke]`.

Stages of 2 and of 4 processes on gloo wait for a known time in place of computing, so that they
overlap whatever else the cores do: 4 processes need no 4 cores. What a step takes beyond its
timetable is what messages and Python take.

Each process writes down what its stages do and when. `order` says whether all do it in the order of
the timetable, and `off` by how much the start of any action differs from it at most.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from math import inf
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from benchmarks.processes import together
from partitioner.capture import capture
from partitioner.distributed import PipelineLayout, RankPipeline
from partitioner.schedule import (
    Action,
    Kind,
    StageSeconds,
    Timetable,
    backward_parts,
    orders,
    receives_ahead,
    simulate,
)

MICRO_BATCHES = 8
LAYERS = 8
SCHEDULES = (("gpipe", 1), ("1f1b", 1), ("interleaved", 2), ("zero-bubble", 1), ("zero-bubble", 2))
"""With the number of stages of each process."""
WAITS = (0.02, 0.035, 0.015, 0.03, 0.02, 0.02, 0.01, 0.03)
"""Seconds of the forward of a micro-batch, by stage; the backward takes twice as long, half of it
for gradients of parameters."""
ROUNDS, SMOKE_ROUNDS = 3, 1

Event = tuple[int, str, int, float]
"""A stage, a part of its work (`F`, `I` or `W`), the micro-batch, and when it begins."""


def timed(job: dict[str, Any]) -> list[dict[str, Any]]:
    """In each process: the median seconds of a step of each schedule, and the events of one."""
    ranks = dist.get_world_size()
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(LAYERS)))
    batch = torch.zeros(MICRO_BATCHES, 8)
    captured = capture(model, (batch[:1],), {}, training=True)
    layers = [n.name for n in captured.graph.nodes if n.op not in ("placeholder", "output")]
    found = []
    for schedule, each in job["schedules"]:
        stages = ranks * each
        stage_of = {name: i * stages // len(layers) for i, name in enumerate(layers)}
        layout = PipelineLayout.of(captured, stage_of, schedule, MICRO_BATCHES, each)
        pipeline = RankPipeline(model, layout, "cpu", lambda output, _: output.mean())
        events: list[Event] = []
        for stage in pipeline.stages:
            _let_wait(stage, job["scale"] * WAITS[stage.part.index], events)
        steps = []
        for _ in range(job["rounds"] + 1):
            pipeline.zero_grad()
            events.clear()
            dist.barrier()
            start = time.monotonic()
            pipeline.step(batch)
            dist.barrier()
            steps.append((time.monotonic() - start, _by_rank(events)))
        middle = statistics.median_low(seconds for seconds, _ in steps[1:])
        seconds, told = next(step for step in steps[1:] if step[0] == middle)
        found.append({"seconds": seconds, "events": told})
    return found


def _by_rank(events: list[Event]) -> list[list[Event]]:
    """The events of all processes, which read one clock, by rank."""
    every: list[list[Event]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(every, events)
    return every


def _let_wait(stage: nn.Module, seconds: float, events: list[Event]) -> None:
    """Have a stage wait in its forward, and in either half of its backward."""
    index: int = stage.part.index  # type: ignore[assignment, union-attr]
    seen: Counter[str] = Counter()

    def wait(part: str) -> None:
        events.append((index, part, seen[part] % MICRO_BATCHES, time.monotonic()))
        seen[part] += 1
        time.sleep(seconds)

    def forward(module: nn.Module, given: Any, out: tuple[torch.Tensor, ...]) -> Any:
        wait("F")
        last = out[0] * 1  # of no parameter, so that only the gradients of inputs pass it
        last.register_hook(_calling(wait, "I"))
        return (last,)

    stage.register_forward_hook(forward)
    next(stage.parameters()).register_hook(_calling(wait, "W"))


def _calling(wait: Callable[[str], None], part: str) -> Callable[[torch.Tensor], None]:
    return lambda gradient: wait(part)


def predicted(schedule: str, each: int, processes: int, scale: float) -> Timetable:
    """The timetable of stages that wait."""
    plan = orders(schedule, processes, MICRO_BATCHES, stages_per_rank=each)
    waits = [scale * seconds for seconds in WAITS[: processes * each]]
    stages = [
        StageSeconds(seconds, *backward_parts(stage, 2 * seconds, seconds))
        for stage, seconds in enumerate(waits)
    ]
    return simulate(plan, stages, ahead=receives_ahead(schedule))


def expected(table: Timetable, scale: float) -> list[list[Event]]:
    """What the timetable says of events, by rank."""
    found = []
    for row in table.compute:
        events: list[Event] = []
        for interval in row:
            stage, start = interval.action.stage, interval.start
            for part in _parts(interval.action):
                events.append((stage, part, interval.action.micro_batch, start))
                start += scale * WAITS[stage]
        found.append(events)
    return found


def _parts(action: Action) -> str:
    """What a stage does in an action; the first one has no gradients of inputs to compute."""
    match action.kind:
        case Kind.BACKWARD:
            return "IW"
        case Kind.BACKWARD_INPUT:
            return "I" if action.stage else ""
        case Kind.BACKWARD_WEIGHT:
            return "W" if action.stage else "IW"
        case Kind.FORWARD:
            return "F"


def compared(
    expected: Sequence[Sequence[Event]], events: Sequence[Sequence[Sequence[Any]]]
) -> tuple[bool, float]:
    """Whether all ranks did what was expected, in that order, and by how much starts differ."""
    begun = min(event[-1] for row in events for event in row)
    if [[tuple(event[:-1]) for event in row] for row in events] != [
        [event[:-1] for event in row] for row in expected
    ]:
        return False, inf
    return True, max(
        abs(event[-1] - begun - other[-1])
        for row, others in zip(events, expected, strict=True)
        for event, other in zip(row, others, strict=True)
    )


def rows(
    processes: int, schedules: Sequence[tuple[str, int]], rounds: int, scale: float
) -> list[str]:
    """By schedule, step and bubble as predicted and as measured, and the order of events."""
    job = {"schedules": schedules, "rounds": rounds, "scale": scale}
    measured = together(processes, {"benchmarks.timetables:timed": job})
    told = []
    for (schedule, each), one in zip(
        schedules, measured["benchmarks.timetables:timed"], strict=True
    ):
        table = predicted(schedule, each, processes, scale)
        seconds = one["seconds"]
        bubble = 1 - sum(table.busy_seconds) / (processes * seconds)
        same, off = compared(expected(table, scale), one["events"])
        told.append(
            f"{processes:9} {schedule:12}{each:6}{table.seconds:11.3f}{seconds:11.3f}"
            f"{seconds / table.seconds:9.3f}{table.bubble:11.1%}{bubble:11.1%}"
            f"{'same' if same else 'other':>8}{1000 * off:10.1f}"
        )
    return told


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="two processes, one short step")
    options = parser.parse_args(arguments)
    print(
        "processes schedule    stages  predicted   measured    ratio  predicted   measured"
        "   order  off, ms\n"
        f"{'':22}  each    step, s    step, s             bubble     bubble"
    )
    for processes in (2,) if options.smoke else (2, 4):
        schedules = SCHEDULES[3:4] if options.smoke else SCHEDULES
        rounds, scale = (SMOKE_ROUNDS, 0.5) if options.smoke else (ROUNDS, 1.0)
        print("\n".join(rows(processes, schedules, rounds, scale)), flush=True)


if __name__ == "__main__":
    main()
