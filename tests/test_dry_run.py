"""What a plan promises against what its placed module takes on virtual GPUs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from partitioner import Pin, Plan, plan, virtual_gpus
from partitioner.verify import verify

Make = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


def measured_peaks(
    found: Plan, model: nn.Module, *args: Tensor, make: Make | None = None
) -> dict[str, int]:
    """The peaks of two plain training steps, or of one forward without gradients."""
    with virtual_gpus(found.virtual_cluster()) as gpus:
        placed = found.apply(model)
        if found.mode == "inference":
            with torch.no_grad():
                placed.eval()(*args)
        else:
            trainable = [p for p in placed.parameters() if p.requires_grad]
            optimizer = make(trainable) if make else None
            for _ in range(2):
                placed.zero_grad()
                placed(*args).float().square().mean().backward()
                if optimizer is not None:
                    optimizer.step()
        return {name: gpus[name].peak_nbytes for name in found.devices}


def promised_peaks(found: Plan) -> dict[str, int]:
    return {name: use.peak for name, use in found.memory.items()}


class Normed(nn.Module):
    """Dropout and a batch norm, which take memory in train mode alone."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 64)
        self.dropout = nn.Dropout(0.5)
        self.norm = nn.BatchNorm1d(64)
        self.last = nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.dropout(self.first(x))))


@pytest.mark.parametrize("mode", ["train", "inference"])
@pytest.mark.parametrize("frozen", [False, True])
def test_submodules_are_rehearsed_in_the_modes_that_their_user_set(mode: str, frozen: bool) -> None:
    model, x = Normed(), torch.randn(512, 64)
    if frozen:
        model.dropout.eval()
        model.norm.eval()
    found = plan(model, "1x1GiB", x, mode=mode)
    assert promised_peaks(found) == measured_peaks(found, model, x)
    report = verify(model, found, (x,))
    assert report.passed
    assert report.measured_peak_nbytes == report.promised_peak_nbytes


def test_frozen_submodules_take_less() -> None:
    x, frozen = torch.empty(512, 64), Normed()
    frozen.dropout.eval()
    frozen.norm.eval()
    peaks = [promised_peaks(plan(m, "1x1GiB", x))["cuda:0"] for m in (frozen, Normed())]
    assert peaks[0] < peaks[1]
