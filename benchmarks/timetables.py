"""The simulated timetable beside real processes: `python -m benchmarks.timetables [--smoke]`.

Stages of 2 and of 4 processes on gloo wait for a known time in place of computing, so that they
overlap whatever else the cores do. What a step takes beyond its timetable is what messages and
Python take.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from benchmarks.processes import together
from partitioner.capture import capture
from partitioner.distributed import PipelineLayout, RankPipeline
from partitioner.schedule import StageSeconds, orders, simulate

MICRO_BATCHES = 8
LAYERS = 8
SCHEDULES = (("gpipe", 1), ("1f1b", 1), ("interleaved", 2))
WAITS = (0.02, 0.035, 0.015, 0.03, 0.02, 0.02, 0.01, 0.03)
"""Seconds of the forward of a micro-batch, by stage; the backward takes twice as long."""
ROUNDS, SMOKE_ROUNDS = 5, 1


def waits(stages: int, scale: float) -> list[StageSeconds]:
    return [StageSeconds(scale * f, scale * f, scale * f) for f in WAITS[:stages]]


def timed(job: dict[str, Any]) -> dict[str, float]:
    """In each process: the median seconds of a step, by schedule."""
    ranks = dist.get_world_size()
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(LAYERS)))
    batch = torch.zeros(MICRO_BATCHES, 8)
    captured = capture(model, (batch[:1],), {}, training=True)
    layers = [n.name for n in captured.graph.nodes if n.op not in ("placeholder", "output")]
    found = {}
    for schedule, each in job["schedules"]:
        stages = ranks * each
        stage_of = {name: i * stages // len(layers) for i, name in enumerate(layers)}
        layout = PipelineLayout.of(captured, stage_of, schedule, MICRO_BATCHES, each)
        pipeline = RankPipeline(model, layout, "cpu", lambda output, _: output.mean())
        for stage in pipeline.stages:
            stage.register_forward_hook(_waiting(waits(stages, job["scale"])[stage.part.index]))
        seconds = []
        for _ in range(job["rounds"] + 1):
            dist.barrier()
            start = time.perf_counter()
            pipeline.zero_grad()
            pipeline.step(batch)
            dist.barrier()
            seconds.append(time.perf_counter() - start)
        found[schedule] = statistics.median(seconds[1:])
    return found


def _waiting(takes: StageSeconds) -> Any:
    """A forward hook that waits, and has the backward wait."""

    def backward(gradient: torch.Tensor) -> None:
        time.sleep(takes.backward_input + takes.backward_weight)

    def forward(stage: nn.Module, given: Any, out: Any) -> None:
        time.sleep(takes.forward)
        tensor = out[0] if isinstance(out, tuple) else out
        tensor.register_hook(backward)

    return forward


def rows(
    processes: int, schedules: Sequence[tuple[str, int]], rounds: int, scale: float
) -> list[str]:
    """By schedule, predicted and measured step and bubble."""
    job = {"schedules": schedules, "rounds": rounds, "scale": scale}
    measured = together(processes, {"benchmarks.timetables:timed": job})
    told = []
    for schedule, each in schedules:
        plan = orders(schedule, processes, MICRO_BATCHES, stages_per_rank=each)
        table = simulate(plan, waits(processes * each, scale))
        seconds = measured["benchmarks.timetables:timed"][schedule]
        bubble = 1 - sum(table.busy_seconds) / (processes * seconds)
        told.append(
            f"{processes:9} {schedule:12}{table.seconds:11.3f}{seconds:11.3f}"
            f"{seconds / table.seconds:9.3f}{table.bubble:11.1%}{bubble:11.1%}"
        )
    return told


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="two processes, one short step")
    options = parser.parse_args(arguments)
    print(
        "processes schedule      predicted   measured   ratio  predicted   measured\n"
        f"{'':21} step, s    step, s           bubble     bubble"
    )
    for processes in (2,) if options.smoke else (2, 4):
        schedules = SCHEDULES[1:2] if options.smoke else SCHEDULES
        rounds, scale = (SMOKE_ROUNDS, 0.5) if options.smoke else (ROUNDS, 1.0)
        print("\n".join(rows(processes, schedules, rounds, scale)), flush=True)


if __name__ == "__main__":
    main()
