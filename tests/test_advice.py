"""Every suggestion of an `InfeasibleError` is followed here as a person would, and plans."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from partitioner import (
    Cluster,
    Colocate,
    InfeasibleError,
    Plan,
    checkpointed,
    plan,
)
from partitioner.lean import with_batch
from partitioner.spec import with_twins


class Block(nn.Module):
    """Much is saved for backward, few parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 64)
        self.second = nn.Linear(64, 16)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(torch.tanh(torch.sin(self.first(x))))


class Tower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(6))
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


@dataclass(frozen=True)
class Ask:
    """A call of `plan`."""

    model: nn.Module
    cluster: Cluster
    inputs: Tensor
    optimizer: str | None = None
    constraints: tuple[Any, ...] = ()
    mode: str = "train"

    def plan(self) -> Plan:
        return plan(
            self.model,
            self.cluster,
            self.inputs,
            optimizer=self.optimizer,
            constraints=self.constraints,
            mode=self.mode,
        )

    def refused(self) -> InfeasibleError:
        with pytest.raises(InfeasibleError) as caught:
            self.plan()
        return caught.value

    def following(self, suggestion: str) -> Ask:
        """What the suggestion tells to ask for instead."""
        if found := re.fullmatch(r"give every device (\w+) instead of \w+", suggestion):
            return self.with_memory(found[1], self.cluster.names)
        if found := re.fullmatch(r"give '(.+)' (\w+) instead of \w+ \(.* more\)", suggestion):
            return self.with_memory(found[2], [found[1]])
        if found := re.fullmatch(r"add (one|\d+) more devices? like '(.+)'", suggestion):
            count = 1 if found[1] == "one" else int(found[1])
            return replace(self, cluster=with_twins(self.cluster, found[2], count))
        if found := re.fullmatch(r"use the optimizer '(\w+)' instead of '\w+'", suggestion):
            return replace(self, optimizer=found[1])
        if found := re.search(r"partitioner\.checkpointed\(model, '(.+)'\)", suggestion):
            return replace(self, model=checkpointed(self.model, found[1]))
        if "model.to(torch.bfloat16)" in suggestion:
            inputs = self.inputs.to(torch.bfloat16)
            return replace(self, model=self.model.to(torch.bfloat16), inputs=inputs)
        if found := re.fullmatch(r"use a batch of (\d+) instead of \d+", suggestion):
            (inputs,), _ = with_batch(((self.inputs,), {}), int(found[1]))
            return replace(self, inputs=inputs)
        if found := re.fullmatch(r"drop (.*)", suggestion):
            kept = [each for each in self.constraints if repr(each) != found[1]]
            assert len(kept) == len(self.constraints) - 1
            return replace(self, constraints=tuple(kept))
        raise AssertionError(suggestion)

    def with_memory(self, size: str, names: Any) -> Ask:
        devices = tuple(
            replace(device, memory=size) if device.name in names else device
            for device in self.cluster.devices
        )
        return replace(self, cluster=replace(self.cluster, devices=devices))


def tower(memory: str, **changes: Any) -> Ask:
    ask = Ask(Tower(), Cluster.of("cuda:0,cuda:1", memory), torch.empty(64, 16, device="meta"))
    return replace(ask, **changes)


STATE = Ask(
    nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)),
    Cluster.of("cuda:0,cuda:1", "48KiB"),
    torch.empty(2, 64, device="meta"),
    optimizer="adam",
)
KINDS = ("every", "'cuda:0'", "add", "optimizer", "checkpoint", "bfloat16", "batch", "drop")


@pytest.mark.parametrize(
    ("ask", "kinds"),
    [
        (tower("48KiB"), ("every", "'cuda:0'", "add", "checkpoint", "bfloat16", "batch")),
        (STATE, ("every", "'cuda:0'", "add", "optimizer", "bfloat16")),
        (
            tower("160KiB", constraints=(Colocate("blocks.*", "head"),), mode="inference"),
            ("every", "drop"),
        ),
    ],
    ids=["activations", "state", "clash"],
)
def test_each_suggestion_plans_when_it_is_followed(ask: Ask, kinds: tuple[str, ...]) -> None:
    error = ask.refused()
    for kind in kinds:
        assert any(kind in suggestion for suggestion in error.suggestions), kind
    for suggestion in error.suggestions:
        assert suggestion in str(error)
        found = ask.following(suggestion).plan()
        assert all(use.limit is None or use.peak <= use.limit for use in found.memory.values())
