"""Models and inputs out of texts."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from partitioner.errors import SpecError
from partitioner.loading import load_inputs, load_model, parse_inputs, with_values


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module `mine` in the current folder."""
    path = tmp_path / "mine.py"
    path.write_text(
        "import torch\n"
        "class Net(torch.nn.Linear):\n"
        "    def __init__(self, size=3): super().__init__(size, size)\n"
        "def build(): return Net(5)\n"
        "ready = Net(7)\n"
        "class Holder: inner = ready\n"
        "pair = (torch.ones(2), 3)\n"
        "def keywords(): return {'x': torch.ones(1)}\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    return path


@pytest.mark.parametrize(
    ("reference", "features"),
    [("mine:Net", 3), ("mine:build", 5), ("mine:ready", 7), ("mine:Holder.inner", 7)],
)
def test_a_model_is_a_class_a_function_or_an_instance(
    module: Path, reference: str, features: int
) -> None:
    model = load_model(reference)
    assert isinstance(model, nn.Linear)
    assert model.in_features == features


def test_equal_seeds_give_equal_weights(module: Path) -> None:
    first, second, other = (load_model("mine:build", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.weight, second.weight)
    assert not torch.equal(first.weight, other.weight)


def test_inputs_are_what_a_name_gives(module: Path) -> None:
    args, kwargs = load_inputs("mine:pair")
    assert (len(args), args[1], kwargs) == (2, 3, {})
    args, kwargs = load_inputs("mine:keywords")
    assert (args, list(kwargs)) == ((), ["x"])


def test_inputs_from_texts() -> None:
    args, kwargs = parse_inputs(["f32[64,1,28,28]", "ids = i64[2, 128]", "bf16[]", "mask=bool[3]"])
    assert [(tuple(a.shape), a.dtype) for a in args] == [
        ((64, 1, 28, 28), torch.float32),
        ((), torch.bfloat16),
    ]
    assert {name: (tuple(t.shape), t.dtype) for name, t in kwargs.items()} == {
        "ids": ((2, 128), torch.int64),
        "mask": ((3,), torch.bool),
    }
    assert parse_inputs(["float64[1]"])[0][0].dtype == torch.float64


@pytest.mark.parametrize(
    "text", ["", "f32", "f32[", "f32[-1]", "f32[a]", "f32(3)", "3[f32]", "x=y=f32[1]", "f32[1.5]"]
)
def test_inputs_in_another_form_are_told(text: str) -> None:
    with pytest.raises(SpecError, match=r"write it as f32\[64,1,28,28\]"):
        parse_inputs([text])


def test_values_are_valid_for_every_embedding() -> None:
    model = nn.ModuleList([nn.Embedding(50, 2), nn.Embedding(7, 2)])
    call = parse_inputs(["i64[1000]", "mask=bool[4]", "f16[8]"])
    (ids, numbers), kwargs = with_values(call, model, seed=0)
    assert (int(ids.min()), int(ids.max())) == (0, 6)
    assert kwargs["mask"].all()
    assert (numbers.dtype, numbers.device.type) == (torch.float16, "cpu")
    again = with_values(call, model, seed=0)
    assert torch.equal(again[0][0], ids)


def test_tensors_with_data_are_left_alone() -> None:
    given = torch.arange(3)
    assert with_values(((given, "text"), {}), nn.Identity())[0][0] is given


def test_a_configuration_becomes_a_model_of_its_architecture(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    config = {"model_type": "gpt2", "n_layer": 1, "n_embd": 8, "n_head": 2, "vocab_size": 16}
    path = tmp_path / "config.json"
    for architectures, name in ((["GPT2Model"], "GPT2Model"), (None, "GPT2LMHeadModel")):
        path.write_text(json.dumps(config | {"architectures": architectures}))
        model = load_model(f"hf:{tmp_path}")
        assert type(model).__name__ == name
        assert all(parameter.is_meta for parameter in model.parameters())
        assert not model.config.use_cache
        real = load_model(f"hf:{path}", materialised=True)
        assert not any(parameter.is_meta for parameter in real.parameters())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "not a JSON document"),
        ("[]", "no Hugging Face configuration"),
        ("{}", "no 'model_type'"),
        ('{"model_type": "gpt22"}', "did you mean 'gpt2'"),
        ('{"model_type": "gpt2", "architectures": ["GPT3"]}', "has no 'GPT3'"),
        ('{"model_type": "gpt2", "n_embd": 10, "n_head": 3}', "ValueError"),
    ],
)
def test_a_configuration_that_is_none_is_told(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(SpecError, match=expected):
        load_model(f"hf:{tmp_path}")
