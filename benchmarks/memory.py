"""Promised against measured peaks: `python -m benchmarks.memory [--smoke] [--batch N]`.

For every model of the zoo, in training with Adam, with SGD and in inference, on 1, 2 and 4 devices:
what the plan promises for each device against what the placed module takes there on virtual GPUs
(two steps in training, one forward in inference). Plans are made for the objective `memory`, which
splits whatever can be split. A cell is the worst device's `promised / measured - 1`, and behind it,
in brackets, the same for the linear rows that the integer programme sees.

Devices with less than 5% of all bytes count only in the summary's "any device". What a model that
decides by its data is promised holds for each decision: it is measured on large inputs and on their
negatives, in every order of three steps, and the largest peaks count.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import partitioner
from cost_models import RooflineCostModel
from partitioner.capture import example_call
from partitioner.graph import optimizer_factory, training_loss
from partitioner.options import Options
from partitioner.placement import peak_nbytes
from partitioner.plan import Plan
from partitioner.priced import priced
from partitioner.spec import Cluster
from partitioner.verify import verify
from partitioner.virtual import virtual_gpus
from tests.zoo import ZOO, Case

SMOKE = ("seqnet", "unet", "hf_llama_no_cache")
RUNS: tuple[tuple[str, str | None], ...] = (
    ("adam", "adam"),
    ("sgd", "sgd"),
    ("inference", None),
)
COUNTS = (1, 2, 4)
SMALLEST_SHARE = 0.05
TARGET, BELOW = 0.03, 0.01
MEMORY = "16GiB"


@dataclass(frozen=True)
class Deviation:
    """Relative deviations of one plan.

    Attributes:
        promised: by device, `promised / measured - 1`.
        rows: by device, the linear rows in place of the promise.
        counted: devices with a share of the bytes that is worth a look.
    """

    promised: Mapping[str, float]
    rows: Mapping[str, float]
    counted: tuple[str, ...]

    def cell(self) -> str:
        """For the table."""
        return f"{self._worst(self.promised):+.1%} ({self._worst(self.rows):+.0%})"

    def _worst(self, ratios: Mapping[str, float]) -> float:
        return max((ratios[name] for name in self.counted), key=abs, default=0.0)


def deviation(case: Case, optimizer: str | None, devices: int, batch: int | None) -> Deviation:
    """Plan, run and compare."""
    training = optimizer is not None
    model = case.build().train(training)
    size = {"batch": batch} if batch is not None and case.batched else {}
    args, kwargs = case.args(**size), case.kwargs(**size)
    cluster = Cluster.of(f"{devices}x{MEMORY}")
    plan = partitioner.plan(
        model, cluster, args, example_kwargs=kwargs, mode="train" if training else "inference",
        optimizer=optimizer, objective="memory",
    )  # fmt: skip
    report = verify(model, plan, args, kwargs)
    assert not any(c.differing for c in report.comparisons), (case.name, report.comparisons)
    options = Options(
        mode=plan.mode, optimizer=optimizer, objective="memory", cost_model=RooflineCostModel()
    )
    subject = priced(model, cluster, example_call(model, args, kwargs), options)
    rows = peak_nbytes(subject.graph, plan.placement)
    peaks = report.measured_peak_nbytes
    if plan.rehearsal == "stand-ins":
        peaks = hungriest(model, plan, (args, kwargs))
    measured = {name: peak for name, peak in peaks.items() if peak}
    total = sum(measured.values())
    return Deviation(
        {name: plan.memory[name].peak / peak - 1 for name, peak in measured.items()},
        {name: rows[name] / peak - 1 for name, peak in measured.items()},
        tuple(name for name, peak in measured.items() if peak >= SMALLEST_SHARE * total),
    )


def hungriest(model: nn.Module, plan: Plan, call: Any) -> dict[str, int]:
    """The largest peaks of steps whose data decide one way or the other."""
    training = plan.mode == "train"
    make = optimizer_factory(plan.optimizer)

    def scaled(factor: float) -> Any:
        """The call with inputs so large that no bias decides."""
        return pytree.tree_map_only(
            Tensor, lambda t: factor * t if t.is_floating_point() else t, call
        )

    found = dict.fromkeys(plan.devices, 0)
    for calls in itertools.product((scaled(100.0), scaled(-100.0)), repeat=3):
        with virtual_gpus(plan.virtual_cluster()) as gpus, torch.set_grad_enabled(training):
            placed = plan.apply(model)
            optimizer = make(placed.parameters()) if training and make else None
            for args, kwargs in calls:
                placed.zero_grad()
                output = placed(*args, **kwargs)
                if training:
                    loss = training_loss(output)
                    loss.backward()
                if optimizer is not None:
                    optimizer.step()
                if not training:
                    del output
            found = {name: max(peak, gpus[name].peak_nbytes) for name, peak in found.items()}
            output = loss = None
    return found


def main() -> None:
    """Print a table, and a summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a few models only")
    parser.add_argument("--batch", type=int, default=32, help="for models that take any")
    parser.add_argument("--models", help="names, with commas between")
    options = parser.parse_args()
    names = options.models.split(",") if options.models else SMOKE if options.smoke else ZOO
    counts = (1, 2) if options.smoke else COUNTS
    heads = [f"{run}, {count}" for run, _ in RUNS for count in counts]
    print(f"| model | {' | '.join(heads)} |")
    print(f"| --- | {' | '.join('---:' for _ in heads)} |")
    found: list[Deviation] = []
    for name in names:
        cells = []
        for _, optimizer in RUNS:
            for count in counts:
                found.append(deviation(ZOO[name], optimizer, count, options.batch))
                cells.append(found[-1].cell())
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    every = [ratio for each in found for ratio in each.promised.values()]
    print(
        f"\nPromised, any device: within {TARGET:.0%} on {sum(abs(r) <= TARGET for r in every)} of "
        f"{len(every)}, equal to the byte on {sum(r == 0 for r in every)}; more than {BELOW:.0%} "
        f"below the measured on {sum(r < -BELOW for r in every)}; from {min(every):+.1%} to "
        f"{max(every):+.1%}."
    )
    rows = [each.rows[name] for each in found for name in each.counted]
    middle = sorted(map(abs, rows))[len(rows) // 2]
    print(f"Linear rows: median {middle:.1%} off, from {min(rows):+.0%} to {max(rows):+.0%}.")


if __name__ == "__main__":
    main()
