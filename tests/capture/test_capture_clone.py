"""Copies of a model without its data."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from partitioner.capture import clone, fake_clone, fetch
from partitioner.capture.clone import named_tensors
from tests.zoo import ZOO


@pytest.mark.parametrize(
    "name", ["tied", "shared_submodule", "counter", "plain_tensor", "hf_llama"]
)
def test_a_clone_has_what_it_is_given_under_the_same_names(name: str) -> None:
    model = ZOO[name].build()
    given: dict[str, Tensor] = {}

    def replace(tensor: Tensor, name: str) -> Tensor:
        made = tensor.detach().clone()
        given[name] = nn.Parameter(made) if isinstance(tensor, nn.Parameter) else made
        return given[name]

    copied = clone(model, replace)
    assert type(copied) is type(model)
    before = {each.names: each.role for each in named_tensors(model)}
    after = {each.names: each.role for each in named_tensors(copied)}
    assert before == after
    for each in named_tensors(copied):
        assert each.tensor is given[each.names[0]]
    assert not {id(each.tensor) for each in named_tensors(model)} & set(map(id, given.values()))


def test_tensors_in_lists_have_names_too() -> None:
    model = ZOO["plain_tensor"].build()
    names = {each.names[0]: each.role for each in named_tensors(model)}
    assert names["scale"] == "constant"
    assert names["shifts.1"] == "constant"
    assert fetch(model, "shifts.1") is model.shifts[1]
    assert fetch(model, "layer.weight") is model.layer.weight
    assert fetch(model, "") is model
    with pytest.raises(KeyError, match=r"no 'layer\.wait'"):
        fetch(model, "layer.wait")


def test_a_fake_clone_takes_no_memory() -> None:
    with torch.device("meta"):
        model = nn.Linear(1 << 20, 1 << 20)
    copied = fake_clone(model, FakeTensorMode())
    assert isinstance(copied.weight, FakeTensor)
    assert isinstance(copied.weight, nn.Parameter)
    assert copied.weight.device.type == "cpu"
    assert copied.weight.shape == (1 << 20, 1 << 20)


def test_what_cannot_be_copied_is_shared() -> None:
    model = ZOO["mlp"].build()
    model.lock = threading.Lock()
    model.settings = {"a": [1]}
    copied = clone(model, lambda tensor, name: tensor)
    assert copied.lock is model.lock
    assert copied.settings == model.settings
    assert copied.settings is not model.settings


def test_tensors_deep_inside_objects_are_replaced() -> None:
    class Holder:
        def __init__(self) -> None:
            self.table = torch.arange(3)

    model = ZOO["mlp"].build()
    model.holder = Holder()
    names: list[str] = []

    def replace(tensor: Tensor, name: str) -> Tensor:
        names.append(name)
        return torch.zeros_like(tensor)

    copied = clone(model, replace)
    assert copied.holder.table.tolist() == [0, 0, 0]
    assert model.holder.table.tolist() == [0, 1, 2]
    assert names[-1] == "_unnamed_0"
