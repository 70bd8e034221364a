"""The emitted source: it reads well, stands alone, and computes what the original does."""

from __future__ import annotations

import ast
import dataclasses
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor, nn

from partitioner.capture import Captured, Program, capture, captured_of, records
from partitioner.emit import source, source_of
from partitioner.errors import PlanError
from partitioner.virtual import virtual_gpus
from tests.emit.side_by_side import (
    DEVICES,
    Outcome,
    assert_close,
    assert_same,
    blocks,
    captured,
    scattered,
    step,
)
from tests.zoo import ZOO


@dataclass(frozen=True)
class Document:
    """As much of a plan document as the source is written from."""

    program: Program
    placement: dict[str, str]


def through_json(recording: Captured) -> Program:
    """The program of a recording, as it is read back from a file."""
    return msgspec.json.decode(msgspec.json.encode(records(recording)), type=Program)


def text_of(recording: Captured, placement: dict[str, str]) -> str:
    document: Any = Document(through_json(recording), placement)
    return source(document)


def made(text: str, recording: Captured) -> nn.Module:
    space: dict[str, Any] = {}
    exec(compile(text, "placed.py", "exec"), space)
    module: nn.Module = space[recording.model_class.rpartition(".")[2]]()
    return module


def test_seqnet_reads_like_the_hand_split(golden: Callable[[str, str], None]) -> None:
    recording = captured("seqnet")
    golden("seqnet.py.txt", text_of(recording, blocks(recording, ["lin2"])))


def test_a_language_model_with_a_tied_head(golden: Callable[[str, str], None]) -> None:
    recording = captured("language_model")
    cut = next(name for name in recording.nodes if name.startswith("blocks_1"))
    golden("language_model.py.txt", text_of(recording, blocks(recording, [cut])))


@pytest.mark.parametrize(
    "name",
    [
        "seqnet",
        "mlp",
        "residual_cnn",
        "language_model",
        "hf_gpt2",
        "hf_bert_labels",
        "hf_llama_no_cache",
        "autocast",
        "auxiliary_head",
        "called_twice",
        "checkpointed",
        "counter",
        "dataclass_output",
        "dict_input",
        "factories",
        "frozen_part",
        "functional_dropout",
        "in_place",
        "list_input",
        "mixed_inputs",
        "named_tuple_output",
        "no_grad_part",
        "pieces",
        "plain_tensor",
        "recurrent",
        "shared_submodule",
        "tied",
    ],
)
def test_the_source_computes_what_the_original_does(name: str) -> None:
    case, recording = ZOO[name], captured(name)
    text = text_of(recording, scattered(recording, random.Random(3)))
    original = case.build()
    with virtual_gpus(3):
        placed = made(text, recording)
        assert set(placed.state_dict()) == set(original.state_dict())
        placed.load_state_dict(original.state_dict())
        for mode in (True, False):
            expected = step(original, case, training=mode)
            assert_same(ordered(expected, placed), step(placed, case, training=mode))


def ordered(outcome: Outcome, module: nn.Module) -> Outcome:
    """The outcome with its state in the order of another module's."""
    return dataclasses.replace(
        outcome, state={name: outcome.state[name] for name in module.state_dict()}
    )


def test_the_source_trains_like_the_original() -> None:
    case, recording = ZOO["tied"], captured("tied")
    original = case.build()
    with virtual_gpus(3):
        placed = made(text_of(recording, scattered(recording, random.Random(5))), recording)
        placed.load_state_dict(original.state_dict())
        optimizers = [torch.optim.Adam(m.parameters()) for m in (original, placed)]
        for _ in range(3):
            losses = [m(*case.args()).square().mean() for m in (original, placed)]
            assert_close(losses[0].detach(), losses[1].detach().to("cpu"))
            for optimizer, loss in zip(optimizers, losses, strict=True):
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()


@pytest.mark.parametrize("name", ["hf_llama_labels", "language_model_loss", "transformer_encoder"])
def test_the_source_is_tidy(name: str) -> None:
    recording = captured(name)
    text = source_of(recording, scattered(recording, random.Random(2)))
    ast.parse(text)
    assert max(map(len, text.splitlines())) <= 100
    assert not any(line != line.rstrip() for line in text.splitlines())
    assert text == source_of(recording, scattered(recording, random.Random(2)))


def test_every_parameter_is_made_on_its_device_at_once() -> None:
    recording = captured("residual_cnn")
    with virtual_gpus(3) as gpus:
        made(source_of(recording, scattered(recording, random.Random(4))), recording)
        assert gpus.transfers == []


def test_values_outside_of_the_state_dict_are_written_down() -> None:
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.randn(40, 16), persistent=False)
            self.register_buffer("few", torch.tensor([1.5, float("inf")]), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.table.T * self.few[0] + self.few[1]

    model = Table()
    recording = capture(model, (torch.randn(2, 16),), training=False)
    text = text_of(recording, dict.fromkeys(recording.nodes, "cuda:1"))
    with virtual_gpus(2):
        placed = made(text, recording)
        x = torch.randn(3, 16)
        assert torch.equal(placed(x).to("cpu"), model(x))


def test_a_value_that_is_nowhere_is_refused_by_name() -> None:
    class Mask(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mask", torch.ones(16), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            return x * self.mask

    with torch.device("meta"):
        model = Mask()
    recording = capture(model, (torch.randn(2, 16),), training=False)
    with pytest.raises(PlanError, match=r"'mask'.*persistent buffer"):
        text_of(recording, dict.fromkeys(recording.nodes, "cuda:0"))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("data_dependent_part", "'gate'"),
        ("data_dependent_root", "own code"),
        ("weight_norm", "'first'"),
    ],
)
def test_what_cannot_be_written_is_refused_with_a_way_out(name: str, told: str) -> None:
    recording = captured(name)
    with pytest.raises(PlanError, match=rf"{told}.*Plan\.apply"):
        text_of(recording, blocks(recording, []))


def test_the_source_refuses_another_call_than_was_recorded() -> None:
    recording = captured("mixed_inputs")
    with virtual_gpus(1):
        placed = made(text_of(recording, dict.fromkeys(recording.nodes, DEVICES[0])), recording)
        with pytest.raises(ValueError, match="repeats == 2"):
            placed(torch.randn(4, 16), None, 3, True, style="mean")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_class", "os;import os"),
        ("model_class", "a.b.class"),
    ],
)
def test_names_that_are_no_names_are_refused(field: str, value: str) -> None:
    recording = captured("seqnet")
    program = msgspec.structs.replace(through_json(recording), **{field: value})
    document: Any = Document(program, blocks(recording, []))
    with pytest.raises(PlanError, match="no name"):
        source(document)


def test_a_layer_of_another_library_is_not_written() -> None:
    recording = captured("seqnet")
    program = through_json(recording)
    layers = {
        path: msgspec.structs.replace(layer, kind="os.system")
        for path, layer in program.layers.items()
    }
    document: Any = Document(msgspec.structs.replace(program, layers=layers), blocks(recording, []))
    with pytest.raises(PlanError, match=r"os\.system"):
        source(document)


def test_reading_a_program_twice_gives_the_same_source() -> None:
    recording = captured("hf_gpt2_no_cache")
    placement = scattered(recording, random.Random(8))
    program = through_json(recording)
    assert source_of(captured_of(program), placement) == source_of(recording, placement)
