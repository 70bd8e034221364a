"""Decisions by positions that a model has made itself: known, without its data."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn

from partitioner.capture import Captured, capture
from tests.zoo import ZOO

Make = Callable[[Tensor], Tensor]


class Packed(nn.Module):
    """Looks into its positions, as Hugging Face's decoders do, for several sequences in a row."""

    def __init__(self, make: Make, before: Make = lambda positions: positions[:, :1] - 1) -> None:
        super().__init__()
        self.make = make
        self.before = before

    def forward(self, x: Tensor) -> Tensor:
        positions = self.make(x)
        difference = torch.diff(positions, prepend=self.before(positions), dim=-1)
        sequence = (difference != 1).cumsum(-1)
        if (sequence[:, -1] == 0).all():
            return x * 2
        return x + sequence


def _changed(x: Tensor) -> Tensor:
    positions = torch.arange(x.size(1))
    positions[-1] = 0
    return positions.unsqueeze(0)


IN_A_ROW: dict[str, Make] = {
    "arange": lambda x: torch.arange(x.size(1)).unsqueeze(0),
    "offset": lambda x: (torch.arange(x.size(1), device=x.device) + 3).unsqueeze(0),
    "expanded": lambda x: torch.arange(2, x.size(1) + 2).unsqueeze(0).expand(x.size(0), -1),
}
NOT_IN_A_ROW: dict[str, Make] = {
    "steps of two": lambda x: torch.arange(0, 2 * x.size(1), 2).unsqueeze(0),
    "down a column": lambda x: torch.arange(x.size(1)).unsqueeze(1),
    "changed": _changed,
    "plus a tensor": lambda x: torch.arange(x.size(1)).unsqueeze(0) + x[:1].long(),
    "of its input": lambda x: x.long(),
    "too coarse": lambda x: torch.arange(x.size(1), dtype=torch.bfloat16).unsqueeze(0),
    "too narrow": lambda x: torch.arange(x.size(1), dtype=torch.int8).unsqueeze(dim=0),
}
OTHER_BEGINNINGS: dict[str, Make] = {
    "all of the row": lambda positions: positions[:1] - 1,
    "less two": lambda positions: positions[:, :1] - 2,
    "the second": lambda positions: positions[:, 1:2] - 1,
}


@pytest.mark.parametrize("name", IN_A_ROW)
def test_positions_in_a_row_are_known_to_be_so(name: str) -> None:
    model = Packed(IN_A_ROW[name])
    captured = capture(model, (torch.ones(2, 5),), training=False)
    assert not captured.opaque
    assert [node.name for node in captured.graph.nodes] == ["x", "mul", "output"]
    for size in (3, 9):
        x = torch.rand(4, size)
        result = fx.Interpreter(fx.GraphModule(nn.Module(), captured.graph)).run(x)
        assert torch.equal(result, model(x))


@pytest.mark.parametrize("name", NOT_IN_A_ROW)
def test_of_others_nothing_is_claimed(name: str) -> None:
    captured = capture(Packed(NOT_IN_A_ROW[name]), (torch.ones(2, 5),), training=False)
    assert "decides by its data" in captured.opaque[""]


@pytest.mark.parametrize("name", OTHER_BEGINNINGS)
def test_what_goes_before_them_counts(name: str) -> None:
    model = Packed(IN_A_ROW["arange"], OTHER_BEGINNINGS[name])
    captured = capture(model, (torch.ones(2, 5),), training=False)
    assert "decides by its data" in captured.opaque[""]


def _masks(captured: Captured) -> list[object]:
    return [
        node.kwargs.get("attn_mask")
        for node in captured.graph.nodes
        if node.target is nn.functional.scaled_dot_product_attention
    ]


def test_decoders_are_recorded_without_the_mask_that_eager_mode_is_spared() -> None:
    case = ZOO["hf_llama_no_cache"]
    model, kwargs = case.build(), case.kwargs()
    assert set(_masks(capture(model, (), kwargs, training=True))) == {None}
    tokens = kwargs["input_ids"]
    given = {**kwargs, "position_ids": torch.arange(tokens.size(1)).expand_as(tokens)}
    assert None not in _masks(capture(model, (), given, training=True))
