"""Models whose own `forward` decides by its data: their own code runs, over several devices."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from partitioner import PlanError, plan, virtual_gpus
from partitioner.capture import capture
from partitioner.emit import place
from partitioner.graph import split_stages
from tests.emit.side_by_side import assert_same, scattered, step
from tests.zoo import Case

X = torch.randn(8, 16)


class Scaling(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x * weight

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return gradients[0] * weight, (gradients[0] * x).sum(0)


class Scaled(nn.Module):
    """A part that no graph can hold either: it is called whole, with its arguments beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(32))

    def forward(self, x: Tensor) -> Tensor:
        return Scaling.apply(x, self.weight)


class Deciding(nn.Module):
    """Takes one of two ways, with other parts on each."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.Linear(32, 32))
        self.scaled = Scaled()
        self.positive = nn.Sequential(nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 32))
        self.negative = nn.Linear(32, 32)
        self.after = nn.Linear(32, 4)
        self.register_buffer("positives", torch.zeros(()))

    def forward(self, x: Tensor) -> dict[str, Any]:
        y = self.scaled(self.before(x.flatten(1)))
        if y.sum() > 0:
            self.positives += 1
            y = checkpoint(self.positive, y, use_reentrant=False) * 2
        else:
            y = self.negative(y) + torch.zeros(32)
        return {"logits": self.after(y), "mean": y.mean(), "way": bool(y.mean() > 0)}


def model_that_goes(way: float) -> Deciding:
    torch.manual_seed(0)
    model = Deciding()
    with torch.no_grad():
        model.before[2].bias.fill_(way)
    return model


CASES = {
    way: Case("deciding", lambda way=way: model_that_goes(way), lambda: (X,), dict)
    for way in (50.0, -50.0)
}


@pytest.mark.parametrize("way", CASES)
def test_on_any_placement_it_does_what_the_original_does(way: float) -> None:
    case = CASES[way]
    recording = capture(case.build(), (X,), training=True)
    assert "if y.sum() > 0:" in recording.opaque[""]
    assert "scaled" in recording.opaque
    source = random.Random(0)
    with virtual_gpus(3):
        for placement in [scattered(recording, source) for _ in range(4)]:
            original = case.build()
            placed = copy.deepcopy(place(case.build(), recording, placement))
            for training in (True, False):
                expected = step(original, case, training=training)
                assert_same(expected, step(placed, case, training=training))


def test_its_parts_are_spread_and_the_promise_holds_either_way() -> None:
    found = plan(Deciding(), "3x1MiB", X, mode="train", objective="memory", optimizer="sgd")
    assert len(set(found.placement.values())) == 3
    assert "runs its own code" in found.explain()
    for case in CASES.values():
        with virtual_gpus(found.virtual_cluster()) as gpus:
            step(found.apply(case.build()), case, training=True)
            for device, use in found.memory.items():
                assert gpus[device].peak_nbytes <= use.peak


def test_it_cannot_be_a_pipeline() -> None:
    recording = capture(Deciding(), (X,), training=True)
    with pytest.raises(PlanError, match=r"own code.*if y\.sum\(\) > 0"):
        split_stages(recording, dict.fromkeys(recording.nodes, 0))
