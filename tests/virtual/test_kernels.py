"""What CUDA's kernels keep, with the numbers of the CPU's."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from cost_models import RooflineCostModel
from partitioner import Cluster, virtual_gpus
from partitioner.capture import capture
from partitioner.graph import annotate


def dropped(x: Tensor, p: float, seed: int) -> tuple[Tensor, Tensor]:
    """What dropout gives, and the gradient of a sum of squares of it."""
    torch.manual_seed(seed)
    x = x.detach().requires_grad_()
    y = F.dropout(x, p)
    y.square().sum().backward()
    assert x.grad is not None
    return y.detach(), x.grad


@given(
    st.integers(0, 2**32),
    st.floats(0, 1),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    st.sampled_from([(0,), (7,), (3, 5), (2, 3, 4, 5)]),
    st.booleans(),
)
def test_dropout_draws_and_scales_as_without_virtual_gpus(
    seed: int, p: float, dtype: torch.dtype, shape: tuple[int, ...], transposed: bool
) -> None:
    x = torch.randn(shape, dtype=torch.float64).to(dtype)
    x = x.transpose(0, -1) if transposed else x
    expected = dropped(x, p, seed)
    with virtual_gpus(1):
        found = dropped(x.to("cuda:0"), p, seed)
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours.cpu(), theirs, rtol=0, atol=0)


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_keeps_a_byte_for_each_element_on_a_gpu_alone(p: float) -> None:
    with virtual_gpus("cuda:0=1GiB,cpu=1GiB") as gpus:
        for name, nbytes in (("cuda:0", 1), ("cpu", 4)):
            x = torch.zeros(1 << 16, device=name, requires_grad=True)
            before = gpus[name].allocated_nbytes
            y = F.dropout(x, p)
            kept = gpus[name].allocated_nbytes - before - y.nbytes
            assert kept == nbytes << 16
            y.sum().backward()
            del y
            assert gpus[name].allocated_nbytes == before + x.nbytes


class Dropping(nn.Module):
    """Dropout at the top and within a function of PyTorch that calls it itself."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2, dropout=0.25, batch_first=True)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.attention(x, x, x)[0])


def test_the_rows_of_the_programme_count_masks_as_the_devices_keep_them() -> None:
    model, x = Dropping(), torch.empty(4, 64, 16)
    captured = capture(model, (x,), training=True)
    saved = {}
    for devices in ("1x1GiB", "cpu=1GiB"):
        graph = annotate(captured, model, Cluster.of(devices), RooflineCostModel(), training=True)
        loss = len(graph.order)
        saved[devices] = sum(
            h.nbytes
            for h in graph.holdings
            if h.role == "activations" and h.first <= loss <= h.last
        )
    masked = x.numel() + 4 * 2 * 64 * 64
    assert saved["cpu=1GiB"] - saved["1x1GiB"] == pytest.approx(3 * masked, abs=2048)


REDUCING: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    F.mse_loss,
    F.smooth_l1_loss,
    F.soft_margin_loss,
    F.binary_cross_entropy,
    F.l1_loss,
    F.huber_loss,
)


@pytest.mark.parametrize("loss", REDUCING, ids=lambda loss: loss.__name__)
def test_a_scalar_keeps_on_fakes_what_it_keeps_in_truth(
    loss: Callable[[Tensor, Tensor], Tensor],
) -> None:
    kept = []
    for mode in (contextlib.nullcontext(), FakeTensorMode()):
        with mode, virtual_gpus(1) as gpus:
            x, y = (torch.rand(300, 50).to("cuda:0") for _ in range(2))
            before = gpus["cuda:0"].allocated_nbytes
            scalar = loss(x, y)
            assert scalar.dim() == 0
            kept.append(gpus["cuda:0"].allocated_nbytes - before)
    assert kept[0] == kept[1]
