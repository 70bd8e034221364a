"""Predicted against measured times: `python -m benchmarks.time_model [--smoke] [--models A,B]`.

For every model of the zoo on this machine's CPU: its operators are measured (each distinct one
once), a plan for the one device predicts a training step, forward and backward, and the step itself
is timed in between, over and over, so that whatever disturbs the machine disturbs both. A cell is
`predicted / measured`. Times are CPU seconds of one thread.

Then a roofline prices every node of each model's plan, fitted to the measurements of the others
alone: what the model itself calls is left out. It is judged by the rank correlation (Spearman) with
the measured prices.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from scipy.stats import spearmanr
from torch import nn

import partitioner
from cost_models import CostModel, DeviceKind, MeasuredCostModel, OperatorCall
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


def step_of(case: Case, model: nn.Module, batch: int) -> Callable[[], None]:
    """A training step as a plan counts it: a loss that the model does not return is no part of it.

    The backward begins at a scalar that the model returns, else at given gradients of its outputs.
    """
    size = {"batch": batch} if case.batched else {}
    args, kwargs = copy.deepcopy((case.args(**size), case.kwargs(**size)))

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
    size = {"batch": batch} if case.batched else {}
    return partitioner.plan(
        case.build().train(),
        [Device("cpu", memory="64GiB")],
        case.args(**size),
        example_kwargs=case.kwargs(**size),
        mode="train",
        cost_model=cost_model,
    )


def compared(
    case: Case, cost_model: MeasuredCostModel, batch: int
) -> tuple[partitioner.Plan, Noted, float]:
    """The plan under measured costs, what was asked for it, and the seconds of its step."""
    model = case.build().train()
    size = {"batch": batch} if case.batched else {}
    step = step_of(case, model, batch)
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

    cost_model.measure(
        model, "cpu", case.args(**size), example_kwargs=case.kwargs(**size), progress=between
    )
    noted = Noted(cost_model)
    return planned(case, noted, batch), noted, statistics.median(samples)


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
        plan, noted, measured = compared(ZOO[name], cost_model, batch)
        ratios[name] = plan.step_seconds / measured
        by_table += node_seconds(plan)
        every.measurements[kind.name] |= cost_model.measurements[kind.name]
        every.overhead_seconds |= cost_model.overhead_seconds
        asked.append((name, batch, noted))
        print(f"| {name} | {batch} | {1000 * measured:.2f} | {ratios[name]:.2f} |", flush=True)
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
