"""What optimizers keep and need, and what is accepted as one."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

from partitioner.capture import TensorSpec
from partitioner.errors import SpecError
from partitioner.graph import OPTIMIZERS, optimizer_factory, optimizer_memory

FLOAT = 4
SHAPES = {"weight": (256, 128), "bias": (256,), "scalar": ()}
PARAMETERS = {
    name: TensorSpec(shape, "float32", FLOAT * torch.Size(shape).numel(), True)
    for name, shape in SHAPES.items()
}
ROUNDED = {"weight": FLOAT * 256 * 128, "bias": FLOAT * 256, "scalar": 512}


@pytest.mark.parametrize(
    ("optimizer", "copies"),
    [
        ("adam", 2),
        ("AdamW", 2),
        ("sgd", 0),
        ("adagrad", 1),
        (torch.optim.RMSprop, 1),
        (functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9), 1),
        (lambda params: torch.optim.Adam(params, amsgrad=True), 3),
    ],
)
def test_state_bytes(optimizer: object, copies: int) -> None:
    make = optimizer_factory(optimizer)
    assert make is not None
    memory = optimizer_memory(PARAMETERS, make)
    assert memory.state_nbytes == {name: copies * nbytes for name, nbytes in ROUNDED.items()}


def test_state_in_float32_over_half_precision_parameters_is_seen() -> None:
    class Master(torch.optim.Optimizer):
        def __init__(self, params: list[nn.Parameter]) -> None:
            super().__init__(params, {})

        def step(self, closure: object = None) -> None:  # type: ignore[override]
            for group in self.param_groups:
                for parameter in group["params"]:
                    self.state[parameter].setdefault("master", parameter.detach().float())

    half = {"weight": TensorSpec((1024,), "bfloat16", 2048, True)}
    assert optimizer_memory(half, Master).state_nbytes == {"weight": 4096}


def test_adam_needs_one_more_copy_of_all_parameters_at_once_as_on_gpus() -> None:
    memory = optimizer_memory(PARAMETERS, torch.optim.Adam)
    assert memory.summed_nbytes == ROUNDED
    assert set(memory.largest_nbytes.values()) == {0}


def test_one_by_one_only_the_largest_counts() -> None:
    equal = {f"weight {i}": PARAMETERS["weight"] for i in range(8)}
    memory = optimizer_memory(equal, functools.partial(torch.optim.Adam, foreach=False))
    needed = sum(memory.summed_nbytes.values()) + max(memory.largest_nbytes.values())
    assert ROUNDED["weight"] <= needed < 4 * ROUNDED["weight"]


def test_nothing_to_train_needs_nothing() -> None:
    assert optimizer_memory({}, torch.optim.Adam).state_nbytes == {}


@pytest.mark.parametrize("name", sorted(set(OPTIMIZERS) - {"sparseadam"}))
def test_every_optimizer_of_pytorch_takes_a_step(name: str) -> None:
    matrix = {"weight": TensorSpec((64, 32), "float32", 64 * 32 * FLOAT, True)}
    assert optimizer_memory(matrix, OPTIMIZERS[name]).state_nbytes["weight"] >= 0


def test_one_that_cannot_is_reported() -> None:
    with pytest.raises(SpecError, match="'SparseAdam' could not take a step"):
        optimizer_memory(PARAMETERS, torch.optim.SparseAdam)


def test_no_optimizer_is_none() -> None:
    assert optimizer_factory(None) is None


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        ("adma", "unknown optimizer 'adma'; did you mean 'adamax', 'adam'"),
        (7, "must be a name, a class or a callable"),
        (torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1), "instance of SGD, bound to its"),
    ],
)
def test_what_is_no_optimizer_is_refused(optimizer: object, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        optimizer_factory(optimizer)
