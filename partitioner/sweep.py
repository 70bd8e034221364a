"""`sweep`: one model on many clusters and batches, recorded once for each batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import nn

from cost_models import CostModel, RooflineCostModel
from partitioner.capture import example_call
from partitioner.distributed import first_micro_batch
from partitioner.errors import InfeasibleError, SpecError, TimeLimitError
from partitioner.lean import batch_of, with_batch
from partitioner.options import LossFunction, Optimizer, Options, Progress, Targets, mode_of
from partitioner.pipelined import pipeline_plan
from partitioner.placement import bottleneck_seconds, peak_nbytes, step_seconds
from partitioner.priced import Call, Priced, priced
from partitioner.rehearsed import solve_and_rehearse
from partitioner.report import Cell, Sweep
from partitioner.solve import Solution
from partitioner.spec import Cluster, Constraint, counted
from partitioner.virtual import suspended


def sweep(
    model: nn.Module,
    clusters: str | Iterable[object],
    example_inputs: Any = None,
    *,
    batches: Sequence[int] = (),
    example_kwargs: Mapping[str, Any] | None = None,
    mode: str | None = None,
    optimizer: Optimizer = None,
    objective: str = "latency",
    constraints: Sequence[Constraint] = (),
    cost_model: CostModel | None = None,
    micro_batches: int = 1,
    schedule: str = "1f1b",
    stages_per_rank: int = 1,
    time_limit: float | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    loss: LossFunction = None,
    targets: Targets = None,
) -> Sweep:
    """Plan `model` for every batch on every cluster, and tell what each takes.

    Args:
        model: any module; never modified. Its parameters may be on `meta`.
        clusters: a range such as `"1..8x24GiB"`, or several of anything that `Cluster.of` takes.
        example_inputs: as for `partitioner.plan`.
        batches: leading sizes of the inputs; none is the one that they have.
        example_kwargs: further keyword arguments.
        mode: as for `partitioner.plan`, like all that follows but the next.
        optimizer: its state's bytes count.
        objective: `"latency"`, `"throughput"` or `"memory"`.
        constraints: `Pin`, `Colocate`, `Separate`, `Contiguous`.
        cost_model: prices operators.
        micro_batches: more than 1 plans pipelines.
        schedule: of the pipeline.
        stages_per_rank: of the pipeline.
        time_limit: seconds for the whole sweep: the solver has an even share of what is left for
            each cell, and cells for which nothing is left are not tried.
        seed: of the solver's randomised parts.
        progress: called with a line of text at each step.
        loss: that is trained with.
        targets: an example of what the loss compares with; with another batch, of that size.

    The search for a cluster begins at the plan of the one before as well, where its devices are
    there.

    An interruption (`KeyboardInterrupt`) ends the sweep with what it has.

    Raises:
        CaptureError: the model cannot be recorded, or the inputs do not fit it.
        SpecError: clusters, batches or options make no sense.
    """
    texts = counted(clusters) if isinstance(clusters, str) else list(clusters)
    named = [(_text(given), Cluster.of(given)) for given in texts]
    if not named:
        raise SpecError("there is no cluster to sweep over; give one such as '1..4x24GiB'")
    options = Options(
        mode=mode_of(model, mode),
        objective=objective,
        optimizer=optimizer,
        constraints=tuple(constraints),
        cost_model=cost_model or RooflineCostModel(),
        micro_batches=micro_batches,
        schedule=schedule,
        stages_per_rank=stages_per_rank,
        seed=seed,
        progress=progress,
        loss=loss,
        targets=targets,
    )
    if any(batch < 1 for batch in batches):
        raise SpecError(f"a batch must be at least 1, not {min(batches)}")
    with suspended():
        call = example_call(model, example_inputs, example_kwargs)
        own = batch_of(call)
        if batches and own is None:
            raise SpecError("the inputs have no leading size in common that could be the batch")
        run = _Run(model, call, own, named, options, time_limit)
        cells = tuple(run.cells(list(dict.fromkeys(batches)) or [own]))
    return Sweep(type(model).__name__, options.mode, objective, cells)


@dataclass
class _Run:
    """A sweep under way."""

    model: nn.Module
    call: Call
    own: int | None
    clusters: Sequence[tuple[str, Cluster]]
    options: Options
    time_limit: float | None
    interrupted: bool = False

    def cells(self, batches: Sequence[int | None]) -> Iterator[Cell]:
        """All cells, batch by batch."""
        deadline = None if self.time_limit is None else time.monotonic() + self.time_limit
        total = len(batches) * len(self.clusters)
        done = 0
        for batch in batches:
            recording: Priced | None = None
            start: Mapping[str, str] | None = None
            for name, cluster in self.clusters:
                where = f"{name}, batch {batch} ({done + 1} of {total})"
                empty = Cell(name, len(cluster.devices), batch, "not tried")
                left = None if deadline is None else deadline - time.monotonic()
                done += 1
                if self.interrupted or (left is not None and left <= 0):
                    yield empty
                    continue
                options = replace(
                    self.options.with_targets(partial(self._changed, batch)),
                    progress=self._saying(where),
                    start=start,
                    time_limit=None if left is None else left / (total - done + 1),
                )
                try:
                    if recording is None:
                        call = self._changed(batch, self.call)
                        recording = priced(self.model, cluster, call, options)
                    else:
                        recording = recording.priced_anew(cluster=cluster, options=options)
                    cell, solution = _planned(recording, empty)
                    if solution is not None:
                        start, self.interrupted = solution.assignment, solution.interrupted
                    yield cell
                except KeyboardInterrupt:
                    self.interrupted = True
                    self.options.say("interrupted: what is left of the sweep is not tried")
                    yield empty

    def _changed(self, batch: int | None, call: Call) -> Call:
        """The call on a micro-batch of another batch."""
        if batch is not None and batch != self.own:
            call = with_batch(call, batch)
        return first_micro_batch(*call, self.options.micro_batches)

    def _saying(self, where: str) -> Callable[[str], None]:
        def say(line: str) -> None:
            self.options.say(f"{where}: {line}")

        return say


def _planned(subject: Priced, empty: Cell) -> tuple[Cell, Solution | None]:
    """The cell of a model that was priced for it, and what the solver found for it."""
    cluster, graph = subject.cluster, subject.graph
    try:
        if subject.options.is_pipeline:
            plan = pipeline_plan(subject)
            cell = replace(
                empty,
                outcome=plan.certificate.status,
                step_seconds=plan.step_seconds,
                bottleneck_seconds=plan.bottleneck_seconds,
                peak_nbytes=max(use.peak for use in plan.memory.values()),
                used=len(set(plan.placement.values())),
                gap=plan.certificate.gap,
            )
            return cell, None
        found = solve_and_rehearse(subject)
    except InfeasibleError as error:
        lacks = error.shortfall.get("total") if error.shortfall else None
        return replace(empty, outcome="does not fit", lacks_nbytes=lacks), None
    except TimeLimitError:
        return replace(empty, outcome="no plan in time"), None
    placement = found.solution.assignment
    peaks = peak_nbytes(graph, placement)
    if found.measured is not None:
        peaks = {name: use.peak for name, use in found.measured.items()}
    cell = replace(
        empty,
        outcome=found.solution.status.value,
        step_seconds=step_seconds(graph, placement, cluster),
        bottleneck_seconds=bottleneck_seconds(graph, placement, cluster),
        peak_nbytes=max(peaks.values()),
        used=len(set(placement.values())),
        gap=found.solution.gap,
    )
    return cell, found.solution


def _text(given: object) -> str:
    """What a cluster is called."""
    if isinstance(given, str):
        return given
    return ", ".join(Cluster.of(given).names)
