"""Over fake tensors the same code counts the same bytes: a dry run."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from contextlib import ExitStack

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from partitioner.virtual import suspended, virtual_gpus
from tests.virtual.hand_split import MODELS, Convolution, Transformer

Make = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
Footprint = tuple[list[tuple[int, int, int, int]], list[tuple[str, str, int]]]


def footprint(
    kind: Callable[[str, str], nn.Module], make: Make, fake: str | None = None
) -> Footprint:
    """By device: peak, live, parameters and optimizer state; and the moves, of two steps."""
    with ExitStack() as stack:
        if fake == "around":
            stack.enter_context(FakeTensorMode())
        gpus = stack.enter_context(virtual_gpus(2))
        if fake == "inside":
            stack.enter_context(FakeTensorMode())
        model = kind("cuda:0", "cuda:1")
        optimizer = make(model.parameters())
        for _ in range(2):
            optimizer.zero_grad()
            digits = torch.zeros(16, dtype=torch.long).to("cuda:1")
            loss = F.nll_loss(model(torch.randn(16, 784)), digits)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        assert isinstance(loss, FakeTensor) == (fake is not None)
        state = [value for entry in optimizer.state.values() for value in entry.values()]
        return [
            (
                gpu.peak_nbytes,
                gpu.allocated_nbytes,
                gpu.live_nbytes_of(model.parameters()),
                gpu.live_nbytes_of(state),
            )
            for gpu in gpus.values()
        ], list(gpus.transfers)


@pytest.mark.parametrize("kind", MODELS)
def test_two_steps_with_adam_take_the_same_bytes(kind: Callable[[str, str], nn.Module]) -> None:
    real = footprint(kind, torch.optim.Adam)
    assert min(peak for peak, *_ in real[0]) > 0
    assert footprint(kind, torch.optim.Adam, "inside") == real


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.Adam(p, foreach=False),
        lambda p: torch.optim.AdamW(p, fused=True),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    ],
)
def test_other_optimizers_take_the_same_bytes(make: Make) -> None:
    for kind in (Transformer, Convolution):
        assert footprint(kind, make, "around") == footprint(kind, make)


def test_the_optimizer_matters_for_the_peak() -> None:
    adam = footprint(Transformer, torch.optim.Adam, "inside")
    plain = footprint(Transformer, lambda p: torch.optim.SGD(p, lr=0.1), "inside")
    assert adam[0][0][0] > plain[0][0][0]


def test_fake_tensors_obey_the_same_rules() -> None:
    with virtual_gpus(2, memory="1TiB") as gpus, FakeTensorMode():
        weight = nn.Parameter(torch.empty(2**33, device="cuda:0"))
        assert weight.device == torch.device("cuda:0")
        assert weight.is_cuda
        assert gpus["cuda:0"].allocated_nbytes == 2**35
        with pytest.raises(RuntimeError, match="at least two devices, cuda:0 and cuda:1!"):
            weight + torch.empty(2**33, device="cuda:1")
        with pytest.raises(torch.OutOfMemoryError, match=r"Tried to allocate 1024\.00 GiB"):
            torch.empty(2**38, device="cuda:0")


def test_a_fake_of_a_labelled_tensor_is_on_its_device() -> None:
    with virtual_gpus(2) as gpus:
        real = torch.ones(256, device="cuda:1", requires_grad=True)
        fake = FakeTensorMode().from_tensor(real)
        assert fake.device == torch.device("cuda:1")
        assert fake.fake_device == torch.device("cpu")
        assert gpus["cuda:1"].allocated_nbytes == 2048
        (fake * 2).sum().backward()
        assert fake.grad is not None
        assert fake.grad.device == fake.device
        with suspended():
            assert fake.device == torch.device("cpu")


def test_fake_modules_are_copied_and_moved() -> None:
    with virtual_gpus(2), FakeTensorMode():
        layer = nn.Linear(2, 2).to("cuda:0")
        copied = copy.deepcopy(layer).to("cuda:1")
        assert isinstance(copied.weight, nn.Parameter)
        assert copied.weight.requires_grad
        assert copied.weight.device == torch.device("cuda:1")
        assert layer.weight.device == torch.device("cuda:0")
        assert copied(torch.ones(2, device="cuda:1")).device == torch.device("cuda:1")
