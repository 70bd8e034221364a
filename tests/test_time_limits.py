"""A time limit: one that is not reached changes nothing, one that is leaves a plan that holds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import partitioner

X = torch.randn(16, 64)
TIGHT = "2x80KiB"


class Branches(nn.Module):
    """Two branches of two layers, which together are on no one device."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.ModuleList(nn.Linear(64, 96 + 16 * i) for i in range(2))
        self.second = nn.ModuleList(nn.Linear(96 + 16 * i, 32) for i in range(2))

    def forward(self, x: Tensor) -> Tensor:
        pairs = zip(self.first, self.second, strict=True)
        return torch.cat([second(first(x).relu()) for first, second in pairs], dim=1)


def planned(**options: Any) -> partitioner.Plan:
    return partitioner.plan(Branches(), TIGHT, X, mode="inference", **options)


@pytest.mark.parametrize("objective", ["latency", "throughput", "memory"])
def test_a_limit_that_is_not_reached_changes_no_byte_of_a_proven_plan(objective: str) -> None:
    free = planned(objective=objective)
    assert free.certificate.status == "optimal"
    assert planned(objective=objective, time_limit=1e9).to_json() == free.to_json()


def test_a_limit_that_has_passed_leaves_a_plan_with_a_true_gap() -> None:
    best = planned()
    hasty = planned(time_limit=1e-9)
    certificate = hasty.certificate
    assert certificate.bound <= best.certificate.objective <= certificate.objective
    assert certificate.gap == pytest.approx(1 - certificate.bound / certificate.objective)
    assert certificate.objective == pytest.approx(hasty.step_seconds)
    assert all(use.peak <= use.limit for use in hasty.memory.values())


def test_a_plan_in_no_time_is_never_worse_than_the_one_to_start_from() -> None:
    start = planned(objective="memory")
    hasty = planned(start=start, time_limit=1e-9)
    assert hasty.step_seconds <= start.step_seconds * (1 + 1e-9)
