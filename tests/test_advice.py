"""Every suggestion of an `InfeasibleError` is followed here as a person would, and plans."""

from __future__ import annotations

import copy
import functools
import re
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from partitioner import (
    Cluster,
    Colocate,
    InfeasibleError,
    Plan,
    checkpointed,
    plan,
)
from partitioner.advice import rounded_up
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
        self.blocks = nn.ModuleList(Block() for _ in range(4))
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
        if ", and " in suggestion:
            first, second = suggestion.split(", and ")
            return self.following(first).following(second)
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
            model = copy.deepcopy(self.model).to(torch.bfloat16)
            return replace(self, model=model, inputs=inputs)
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


@functools.cache
def refusal_of_state() -> tuple[InfeasibleError, tuple[str, ...]]:
    """The error, and what was reported on the way to it."""
    lines: list[str] = []
    with pytest.raises(InfeasibleError) as caught:
        plan(STATE.model, STATE.cluster, STATE.inputs, optimizer="adam", progress=lines.append)
    return caught.value, tuple(lines)


@pytest.mark.parametrize(
    ("ask", "kinds"),
    [
        (tower("112KiB"), ("every", "'cuda:0'", "add", "checkpoint", "bfloat16", "batch")),
        (STATE, ("every", "'cuda:0'", "optimizer", "bfloat16")),
        (
            tower("48KiB", constraints=(Colocate("blocks.*", "head"),), mode="inference"),
            ("every", "drop", "bfloat16", "batch"),
        ),
    ],
    ids=["activations", "state", "clash"],
)
def test_each_suggestion_plans_when_it_is_followed(ask: Ask, kinds: tuple[str, ...]) -> None:
    error = refusal_of_state()[0] if ask is STATE else ask.refused()
    for kind in kinds:
        assert any(kind in suggestion for suggestion in error.suggestions), kind
    for suggestion in error.suggestions:
        assert suggestion in str(error)
        found = ask.following(suggestion).plan()
        assert all(use.limit is None or use.peak <= use.limit for use in found.memory.values())


def test_two_changes_are_told_where_neither_is_enough() -> None:
    ask = Ask(
        nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64)),
        Cluster.of("cuda:0", "100KiB"),
        torch.empty(64, 64, device="meta"),
        optimizer="adam",
    )
    pairs = [line for line in ask.refused().suggestions if ", and " in line]
    assert pairs
    for pair in pairs:
        found = ask.following(pair).plan()
        assert found.memory["cuda:0"].peak <= 100 * 1024
        for part in pair.split(", and "):
            ask.following(part).refused()


def test_the_size_that_is_told_is_the_least_round_one() -> None:
    (told,) = (line for line in refusal_of_state()[0].suggestions if "every" in line)
    found = re.search(r"device (\d+)KiB instead", told)
    assert found is not None
    nbytes = int(found[1]) * 1024
    smaller = next(n for n in range(nbytes - 1024, 0, -1024) if rounded_up(n) == n)
    STATE.with_memory(smaller, STATE.cluster.names).refused()


def test_the_error_is_the_same_each_time() -> None:
    assert str(STATE.refused()) == str(refusal_of_state()[0])


def test_no_more_memory_is_told_than_a_kind_has() -> None:
    full = replace(STATE, cluster=Cluster.of("1xa100-40gb"))
    wide = nn.Linear(60_000, 60_000, bias=False, device="meta")
    error = replace(full, model=wide, inputs=torch.empty(2, 60_000, device="meta")).refused()
    assert not any("give" in suggestion for suggestion in error.suggestions)
    assert "use bfloat16: --dtype bf16, or in Python model.to(torch.bfloat16)" in error.suggestions


def test_what_was_not_tried_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("partitioner.advice.EFFORT", 12)
    error = STATE.refused()
    assert len(error.suggestions) < 3
    assert "not tried, to save time: more memory on 'cuda:0', more devices, another" in str(error)


def test_each_attempt_is_reported() -> None:
    assert "trying another optimizer" in refusal_of_state()[1]


@given(st.integers(1, 2**50))
def test_round_sizes_are_close_and_few(nbytes: int) -> None:
    size = rounded_up(nbytes)
    assert nbytes <= size <= nbytes * 17 / 16
    assert rounded_up(size) == size
    assert bin(size).rstrip("0").count("1") <= 6
