"""Predicted against measured times: `python -m benchmarks.time_model [--smoke] [--models A,B]`.

For every model of the zoo on this machine's CPU: its operators are measured (each distinct one
once), a plan for the one device predicts a training step, forward and backward, and the step itself
is timed in between, over and over, so that whatever disturbs the machine disturbs both. A cell is
`predicted / measured`. Times are CPU seconds of one thread. A model that decides by its data is
predicted for one way: it is measured on large inputs and on their negatives, and the slower counts.

Then a roofline prices every node of each model's plan, fitted to the measurements of the others
alone: what the model itself calls is left out. It is judged by the rank correlation (Spearman) with
the measured prices.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from scipy.stats import spearmanr
from torch import nn
from torch.utils import _pytree as pytree

import partitioner
from cost_models import CostModel, DeviceKind, MeasuredCostModel, OperatorCall, RooflineCostModel
from cost_models.machine import local_device
from partitioner.graph.loss import trainable_outputs
from partitioner.spec import Device
from tests.zoo import ZOO, Case

SMOKE = ("mlp", "hf_gpt2_labels")
LEAST_SECONDS = 0.03
"""The batch is doubled until a step takes that long, where a model takes any batch: below, Python
decides, and no one splits such a model."""
LARGEST_BATCH = 262_144
TARGET = 0.15
BETWEEN_SECONDS = 0.05
"""Of measuring operators, after which the step is timed again."""


@dataclass(frozen=True)
class Calibrated:
    """The roofline fitted to a table of measurements, without the table."""

    measured: MeasuredCostModel

    def seconds(self, call: OperatorCall, kind: DeviceKind) -> float:
        """Seconds that `call` takes on `kind`."""
        return self.measured.calibrated_seconds(call, kind)


@dataclass(frozen=True)
class Noted:
    """A cost model that notes what it was asked."""

    measured: MeasuredCostModel
    signatures: set[str] = field(default_factory=set)

    def seconds(self, call: OperatorCall, kind: DeviceKind) -> float:
        """Seconds that `call` takes on `kind`."""
        self.signatures.add(call.signature)
        return self.measured.seconds(call, kind)


def without(measured: MeasuredCostModel, signatures: set[str]) -> MeasuredCostModel:
    """The measurements of other calls."""
    return MeasuredCostModel(
        {
            kind: {name: entry for name, entry in table.items() if name not in signatures}
            for kind, table in measured.measurements.items()
        },
        measured.overhead_seconds,
    )


def call_of(case: Case, batch: int, scale: float = 1.0) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The example call, its floating tensors times `scale`."""
    size = {"batch": batch} if case.batched else {}
    return pytree.tree_map_only(
        torch.Tensor,
        lambda t: t * scale if t.is_floating_point() else t.clone(),
        (case.args(**size), case.kwargs(**size)),
    )


def scales(case: Case, batch: int) -> tuple[float, ...]:
    """Of the inputs on which a model takes every way that it has."""
    decides = planned(case, RooflineCostModel(), batch).rehearsal == "stand-ins"
    return (1e6, -1e6) if decides else (1.0,)


def step_of(case: Case, model: nn.Module, batch: int, scale: float = 1.0) -> Callable[[], None]:
    """A training step as a plan counts it: a loss that the model does not return is no part of it.

    The backward begins at a scalar that the model returns, else at given gradients of its outputs.
    """
    args, kwargs = call_of(case, batch, scale)

    def roots() -> list[torch.Tensor]:
        outputs = trainable_outputs(model(*args, **kwargs))
        return [output for output in outputs if output.dim() == 0][:1] or outputs

    gradients = [torch.ones_like(root) for root in roots()]

    def step() -> None:
        model.zero_grad(set_to_none=True)
        torch.autograd.backward(roots(), gradients)

    return step


def timed(step: Callable[[], None]) -> list[float]:
    """Seconds of repeated steps."""
    for _ in range(3):
        step()
    samples: list[float] = []
    while len(samples) < 5:
        start = time.process_time()
        step()
        samples.append(time.process_time() - start)
    return samples


def batch_for(case: Case) -> int:
    """The least power of two with which a step takes `LEAST_SECONDS`."""
    batch = 8
    while case.batched and batch < LARGEST_BATCH:
        samples = timed(step_of(case, case.build().train(), batch))
        if min(samples) >= LEAST_SECONDS:
            break
        batch *= 2
    return batch


def planned(case: Case, cost_model: CostModel, batch: int) -> partitioner.Plan:
    """The plan of a training step on the CPU."""
    args, kwargs = call_of(case, batch)
    return partitioner.plan(
        case.build().train(),
        [Device("cpu", memory="64GiB")],
        args,
        example_kwargs=kwargs,
        mode="train",
        cost_model=cost_model,
    )


def compared(
    case: Case, cost_model: MeasuredCostModel, batch: int
) -> tuple[partitioner.Plan, Noted, float]:
    """The plan under measured costs, what was asked for it, and the seconds of its step."""
    seconds = max(measured(case, cost_model, batch, scale) for scale in scales(case, batch))
    noted = Noted(cost_model)
    return planned(case, noted, batch), noted, seconds


def measured(case: Case, cost_model: MeasuredCostModel, batch: int, scale: float) -> float:
    """Seconds of a step, between whose repetitions its operators are measured."""
    model = case.build().train()
    step = step_of(case, model, batch, scale)
    samples = timed(step)
    last = time.process_time()

    def between(*_: object) -> None:
        nonlocal last
        if time.process_time() - last > BETWEEN_SECONDS:
            step()
            start = time.process_time()
            step()
            last = time.process_time()
            samples.append(last - start)

    args, kwargs = call_of(case, batch, scale)
    cost_model.measure(model, "cpu", args, example_kwargs=kwargs, progress=between)
    return statistics.median(samples)


def node_seconds(plan: partitioner.Plan) -> list[float]:
    """What each operation takes, forward and backward; views, which take nothing, are left out."""
    both = (c.forward_seconds["cpu"] + c.backward_seconds["cpu"] for c in plan.costs.values())
    return [seconds for seconds in both if seconds]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="two models, briefly")
    parser.add_argument("--models", help="names, with commas between")
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = options.models.split(",") if options.models else SMOKE if options.smoke else tuple(ZOO)
    kind = local_device("cpu")
    assert kind is not None
    every = MeasuredCostModel({kind.name: {}})
    ratios: dict[str, float] = {}
    by_table: list[float] = []
    asked: list[tuple[str, int, Noted]] = []
    print("| model | batch | measured ms | predicted / measured |\n| --- | ---: | ---: | ---: |")
    for name in names:
        batch = 8 if options.smoke else batch_for(ZOO[name])
        cost_model = MeasuredCostModel(clock=time.process_time)
        plan, noted, seconds = compared(ZOO[name], cost_model, batch)
        ratios[name] = plan.step_seconds / seconds
        by_table += node_seconds(plan)
        every.measurements[kind.name] |= cost_model.measurements[kind.name]
        every.overhead_seconds |= cost_model.overhead_seconds
        asked.append((name, batch, noted))
        print(f"| {name} | {batch} | {1000 * seconds:.2f} | {ratios[name]:.2f} |", flush=True)
    by_roofline = [
        seconds
        for name, batch, noted in asked
        for seconds in node_seconds(
            planned(ZOO[name], Calibrated(without(every, noted.signatures)), batch)
        )
    ]
    within = sum(abs(ratio - 1) <= TARGET for ratio in ratios.values())
    print(
        f"\nWithin {TARGET:.0%}: {within} of {len(ratios)}; "
        f"from {min(ratios.values()):.2f} to {max(ratios.values()):.2f}."
    )
    overhead = every.overhead_seconds[kind.name]
    rank = spearmanr(by_table, by_roofline).statistic
    print(
        f"{len(every.measurements[kind.name])} operators, {1e6 * overhead:.1f} us more each. "
        f"The roofline fitted to other models ranks {len(by_table)} nodes with Spearman {rank:.3f}."
    )


if __name__ == "__main__":
    main()
