"""Sizes: which vary, which are fixed, and what Python code does with them."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from partitioner.capture import Captured, GraphRun, capture
from partitioner.errors import CaptureError
from tests.capture.side_by_side import captured_case


class Calls(nn.Module):
    """A module that calls a function, and a layer so that it has a parameter."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x) * self.scale


def recorded(function: Callable[..., Tensor], *shape: int) -> tuple[Calls, Captured]:
    model = Calls(function)
    return model, capture(model, (torch.zeros(shape),), training=True)


def agrees(model: Calls, captured: Captured, *shape: int) -> None:
    x = torch.randn(shape)
    torch.testing.assert_close(GraphRun(model, captured).call(x), model(x))


def test_sizes_that_layers_want_are_fixed_and_others_vary() -> None:
    assert captured_case("seqnet").specialised == (("x", 1, 1), ("x", 2, 28), ("x", 3, 28))
    assert captured_case("residual_cnn").specialised == (("x", 1, 3),)
    assert captured_case("unet").specialised == (("x", 1, 3),)
    assert captured_case("transformer_encoder").specialised == (("src", 2, 16),)
    assert captured_case("language_model").specialised == ()
    assert captured_case("size_arithmetic").dynamic


def test_sizes_of_two_inputs_that_belong_together() -> None:
    texts = [condition.text for condition in captured_case("hf_bert_labels").conditions]
    assert "attention_mask.shape[1] == input_ids.shape[1]" in texts
    assert "labels.shape[0] == input_ids.shape[0]" in texts


def test_images_of_another_size() -> None:
    from tests.zoo import ZOO

    model = ZOO["residual_cnn"].build()
    run = GraphRun(model, captured_case("residual_cnn"))
    x = torch.randn(2, 3, 20, 24)
    torch.testing.assert_close(run.call(x), model(x))


def test_a_batch_of_one_holds_for_more() -> None:
    model, captured = recorded(lambda x: x.view(x.size(0), -1).sum(1), 1, 3, 4)
    assert captured.nodes["view"].value.shape == (1, 12)
    assert captured.dynamic
    agrees(model, captured, 5, 3, 4)


def test_a_decision_by_size_is_a_condition() -> None:
    model, captured = recorded(lambda x: x * 2 if x.shape[1] > 4 else x, 2, 8)
    assert [c.text for c in captured.conditions] == ["x.shape[1] > 4"]
    agrees(model, captured, 3, 5)
    with pytest.raises(CaptureError, match=r"x.shape\[1\] > 4"):
        GraphRun(model, captured).call(torch.zeros(2, 3))


def test_a_decision_that_only_large_batches_turn_round_is_a_condition() -> None:
    model, captured = recorded(lambda x: x + 1 if x.shape[0] >= 64 else x * 2, 2, 6)
    assert [c.text for c in captured.conditions] == ["x.shape[0] < 64"]
    agrees(model, captured, 5, 6)


def test_a_decision_that_other_sizes_turn_round_fixes_the_size() -> None:
    _, captured = recorded(lambda x: x.sum(0) if x.shape[0] == 4 else x.sum(1), 4, 6)
    assert ("x", 0, 4) in captured.specialised


def test_a_loop_over_a_size_fixes_it() -> None:
    model, captured = recorded(
        lambda x: torch.stack([x[:, i] * i for i in range(x.shape[1])]), 4, 3
    )
    assert captured.specialised == (("x", 1, 3),)
    agrees(model, captured, 7, 3)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x / math.sqrt(x.shape[0]),
        lambda x: torch.cat(list(x)),
        lambda x: x * len(x),
        lambda x: x * {4: 1.0}.get(x.shape[0], 2.0),
    ],
)
def test_a_size_that_is_needed_at_once_is_fixed(function: Callable[[Tensor], Tensor]) -> None:
    model, captured = recorded(function, 4, 6)
    assert ("x", 0, 4) in captured.specialised
    agrees(model, captured, 4, 6)


def test_sizes_are_passed_on_as_nodes() -> None:
    def function(x: Tensor) -> Tensor:
        batch, height, width = x.shape
        padded = torch.zeros(batch, height + height % 3, width // 2)
        scale = (height * width) ** -0.5
        kept = x.new_ones(max(batch - 1, 1), round(width / 2))
        return padded.sum() + x[:, 1 : height - 1].sum() * scale + kept.sum() + x.numel()

    model, captured = recorded(function, 4, 7, 6)
    assert captured.dynamic
    assert not [name for name, *_ in captured.specialised]
    for shape in ((4, 7, 6), (9, 5, 8), (6, 8, 10)):
        agrees(model, captured, *shape)


def test_a_size_that_depends_on_data() -> None:
    model, captured = recorded(lambda x: x[x > 0].sum() / (x > 0).sum().item(), 4, 6)
    agrees(model, captured, 4, 6)
    agrees(model, captured, 9, 3)


_OPERATIONS: list[Callable[[object, int], object]] = [
    lambda size, k: size + k,  # type: ignore[operator]
    lambda size, k: k - size,  # type: ignore[operator]
    lambda size, k: size * k,  # type: ignore[operator]
    lambda size, k: size // k,  # type: ignore[operator]
    lambda size, k: size % k,  # type: ignore[operator]
    lambda size, k: -size,  # type: ignore[operator]
    lambda size, k: size / k,  # type: ignore[operator]
]


@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(_OPERATIONS), st.integers(1, 5)), min_size=1, max_size=4),
    st.tuples(st.integers(2, 9), st.integers(2, 9)),
    st.tuples(st.integers(2, 9), st.integers(2, 9)),
)
def test_any_arithmetic_holds_for_any_size(
    steps: list[tuple[Callable[[object, int], object], int]],
    shape: tuple[int, int],
    other: tuple[int, int],
) -> None:
    def function(x: Tensor) -> Tensor:
        number: object = x.shape[0]
        for operation, k in steps:
            number = operation(number, k)
        return x.sum() * number

    model, captured = recorded(function, *shape)
    agrees(model, captured, *other)
