"""Every move between two devices is written down, the gradients' way back too."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from partitioner.virtual import VirtualGpus, virtual_gpus


@pytest.fixture(autouse=True)
def gpus() -> Iterator[VirtualGpus]:
    with virtual_gpus(2) as gpus:
        yield gpus


def test_moves_with_their_bytes(gpus: VirtualGpus) -> None:
    tensor = torch.ones(3, 5)
    tensor.to("cuda:0").to("cuda:1").cpu()
    tensor[:2].to("cuda:1")
    tensor[0, 0].expand(7).to("cuda:0", torch.float64)
    assert gpus.transfers == [
        ("cpu", "cuda:0", 60),
        ("cuda:0", "cuda:1", 60),
        ("cuda:1", "cpu", 60),
        ("cpu", "cuda:1", 40),
        ("cpu", "cuda:0", 56),
    ]
    gpus.reset_transfers()
    assert gpus.transfers == []


def test_what_does_not_move_is_not_written_down(gpus: VirtualGpus) -> None:
    tensor = torch.ones(3, device="cuda:0")
    tensor.to("cuda:0")
    tensor[0] = 1.0
    tensor[[0, 1]] = 2.0
    torch.tensor([1.0, 2.0], device="cuda:1")
    (tensor * torch.tensor(2.0)).sum().item()
    tensor.copy_(torch.ones(3, device="cuda:0"))
    assert gpus.transfers == []


def test_the_gradient_comes_back(gpus: VirtualGpus) -> None:
    tensor = torch.ones(4, requires_grad=True)
    (tensor.to("cuda:0").to("cuda:1", torch.float64) * 3).sum().backward()
    assert tensor.grad is not None
    assert tensor.grad.tolist() == [3.0] * 4
    assert tensor.grad.device == torch.device("cpu")
    assert gpus.transfers == [
        ("cpu", "cuda:0", 16),
        ("cuda:0", "cuda:1", 32),
        ("cuda:1", "cuda:0", 16),
        ("cuda:0", "cpu", 16),
    ]


def test_copying_into_a_tensor_elsewhere_moves(gpus: VirtualGpus) -> None:
    source = torch.ones(4, device="cuda:0", requires_grad=True)
    target = torch.zeros(4, device="cuda:1")
    target.copy_(source)
    assert gpus.transfers == [("cuda:0", "cuda:1", 16)]
    target = torch.zeros(6, device="cuda:1")
    target[:4] = source
    target.sum().backward()
    assert source.grad is not None
    assert source.grad.device == torch.device("cuda:0")
    torch._foreach_copy_([target.detach()[:4]], [source.detach()])
    assert gpus.transfers[1:] == [
        ("cuda:0", "cuda:1", 16),
        ("cuda:1", "cuda:0", 16),
        ("cuda:0", "cuda:1", 16),
    ]


def test_gradients_of_gradients_pass_through_moves() -> None:
    tensor = torch.tensor([2.0, 3.0], device="cuda:0", requires_grad=True)
    cube = (tensor.to("cuda:1") ** 3).sum()
    (gradient,) = torch.autograd.grad(cube, tensor, create_graph=True)
    assert gradient.device == torch.device("cuda:0")
    gradient.sum().backward()
    assert tensor.grad is not None
    assert tensor.grad.tolist() == [12.0, 18.0]


def test_a_value_used_on_two_devices_gets_one_sum_of_gradients(gpus: VirtualGpus) -> None:
    tensor = torch.ones(4, device="cuda:0", requires_grad=True)
    here, there = tensor * 2, tensor.to("cuda:1") * 3
    (here + there.to("cuda:0")).sum().backward()
    assert tensor.grad is not None
    assert tensor.grad.tolist() == [5.0] * 4
    assert len(gpus.transfers) == 4


def test_moving_a_module_moves_its_parameters_and_buffers(gpus: VirtualGpus) -> None:
    nn.BatchNorm1d(8).to("cuda:1")
    assert [nbytes for _, _, nbytes in gpus.transfers] == [32, 32, 32, 32, 8]
