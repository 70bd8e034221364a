"""`example_call`: the call that is recorded where the user gives none, or only half of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from partitioner.capture import capture, example_call
from partitioner.errors import CaptureError
from tests.zoo import HAND_SPLIT, ZOO, SeqNet


def shapes(model: nn.Module) -> list[tuple[int, ...]]:
    args, kwargs = example_call(model)
    return [tuple(value.shape) for value in (*args, *kwargs.values())]


def test_what_the_user_gives_is_taken() -> None:
    x, y = torch.zeros(2), torch.zeros(3)
    model = SeqNet()
    assert example_call(model, x) == ((x,), {})
    assert example_call(model, (x, y)) == ((x, y), {})
    assert example_call(model, [x, y]) == ((x, y), {})
    assert example_call(model, {"x": x}) == ((), {"x": x})
    assert example_call(model, x, {"y": y}) == ((x,), {"y": y})
    assert example_call(model, None, {"y": y}) == ((), {"y": y})
    with pytest.raises(CaptureError, match="'x' is in example_inputs and in example_kwargs"):
        example_call(model, {"x": x}, {"x": x})


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        ("seqnet", (784,)),
        ("mlp", (16,)),
        ("residual_cnn", (3, 224, 224)),
        ("transformer_encoder", (16, 16)),
        ("recurrent", (16, 16)),
        ("language_model", (16,)),
    ],
)
def test_the_first_layer_tells_the_shape(name: str, ending: tuple[int, ...]) -> None:
    model = ZOO[name].build()
    [shape] = shapes(model)
    assert shape[1:] == ending
    args, kwargs = example_call(model)
    capture(model, args, kwargs, training=True)


def test_an_image_of_the_size_that_fits() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 26 * 26, 10))
    [shape] = shapes(model)
    assert shape[1:] == (1, 28, 28)


def test_tokens_fit_a_short_table_of_positions() -> None:
    from tests.zoo import LanguageModel

    model = LanguageModel(context=8)
    args, _ = example_call(model)
    assert args[0].dtype == torch.int64
    model(*args)


def test_a_model_written_for_gpus() -> None:
    assert shapes(HAND_SPLIT.build())[0][1:] == (16,)


def test_hugging_face_models_offer_inputs() -> None:
    args, kwargs = example_call(ZOO["hf_bert"].build())
    assert args == ()
    assert kwargs["input_ids"].dtype == torch.int64


def test_lightning_models_offer_inputs() -> None:
    class Offers(nn.Module):
        example_input_array: Any = (torch.zeros(5, 3), torch.ones(5, 3))

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 1)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.layer(a + b)

    assert shapes(Offers()) == [(5, 3), (5, 3)]


@pytest.mark.parametrize("name", ["dict_input", "keyword_only", "mixed_inputs", "list_input"])
def test_what_cannot_be_told_is_asked_for(name: str) -> None:
    with pytest.raises(CaptureError, match=r"pass example_inputs.*forward\("):
        example_call(ZOO[name].build())
