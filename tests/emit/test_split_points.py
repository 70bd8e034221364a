"""Stages in the form of `torch.distributed.pipelining`, which splits the same way."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.pipelining import pipeline

from partitioner import PlanError
from partitioner.capture import Captured, capture, records
from partitioner.emit import split_points
from partitioner.graph import movable, split_stages


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.up = nn.Linear(8, 16)
        self.down = nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(self.norm(x))))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Block(), Block(), Block())
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x).mean(1))


def stages_from(model: nn.Module, firsts: list[str]) -> tuple[Captured, dict[str, int]]:
    """A recording, and stages that begin where the first node of each path is."""
    recording = capture(model, (torch.ones(2, 3, 8),), training=False)
    stage, stages, left = 0, {}, list(firsts)
    for node in movable(recording):
        if left and recording.nodes[node].module_path.startswith(left[0]):
            stage, left = stage + 1, left[1:]
        stages[node] = stage
    return recording, stages


@pytest.mark.filterwarnings("ignore:.*treespec:FutureWarning")
def test_pipelining_makes_the_same_stages() -> None:
    model = Model()
    recording, stages = stages_from(model, ["blocks.1", "blocks.2"])
    points = split_points(records(recording), stages)
    assert list(points) == ["blocks.1", "blocks.2"]
    pipe = pipeline(model, (torch.ones(2, 3, 8),), split_spec=points)
    ours = split_stages(recording, stages)
    assert pipe.num_stages == len(ours)
    for part in ours:
        theirs = pipe.get_stage_module(part.index)
        assert {name for name, _ in theirs.named_parameters()} == set(part.state)


@pytest.mark.parametrize("first", ["blocks.1.up", "head"])
def test_a_stage_may_begin_with_any_module(first: str) -> None:
    recording, stages = stages_from(Model(), [first])
    assert list(split_points(records(recording), stages)) == [first]


def test_a_stage_that_begins_inside_a_module_is_refused() -> None:
    recording, stages = stages_from(Model(), ["blocks.1"])
    inside = [n for n in stages if recording.nodes[n].module_path == "blocks.1"]
    order = list(stages)
    begun = {n: int(order.index(n) >= order.index(inside[0])) for n in order}
    with pytest.raises(PlanError, match=r"stage 1 begins inside module 'blocks\.1'.*Colocate"):
        split_points(records(recording), begun)


def test_a_module_that_is_called_twice_cannot_begin_a_stage() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(8, 8)
            self.again = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.again(self.again(self.first(x)))

    recording, stages = stages_from(Twice(), ["again"])
    with pytest.raises(PlanError, match="'again' is called 2 times"):
        split_points(records(recording), stages)


def test_stages_that_alternate_are_refused() -> None:
    recording, stages = stages_from(Model(), ["head"])
    last = list(stages)[-1]
    with pytest.raises(PlanError, match="has begun"):
        split_points(records(recording), {**dict.fromkeys(stages, 1), last: 0})
