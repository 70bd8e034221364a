"""What cannot be recorded: whose fault, where, and what is called whole instead."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

from partitioner.capture import GraphRun, capture
from partitioner.errors import CaptureError
from tests.capture.side_by_side import captured_case
from tests.zoo import ZOO, DataDependentRoot, SeqNet


class Layered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(16, 8), nn.Linear(9, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class SquareRoot(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Square.apply(x)


class TwiceRoot(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.vmap(lambda row: 2 * row)(x)


class Dropping(nn.Module):
    """Drops whole layers at random in training, and keeps what each layer made.

    Args:
        keep: makes what is returned beside the result.
    """

    def __init__(self, keep: Callable[[list[Tensor]], Any]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.keep = keep

    def forward(self, x: Tensor) -> Any:
        made = []
        for layer in self.layers:
            if self.training and torch.rand([]) < 0.3:
                continue
            x = layer(x)
            made.append(x)
        return x, self.keep(made)


class Around(nn.Module):
    """Hands on what a part returns."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> Any:
        return self.part(x)


class Kept:
    """An object with tensors in it."""

    def __init__(self, x: Tensor) -> None:
        self.x = x


class InAnObject(nn.Module):
    def forward(self, x: Tensor) -> Kept:
        return Kept(x * 2 if x.sum() > 0 else x)


class DrawsInPython(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if random.random() < 0.5 else x


class DrawsInNumPy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if numpy.random.rand() < 0.5 else x


def message(model: nn.Module, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(CaptureError) as caught:
        capture(model, args, kwargs, training=True)
    return str(caught.value)


def own_code(model: nn.Module, x: Tensor, *, whole: bool) -> str:
    """Why a model runs its own code, as one unit or along one way through it."""
    captured = capture(model, (x,), training=True)
    called = [node.target for node in captured.graph.nodes if node.op == "call_module"]
    assert (called == [""]) == whole
    if whole:
        assert captured.colocated == (tuple(captured.nodes),)
        assert torch.equal(GraphRun(model, captured).call(x), model(x))
    return captured.opaque[""]


def test_a_decision_by_data_at_the_root_is_taken_one_way_and_tells_the_line() -> None:
    x = torch.randn(4, 16)
    assert "zoo.py:" in own_code(DataDependentRoot(), x, whole=False)
    text = own_code(DataDependentRoot().to("meta"), x.to("meta"), whole=False)
    assert "if y.mean() > 0:" in text


def test_inputs_of_a_wrong_size_tell_the_module_and_what_pytorch_says() -> None:
    text = message(Layered(), torch.zeros(2, 16))
    assert "'body.1' (torch.nn.modules.linear.Linear)" in text
    assert "return self.body(x)" in text
    assert "RuntimeError" in text
    text = message(SeqNet(), torch.zeros(3, 1, 20, 20))
    assert "'lin1'" in text
    assert "x = self.lin1(x)" in text


def test_inputs_of_a_wrong_size_on_a_model_without_data() -> None:
    text = message(Layered().to("meta"), torch.zeros(2, 16))
    assert "'body.1'" in text


def test_missing_and_unknown_arguments() -> None:
    assert "missing a required argument: 'x'" in message(SeqNet())
    assert "unexpected keyword argument 'y'" in message(SeqNet(), torch.zeros(2, 784), y=1)


def test_an_error_of_the_model_itself() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError("there is no such thing")

    text = message(Broken(), torch.zeros(2))
    assert "ValueError: there is no such thing" in text
    assert 'raise ValueError("there is no such thing")' in text


@pytest.mark.parametrize(
    ("model", "reason"), [(SquareRoot(), "autograd function"), (TwiceRoot(), "torch.vmap")]
)
def test_what_no_graph_can_hold_at_the_root(model: nn.Module, reason: str) -> None:
    assert reason in own_code(model, torch.randn(2, 3), whole=True)


@pytest.mark.parametrize("keep", [list, len], ids=["tensors", "a number"])
def test_a_result_whose_form_hangs_on_random_numbers_is_left_to_the_model(keep: Any) -> None:
    text = own_code(Around(Dropping(keep)), torch.zeros(2, 4), whole=False)
    assert "what part returns is built one way or another" in text
    assert "if self.training and torch.rand([]) < 0.3:" in text
    evaluated = capture(Around(Dropping(keep)), (torch.zeros(2, 4),), training=False)
    assert evaluated.other_mode_error
    assert not evaluated.opaque


def test_an_object_of_tensors_from_a_part_that_is_called_whole_is_left_to_the_model() -> None:
    text = own_code(Around(InAnObject()), torch.zeros(2, 4), whole=False)
    assert "returns tensors in an object" in text
    assert "if x.sum() > 0" in text


@pytest.mark.parametrize("part", [DrawsInPython(), DrawsInNumPy()])
def test_random_numbers_from_outside_pytorch_are_not_baked_in(part: nn.Module) -> None:
    text = own_code(part, torch.zeros(2, 4), whole=True)
    assert "random numbers outside PyTorch" in text
    captured = capture(Around(part), (torch.zeros(2, 4),), training=True)
    assert "random numbers outside PyTorch" in captured.opaque["part"]


def test_calls_that_were_not_recorded_are_refused() -> None:
    case, captured = ZOO["mixed_inputs"], captured_case("mixed_inputs")
    run = GraphRun(case.build(), captured)
    x = torch.zeros(4, 16)
    with pytest.raises(CaptureError, match="repeats was 2 when recorded, and is 3 now"):
        run.call(x, None, 3, True, style="mean")
    with pytest.raises(CaptureError, match="mask was None"):
        run.call(x, x, 2, True, style="mean")
    with pytest.raises(CaptureError, match="x was a tensor"):
        run.call(None, None, 2, True, style="mean")
    with pytest.raises(CaptureError, match="missing a required argument"):
        run.call(x)


def test_nested_inputs_must_have_the_recorded_shape() -> None:
    case, captured = ZOO["dict_input"], captured_case("dict_input")
    run = GraphRun(case.build(), captured)
    images, words = torch.zeros(4, 8), torch.zeros(4, 6)
    run.call({"texts": {"words": words}, "images": images})
    with pytest.raises(CaptureError, match="missing \\['images'\\], new \\['pictures'\\]"):
        run.call({"texts": {"words": words}, "pictures": images})
    with pytest.raises(CaptureError, match="was a dict"):
        run.call([images, words])


def test_other_sizes_than_recorded_are_refused_where_they_matter() -> None:
    run = GraphRun(ZOO["seqnet"].build(), captured_case("seqnet"))
    with pytest.raises(CaptureError, match=r"holds only where x.shape\[2\] == 28"):
        run.call(torch.zeros(4, 1, 14, 56))
