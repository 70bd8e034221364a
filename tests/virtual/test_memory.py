"""Bytes: what is live, the peak, the limit, and whose they are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from partitioner.errors import SpecError
from partitioner.spec import Cluster, Device
from partitioner.virtual import virtual_gpus

KIB = 2**10


def test_live_bytes_are_rounded_up_to_512() -> None:
    with virtual_gpus(2) as gpus:
        gpu = gpus["cuda:0"]
        small = torch.zeros(1, device="cuda:0")
        assert gpu.allocated_nbytes == 512
        larger = torch.zeros(129, device="cuda:0")
        assert gpu.allocated_nbytes == 512 + 1024
        empty = torch.zeros(0, device="cuda:0")
        assert gpu.allocated_nbytes == 512 + 1024
        del small, empty
        assert gpu.allocated_nbytes == 1024
        del larger
        assert gpu.allocated_nbytes == 0
        assert gpu.peak_nbytes == 1536
        assert gpus["cuda:1"].peak_nbytes == 0


def test_views_and_in_place_operations_take_nothing() -> None:
    with virtual_gpus(1) as gpus:
        gpu = gpus[0]
        tensor = torch.zeros(256, device="cuda:0")
        tensor.view(16, 16).t()[1:].add_(1).detach().data.unsqueeze(0)
        assert gpu.peak_nbytes == KIB
        kept = tensor[:1]
        del tensor
        assert gpu.allocated_nbytes == KIB
        del kept
        assert gpu.allocated_nbytes == 0


def test_the_peak_counts_what_autograd_keeps() -> None:
    with virtual_gpus(1) as gpus:
        gpu = gpus[0]
        tensor = torch.zeros(256, device="cuda:0", requires_grad=True)
        result = tensor.sin().sin().sin()
        assert gpu.allocated_nbytes == 4 * KIB
        with torch.no_grad():
            result = tensor.sin().sin().sin()
        assert gpu.allocated_nbytes == 2 * KIB
        del result
        gpus.reset_peak()
        assert gpu.peak_nbytes == KIB


def test_the_bytes_of_a_training_step_by_hand() -> None:
    with virtual_gpus(1) as gpus:
        gpu = gpus[0]
        layer = nn.Linear(256, 256, bias=False, device="cuda:0")
        inputs = torch.ones(256, 256, device="cuda:0")
        matrix = 256 * KIB
        assert gpu.allocated_nbytes == 2 * matrix
        loss = layer(inputs).sum()
        assert gpu.allocated_nbytes == 2 * matrix + 512
        assert gpu.peak_nbytes == 3 * matrix + 512
        gpus.reset_peak()
        loss.backward()
        assert gpu.allocated_nbytes == 3 * matrix + 512
        assert gpu.peak_nbytes == 3 * matrix + 2 * 512
        torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9).step()
        assert gpu.allocated_nbytes == 3 * matrix + 512


def test_the_limit_holds_to_the_byte() -> None:
    with virtual_gpus(2, memory={"cuda:0": "1MiB", "cuda:1": 512}) as gpus:
        gpu = gpus["cuda:0"]
        first = torch.zeros(2**20 - 512, dtype=torch.uint8, device="cuda:0")
        second = torch.zeros(512, dtype=torch.uint8, device="cuda:0")
        assert gpu.allocated_nbytes == gpu.limit_nbytes == 2**20
        with pytest.raises(torch.OutOfMemoryError) as error:
            torch.zeros(1, dtype=torch.uint8, device="cuda:0")
        assert str(error.value).startswith(
            "CUDA out of memory. Tried to allocate 512 bytes. GPU 0 has a total capacity of "
            "1.00 MiB of which 0 bytes is free."
        )
        del second
        with pytest.raises(torch.cuda.OutOfMemoryError, match=r"Tried to allocate 1023\.50 KiB"):
            first * 2
        assert gpu.allocated_nbytes == 2**20 - 512
        assert torch.zeros(1, device="cuda:1").item() == 0.0
        with pytest.raises(torch.OutOfMemoryError, match="GPU 1 has a total capacity of 512 bytes"):
            first[:513].to("cuda:1")


def test_running_out_in_the_backward() -> None:
    with virtual_gpus(1, memory=4 * KIB) as gpus:
        tensor = torch.zeros(256, device="cuda:0", requires_grad=True)
        loss = tensor.exp().sum()
        with pytest.raises(torch.OutOfMemoryError):
            (loss + tensor.exp().sum()).backward()
        del loss
        assert gpus[0].allocated_nbytes == KIB


def test_without_limits_bytes_are_only_counted() -> None:
    with virtual_gpus(1, memory="1KiB", limits=False) as gpus:
        kept = torch.zeros(KIB, device="cuda:0")
        assert gpus[0].peak_nbytes == 4 * KIB
        assert gpus[0].limit_nbytes == KIB
        del kept


def test_bytes_can_be_told_apart() -> None:
    with virtual_gpus(2) as gpus:
        gpu = gpus["cuda:0"]
        layer = nn.Linear(128, 128).to("cuda:0")
        optimizer = torch.optim.Adam(layer.parameters())
        layer(torch.ones(128, device="cuda:0")).sum().backward()
        optimizer.step()
        parameters = 64 * KIB + 512
        assert gpu.live_nbytes_of(layer.parameters()) == parameters
        assert gpu.live_nbytes_of([*layer.parameters(), layer.weight.t(), None]) == parameters
        assert gpu.live_nbytes_of(p.grad for p in layer.parameters()) == parameters
        state = [value for entry in optimizer.state.values() for value in entry.values()]
        assert gpu.live_nbytes_of(state) == 2 * parameters
        assert gpu.allocated_nbytes == 4 * parameters
        assert gpus["cuda:1"].live_nbytes_of(layer.parameters()) == 0


def test_resizing_is_counted() -> None:
    with virtual_gpus(1) as gpus:
        tensor = torch.zeros(128, device="cuda:0")
        tensor.resize_(256)
        assert gpus[0].allocated_nbytes == KIB
        tensor.untyped_storage().resize_(0)
        assert gpus[0].allocated_nbytes == 0
        out = torch.empty(0, device="cuda:0")
        torch.add(torch.ones(256, device="cuda:0"), 1, out=out)
        assert gpus[0].allocated_nbytes == KIB


def test_sparse_tensors_count_values_and_indices() -> None:
    with virtual_gpus(1) as gpus:
        embedding = nn.Embedding(256, 128, sparse=True).to("cuda:0")
        held = gpus[0].allocated_nbytes
        embedding(torch.zeros(2, dtype=torch.long, device="cuda:0")).sum().backward()
        gradient = embedding.weight.grad
        assert gradient is not None
        assert gradient.device == torch.device("cuda:0")
        assert gpus[0].live_nbytes_of([gradient]) == KIB + 512
        assert gpus[0].allocated_nbytes == held + KIB + 512


def test_the_cpu_counts_only_where_it_is_declared() -> None:
    with virtual_gpus(1) as gpus:
        torch.ones(4)
        assert list(gpus) == ["cuda:0"]
        with pytest.raises(KeyError):
            gpus["cpu"]
    with virtual_gpus(["cuda:0", "cpu"], memory="2KiB") as gpus:
        tensor = torch.ones(256)
        assert gpus["cpu"].allocated_nbytes == KIB
        moved = tensor.to("cuda:0").to("cpu")
        assert gpus["cpu"].allocated_nbytes == 2 * KIB
        with pytest.raises(torch.OutOfMemoryError, match="DefaultCPUAllocator"):
            tensor + moved


def test_devices_may_be_declared_in_every_way() -> None:
    with virtual_gpus(
        Cluster((Device("cuda:0", memory="1GiB"), Device("cuda:1", memory=512)))
    ) as g:
        assert [gpu.limit_nbytes for gpu in g.values()] == [2**30, 512]
    with virtual_gpus(["cuda:0", Device("cuda:1", kind="a100-40gb")]) as g:
        assert g["cuda:0"].limit_nbytes == 2**40
        assert g["cuda:1"].limit_nbytes < 2**40
        assert torch.cuda.get_device_name(1) == "a100-40gb"
    with virtual_gpus("2x16GiB") as g:
        assert len(g) == 2
        assert g[torch.device("cuda:1")].limit_nbytes == 2**34
    for wrong in (0, [], ["mps:0"], ["cuda:0", "cuda:0"], ["somewhere"]):
        with pytest.raises(SpecError), virtual_gpus(wrong):
            pass
    with pytest.raises(SpecError), virtual_gpus(1, memory="much"):
        pass
