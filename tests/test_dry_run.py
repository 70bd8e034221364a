"""What a plan promises against what its placed module takes on virtual GPUs."""

from __future__ import annotations

import itertools
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
    found: Plan,
    model: nn.Module,
    *args: Tensor,
    make: Make | None = None,
    loss_fn: Callable[[Any], Tensor] = lambda output: output.float().square().mean(),
) -> dict[str, int]:
    """The peaks of two steps of a plain training loop, or of one forward without gradients."""
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
                output = placed(*args)
                loss = loss_fn(output)
                loss.backward()
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


class Wide(nn.Module):
    """Three layers over two devices, computed in one of several ways."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.first = nn.Linear(32, 256)
        self.middle = nn.Linear(256, 256)
        self.last = nn.Linear(256, 8)

    def block(self, x: Tensor) -> Tensor:
        return F.gelu(self.middle(F.gelu(x)))

    def forward(self, x: Tensor) -> Tensor:
        match self.way:
            case "autocast":
                with torch.autocast(x.device.type, dtype=torch.bfloat16):
                    return self.last(self.block(self.first(x)))
            case "checkpointed":
                inner = checkpoint(self.block, self.first(x), use_reentrant=False)
                return self.last(inner)
            case "in place":
                hidden = F.relu(self.first(x), inplace=True)
                hidden = self.middle(hidden).add_(1.0)
                return self.last(hidden.relu_())
        return self.last(self.block(self.first(x)))


class MasterCopies(torch.optim.Optimizer):
    """Steps float32 copies of low-precision parameters, with momentum, and writes them back."""

    def __init__(self, params: Iterable[nn.Parameter]) -> None:
        super().__init__(params, {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for parameter in self.param_groups[0]["params"]:
            state = self.state[parameter]
            if not state:
                state["master"] = parameter.float()
                state["momentum"] = torch.zeros_like(state["master"])
            state["momentum"].mul_(0.9).add_(parameter.grad.float())
            state["master"].sub_(state["momentum"], alpha=1e-2)
            parameter.copy_(state["master"])


@pytest.mark.parametrize("way", ["plain", "autocast", "checkpointed", "in place", "frozen", "bf16"])
def test_what_is_saved_and_kept_is_counted_as_it_is(way: str) -> None:
    model, x = Wide(way), torch.randn(128, 32)
    make: Make = torch.optim.Adam
    if way == "frozen":
        model.middle.requires_grad_(False)
    if way == "bf16":
        model, x, make = model.bfloat16(), x.bfloat16(), MasterCopies
    found = plan(
        model,
        "2x64MiB",
        x,
        optimizer=make,
        constraints=[Pin("first", "cuda:0"), Pin("middle", "cuda:1"), Pin("last", "cuda:1")],
    )
    promised = promised_peaks(found)
    assert promised == measured_peaks(found, model, x, make=make)
    assert all(promised.values())
    if way == "bf16":
        use = found.memory["cuda:1"]
        assert use.optimizer > 3.9 * use.parameters
    if way == "frozen":
        assert found.memory["cuda:1"].gradients < found.memory["cuda:1"].parameters / 10


class Forked(nn.Module):
    """Takes one of two ways by its data, the second with much more memory."""

    def __init__(self) -> None:
        super().__init__()
        self.little = nn.Linear(32, 32)
        self.much = nn.Sequential(nn.Linear(32, 256), nn.ReLU(), nn.Linear(256, 32))

    def forward(self, x: Tensor) -> Tensor:
        return self.little(x) if x.mean() > 0 else self.much(x)


@pytest.mark.parametrize("whole", [False, True])
def test_a_model_that_decides_by_its_data_is_promised_its_hungriest_way(whole: bool) -> None:
    model = Forked() if whole else nn.Sequential(nn.Identity(), Forked(), nn.Linear(32, 4))
    found = plan(model, "2x64MiB", torch.randn(64, 32), optimizer="adam", objective="memory")
    assert len(set(found.placement.values())) == 2
    peaks: dict[str, int] = {}
    for signs in itertools.product((1, -1), repeat=3):
        with virtual_gpus(found.virtual_cluster()) as gpus:
            placed = found.apply(model)
            optimizer = torch.optim.Adam(placed.parameters())
            for sign in signs:
                placed.zero_grad()
                output = placed(sign * torch.rand(64, 32))
                loss = output.square().mean()
                loss.backward()
                optimizer.step()
            for name in found.devices:
                peaks[name] = max(peaks.get(name, 0), gpus[name].peak_nbytes)
            del output, loss
    assert promised_peaks(found) == peaks


@pytest.mark.parametrize("way", ["checkpointed", "in place"])
def test_what_saves_memory_is_promised_less(way: str) -> None:
    x = torch.empty(4096, 32)
    peaks = [promised_peaks(plan(Wide(w), "1x1GiB", x))["cuda:0"] for w in (way, "plain")]
    assert peaks[0] < peaks[1]


class Chosen(nn.Module):
    """Data decides how many rows are worked on."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(16, 64), nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x[x[:, 0] > 0]).relu()).mean(dim=0)


def test_a_model_whose_data_decides_sizes_is_rehearsed_on_its_values() -> None:
    model, x = nn.Sequential(nn.Linear(16, 16), Chosen(), nn.Linear(4, 4)), torch.randn(64, 16)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(3)
    found = plan(model, "2x1GiB", x, optimizer="adam", objective="memory")
    drawn = torch.rand(1)
    assert found.rehearsal == "values"
    assert "measured on the example's values" in " ".join(found.explain().split())
    report = verify(model, found, (x,))
    assert report.passed
    assert report.measured_peak_nbytes == report.promised_peak_nbytes
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(parameter.grad is not None for parameter in model.parameters())
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(1))


def test_without_data_such_a_plan_says_that_it_predicts() -> None:
    found = plan(Chosen(), "1x1GiB", torch.empty(32, 16, device="meta"))
    assert found.rehearsal == "none"
    assert "memory is predicted, not measured" in " ".join(found.explain().split())
