"""`torch.cuda` and its relatives tell of the virtual devices."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from partitioner.virtual import VirtualGpus, virtual_gpus


@pytest.fixture(autouse=True)
def gpus() -> Iterator[VirtualGpus]:
    with virtual_gpus(2, memory="1GiB") as gpus:
        yield gpus


def test_what_is_there() -> None:
    assert torch.cuda.is_available()
    assert torch.cuda.device_count() == torch.accelerator.device_count() == 2
    assert torch.accelerator.current_accelerator() == torch.device("cuda")
    properties = torch.cuda.get_device_properties("cuda:1")
    assert properties.total_memory == 2**30
    assert torch.cuda.get_device_name(0) == properties.name
    assert torch.cuda.get_device_capability(0) == (properties.major, properties.minor)
    with pytest.raises(AssertionError, match="Invalid device id"):
        torch.cuda.get_device_properties(2)


def test_memory_figures() -> None:
    tensor = torch.zeros(256, device="cuda:1")
    twice = tensor * 2
    del tensor
    assert torch.cuda.memory_allocated("cuda:1") == torch.cuda.memory_reserved(1) == 1024
    assert torch.cuda.max_memory_allocated(1) == 2048
    assert torch.cuda.memory_allocated() == 0
    assert torch.cuda.mem_get_info(1) == (2**30 - 1024, 2**30)
    assert torch.cuda.memory_stats(1)["allocated_bytes.all.peak"] == 2048
    assert "2048 B" in torch.cuda.memory_summary(1)
    torch.cuda.reset_peak_memory_stats(1)
    torch.cuda.empty_cache()
    assert torch.cuda.max_memory_allocated(1) == 1024
    with torch.cuda.device(1):
        assert torch.cuda.memory_allocated() == 1024
    del twice


def test_running_out_can_be_caught_and_tried_again() -> None:
    nbytes = 2**31
    while True:
        try:
            torch.empty(nbytes, dtype=torch.uint8, device="cuda:0")
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            nbytes //= 2
        else:
            break
    assert nbytes == 2**30


def test_seeds_and_generators() -> None:
    torch.cuda.manual_seed_all(3)
    first = torch.rand(4, device="cuda:0")
    torch.cuda.manual_seed(3)
    assert torch.equal(torch.rand(4, device="cuda:0"), first)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(4), first.cpu())
    state = torch.cuda.get_rng_state(1)
    second = torch.rand(4, device="cuda:1")
    torch.cuda.set_rng_state(state, 1)
    assert torch.equal(torch.rand(4, device="cuda:1"), second)
    with torch.random.fork_rng(devices=[0]):
        torch.rand(1)
    generator = torch.Generator(device="cuda:1").manual_seed(3)
    assert generator.device == torch.device("cuda:1")
    assert torch.equal(torch.rand(4, device="cuda:1", generator=generator).cpu(), first.cpu())
    assert isinstance(torch.default_generator, torch.Generator)
    with pytest.raises(RuntimeError, match="invalid device ordinal"):
        torch.Generator(device="cuda:5")


def test_streams_and_events() -> None:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    stream = torch.cuda.Stream(device="cuda:1")
    start.record()
    with torch.cuda.stream(stream):
        assert torch.cuda.current_device() == 1
        tensor = torch.ones(2, device="cuda")
        tensor.record_stream(stream)
    assert tensor.get_device() == 1
    assert torch.cuda.current_device() == 0
    end.record(stream)
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    end.synchronize()
    assert end.query()
    assert 0 <= start.elapsed_time(end) < 60_000
