"""Saving, loading and copying keep tensors where they are, or where they are told to be."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from partitioner.virtual import VirtualGpus, virtual_gpus


@pytest.fixture(autouse=True)
def gpus() -> Iterator[VirtualGpus]:
    with virtual_gpus(2) as gpus:
        yield gpus


def split_model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 3).to("cuda:0"), nn.BatchNorm1d(3).to("cuda:1"))


def devices(state: dict[str, Any]) -> set[str]:
    return {str(value.device) for value in state.values()}


def saved(value: object) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return file


def test_a_state_dict_comes_back_where_it_was() -> None:
    model = split_model()
    state = torch.load(saved(model.state_dict()))
    assert {name: value.device for name, value in state.items()} == {
        name: value.device for name, value in model.state_dict().items()
    }
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ("cuda:1", {"cuda:1"}),
        ("cpu", {"cpu"}),
        (torch.device("cuda:0"), {"cuda:0"}),
        ({"cuda:0": "cuda:1"}, {"cuda:1"}),
        (lambda storage, location: storage.cuda(1), {"cuda:1"}),
    ],
)
def test_a_state_dict_goes_where_it_is_mapped(where: Any, found: set[str]) -> None:
    state = torch.load(saved(split_model().state_dict()), map_location=where)
    assert devices(state) == found


def test_loading_onto_a_gpu_that_is_not_there() -> None:
    with pytest.raises(RuntimeError, match="device_count"):
        torch.load(saved(torch.ones(1)), map_location="cuda:7")


def test_loading_into_a_model_keeps_its_devices(gpus: VirtualGpus) -> None:
    model, other = split_model(), split_model()
    state = {name: value.cpu() for name, value in other.state_dict().items()}
    gpus.reset_transfers()
    model.load_state_dict(state)
    assert devices(model.state_dict()) == {"cuda:0", "cuda:1"}
    assert torch.equal(model[0].weight, other[0].weight)
    assert ("cpu", "cuda:0", 36) in gpus.transfers
    meta = nn.Linear(3, 3, device="meta")
    meta.load_state_dict(model[0].state_dict(), assign=True)
    assert meta.weight.device == torch.device("cuda:0")


def test_copies_stay_and_are_counted(gpus: VirtualGpus) -> None:
    model = split_model()
    before = [gpu.allocated_nbytes for gpu in gpus.values()]
    copied = copy.deepcopy(model)
    assert [p.device for p in copied.parameters()] == [p.device for p in model.parameters()]
    assert [gpu.allocated_nbytes for gpu in gpus.values()] == [2 * nbytes for nbytes in before]
    assert copied[0].weight is not model[0].weight
    assert torch.equal(copied[0].weight, model[0].weight)
    plain = torch.ones(2, device="cuda:1")
    assert copy.deepcopy(plain).device == copy.copy(plain).device == plain.device
    assert pickle.loads(pickle.dumps(plain)).device == plain.device
    whole = torch.load(saved(model), weights_only=False)
    assert devices(whole.state_dict()) == {"cuda:0", "cuda:1"}


def test_data_loaders_pin_and_split() -> None:
    images = TensorDataset(torch.arange(12.0), torch.arange(12))
    first, _ = random_split(images, [8, 4], generator=torch.Generator().manual_seed(0))
    for workers in (0, 1):
        loader = DataLoader(first, batch_size=4, pin_memory=True, num_workers=workers)
        for values, labels in loader:
            assert values.is_pinned()
            assert values.device == torch.device("cpu")
            assert values.to("cuda:1", non_blocking=True).get_device() == 1
            assert labels.cuda(non_blocking=True).is_cuda
    with pytest.raises(RuntimeError, match="only dense CPU tensors can be pinned"):
        torch.ones(1, device="cuda:0").pin_memory()


def test_exponential_averages_and_parametrizations() -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2).to("cuda:1"))
    average = torch.optim.swa_utils.AveragedModel(layer)
    average.update_parameters(layer)
    average.update_parameters(layer)
    assert {str(p.device) for p in average.parameters()} == {"cuda:1"}
    vector = nn.utils.parameters_to_vector(layer.parameters())
    nn.utils.vector_to_parameters(vector * 2, layer.parameters())
    assert layer(torch.ones(2, device="cuda:1")).device == vector.device
