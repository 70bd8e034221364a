"""Everything is there inside, nothing is left outside."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorConverter
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack

from partitioner.errors import PartitionerError, SpecError
from partitioner.virtual import suspended, virtual_gpus

OWNERS: tuple[Any, ...] = (
    torch,
    torch._C,
    torch._C._autograd,
    torch.accelerator,
    torch.cuda,
    torch.cuda.memory,
    torch.cuda.random,
    torch.nn.functional,
    torch.overrides,
    torch.utils,
    torch.UntypedStorage,
    FakeTensor,
    FakeTensorConverter,
    Tensor,
)


def snapshot() -> list[dict[str, Any]]:
    return [dict(vars(owner)) for owner in OWNERS] + [
        {"function modes": _get_current_function_mode_stack()},  # type: ignore[no-untyped-call]
        {"dispatch modes": _get_current_dispatch_mode_stack()},
        {"default device": torch.get_default_device()},
        {"autocast": torch.get_autocast_dtype("cpu")},
    ]


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    with virtual_gpus(1):
        F.relu(torch.ones(1, device="cuda:0"))
    before = snapshot()
    yield
    assert snapshot() == before


def test_nothing_is_left_behind() -> None:
    before = snapshot()
    with virtual_gpus(2):
        assert snapshot() != before
        assert torch.cuda.is_available()
        torch.set_default_device("cuda:1")
    assert snapshot() == before
    assert not torch.ones(1).is_cuda


def test_nothing_is_left_behind_after_an_exception() -> None:
    before = snapshot()

    class Own(Exception):
        pass

    with pytest.raises(Own), virtual_gpus(2), torch.device("cuda:0"):
        raise Own
    assert snapshot() == before
    with pytest.raises(Own), virtual_gpus(2), suspended():
        raise Own
    assert snapshot() == before


def test_tensors_are_plain_afterwards() -> None:
    with virtual_gpus(2) as gpus:
        layer = nn.Linear(2, 2).to("cuda:1")
        loss = layer(torch.ones(2).to("cuda:0").to("cuda:1")).sum()
    assert layer.weight.device == torch.device("cpu")
    loss.backward()
    assert layer.weight.grad is not None
    assert (layer.weight + torch.ones(2, 2)).device == torch.device("cpu")
    with virtual_gpus(2) as others:
        assert layer.weight.device == torch.device("cpu")
        assert others["cuda:1"].allocated_nbytes == 0
    del layer, loss
    gc.collect()
    assert gpus["cuda:1"].allocated_nbytes == 0


def test_a_move_is_differentiated_after_the_end() -> None:
    with virtual_gpus(2) as gpus:
        tensor = torch.ones(2, device="cuda:0", requires_grad=True)
        result = tensor.to("cuda:1", torch.float64).sum()
    moves = len(gpus.transfers)
    result.backward()
    assert tensor.grad is not None
    assert tensor.grad.tolist() == [1.0, 1.0]
    assert len(gpus.transfers) == moves


def test_they_do_not_nest() -> None:
    with virtual_gpus(1):
        with pytest.raises(SpecError, match="virtual_gpus inside virtual_gpus"), virtual_gpus(1):
            pass
        assert torch.ones(1, device="cuda:0").is_cuda
    assert issubclass(SpecError, PartitionerError)


def test_a_suspended_one_makes_room_for_another() -> None:
    with virtual_gpus(2) as outer:
        tensor = torch.ones(1, device="cuda:1")
        with suspended(), virtual_gpus(3) as inner:
            assert torch.cuda.device_count() == 3
            assert tensor.device == torch.device("cpu")
            kept = torch.ones(1, device="cuda:1")
            assert inner["cuda:1"].allocated_nbytes == outer["cuda:1"].allocated_nbytes == 512
        assert torch.cuda.device_count() == 2
        assert tensor.device == torch.device("cuda:1")
        assert kept.device == torch.device("cpu")


def test_suspended_is_plain_pytorch() -> None:
    before = snapshot()
    with suspended():
        assert snapshot() == before
    with virtual_gpus(2) as gpus:
        torch.set_default_device("cuda:1")
        layer = nn.Linear(2, 2)
        inside = gpus["cuda:1"].allocated_nbytes
        with suspended():
            assert layer.weight.device == torch.device("cpu")
            assert torch.ones(1).device == torch.device("cpu")
            assert not torch.cuda.is_available()
            assert _get_current_dispatch_mode_stack() == []
            layer(torch.ones(2)).sum().backward()
            assert snapshot()[: len(OWNERS)] == before[: len(OWNERS)]
            with suspended():
                pass
            assert not torch.cuda.is_available()
        assert layer.weight.device == torch.device("cuda:1")
        assert gpus["cuda:1"].allocated_nbytes == inside
        assert torch.ones(1).device == torch.device("cuda:1")


def test_other_modes_may_be_entered_inside_and_outside() -> None:
    class Calls(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            calls.append(func)
            return func(*args, **(kwargs or {}))

    class Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            operators.append(func)
            return func(*args, **(kwargs or {}))

    calls: list[Any] = []
    operators: list[Any] = []
    with Calls(), Operators(), virtual_gpus(2):
        tensor = torch.ones(2, device="cuda:0")
        assert F.softmax(tensor, 0).device == torch.device("cuda:0")
        with Calls(), Operators():
            assert (tensor.to("cuda:1") + 1).device == torch.device("cuda:1")
            with suspended():
                assert tensor.device == torch.device("cpu")
                assert len(_get_current_dispatch_mode_stack()) == 2
            assert tensor.device == torch.device("cuda:0")
    assert torch.Tensor.add in calls or torch.ops.aten.add.Tensor in operators


def test_subclasses_of_tensors_keep_their_say() -> None:
    class Named(Tensor):
        @classmethod
        def __torch_function__(
            cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            seen.append(getattr(func, "__name__", ""))
            return super().__torch_function__(func, types, args, kwargs or {})

    seen: list[str] = []
    with virtual_gpus(1):
        F.relu(torch.ones(2, device="cuda:0").as_subclass(Named))
    assert "relu" in seen
