"""Awkward habits of models on a split: drawing lots, checking data, handing state to a part."""

from __future__ import annotations

import copy
import random

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from partitioner import partition
from partitioner.capture import Captured, capture
from partitioner.emit import place
from partitioner.virtual import virtual_gpus
from tests.emit.side_by_side import scattered


class Dropping(nn.Module):
    """Drops whole layers at random in training."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            if self.training and torch.rand([]) < 0.5:
                continue
            x = layer(x)
        return x


class LayerDrop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before, self.part, self.after = nn.Linear(4, 4), Dropping(), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.part(self.before(x)))


class GivesState(nn.Module):
    """A part that is given what the model holds, and that nothing else reads."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.bias = nn.Sequential(nn.Linear(2, 8), nn.ReLU(inplace=True), nn.Linear(8, 4))
        self.register_buffer("table", torch.arange(8.0).reshape(4, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.bias(self.table)


class ChecksItsData(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.after = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        torch._check_tensor_all(x.sum() < 1000, lambda: "the sum is too large")
        return self.after(self.layer(x))


class Grouped(nn.Module):
    """Experts as one grouped matrix product."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.experts = nn.Parameter(torch.randn(2, 4, 4))

    def forward(self, x: Tensor) -> Tensor:
        ends = torch.tensor([1, 4], dtype=torch.int32, device=x.device)
        return F.grouped_mm(self.layer(x), self.experts, offs=ends)


class Nested(nn.Module):
    """Layers in lists in lists, whose results have no names of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x) + x


HABITS = (LayerDrop, GivesState, ChecksItsData, Grouped, Nested)


def recorded(model: nn.Module) -> Captured:
    return capture(model, (torch.zeros(4, 4),), training=True)


def run(model: nn.Module, x: Tensor, seed: int) -> list[Tensor]:
    """The result and the gradients after one call with fixed random numbers."""
    torch.manual_seed(seed)
    model.zero_grad()
    y = model(x)
    y.square().sum().backward()
    gradients = [torch.zeros(()) if p.grad is None else p.grad for p in model.parameters()]
    return [y.detach(), *gradients]


@pytest.mark.parametrize("habit", HABITS)
def test_a_split_computes_what_the_original_does(habit: type[nn.Module]) -> None:
    torch.manual_seed(0)
    original = habit()
    recording = recorded(original)
    for seed in range(6):
        placement = scattered(recording, random.Random(seed))
        with virtual_gpus(3):
            placed = place(copy.deepcopy(original), recording, placement)
            for training in (True, False):
                x = torch.randn(4, 4)
                expected = run(original.train(training), x, seed)
                found = run(placed.train(training), x, seed)
                assert len(found) == len(expected)
                for mine, other in zip(found, expected, strict=True):
                    assert torch.equal(mine.cpu(), other)


@pytest.mark.parametrize("habit", HABITS)
def test_a_plan_holds_it(habit: type[nn.Module]) -> None:
    torch.manual_seed(0)
    original = habit()
    x = torch.randn(4, 4)
    expected = run(original, x, seed=1)
    with virtual_gpus(2):
        placed = partition(
            copy.deepcopy(original), "2x1GiB", (x,), mode="train", objective="memory"
        )
        found = run(placed, x, seed=1)
    assert len(set(placed.plan.placement.values())) == 2
    for mine, other in zip(found, expected, strict=True):
        assert torch.equal(mine.cpu(), other)


def test_layers_are_dropped_in_some_runs_only() -> None:
    """The test above would not see a branch that is baked in if all runs took the same way."""
    dropped = {
        sum(bool(gradient.any()) for gradient in run(LayerDrop(), torch.ones(4, 4), seed))
        for seed in range(6)
    }
    assert len(dropped) > 1


def test_a_check_of_data_is_made_in_each_run() -> None:
    model = ChecksItsData()
    recording = recorded(model)
    names = list(recording.nodes)
    placement = {name: f"cuda:{index >= len(names) - 1:d}" for index, name in enumerate(names)}
    with virtual_gpus(2):
        placed = place(model, recording, placement)
        placed(torch.ones(4, 4))
        with pytest.raises((RuntimeError, ValueError), match="the sum is too large"):
            placed(torch.full((4, 4), 1000.0))
