"""The device map of Hugging Face accelerate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from partitioner.capture import Captured, capture, records
from partitioner.emit import device_map, placement_of_state
from partitioner.errors import PlanError
from tests.emit.side_by_side import blocks, captured
from tests.zoo import ZOO


@dataclass(frozen=True)
class Document:
    """As much of a plan document as the map is made from."""

    program: Any
    placement: dict[str, str]
    parameters: dict[str, str]


def map_of(recording: Captured, placement: dict[str, str]) -> dict[str, str]:
    document: Any = Document(
        records(recording), placement, placement_of_state(recording, placement)
    )
    return device_map(document)


def first_of(recording: Captured, path: str) -> str:
    return next(n for n, i in recording.nodes.items() if i.module_path.startswith(path))


def test_each_layer_of_a_split_model_is_named() -> None:
    recording = captured("seqnet")
    assert map_of(recording, blocks(recording, ["lin2"])) == {"lin1": "cuda:0", "lin2": "cuda:1"}


def test_everything_on_one_device_is_one_entry() -> None:
    recording = captured("residual_cnn")
    assert map_of(recording, blocks(recording, [])) == {"": "cuda:0"}


def test_whole_modules_are_named_by_the_shortest_prefix() -> None:
    recording = captured("residual_cnn")
    found = map_of(recording, blocks(recording, [first_of(recording, "layer2")]))
    assert found == {
        "stem": "cuda:0",
        "layer1": "cuda:0",
        "layer2": "cuda:1",
        "fc": "cuda:1",
    }


def test_tied_layers_are_where_they_are_called() -> None:
    recording = captured("language_model")
    found = map_of(recording, blocks(recording, [first_of(recording, "blocks.1")]))
    assert found["wte"] == "cuda:0"
    assert found["head"] == "cuda:1"
    assert found["blocks.0"] == "cuda:0"
    assert found["blocks.1"] == "cuda:1"
    names = set(ZOO["language_model"].build().state_dict())
    assert all(any(name.startswith(f"{path}.") for path in found) for name in names)


def test_a_module_that_joins_values_of_its_parts_cannot_be_split() -> None:
    recording = captured("residual_cnn")
    with pytest.raises(PlanError, match=r"module 'layer1\.0' is split inside"):
        map_of(recording, blocks(recording, [first_of(recording, "layer1.0.conv2")]))


def test_a_module_that_uses_a_parameter_itself_cannot_be_split() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(16))
            self.first = nn.Linear(16, 16)
            self.second = nn.Linear(16, 16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(x) * self.scale)

    recording = capture(Scaled(), (torch.ones(2, 16),), training=True)
    with pytest.raises(PlanError, match=r"split inside.*parameter 'scale'"):
        map_of(recording, blocks(recording, ["second"]))


def test_accelerate_runs_the_map() -> None:
    accelerate = pytest.importorskip("accelerate")
    recording = captured("residual_cnn")
    found = map_of(recording, blocks(recording, [first_of(recording, "layer2")]))
    model = ZOO["residual_cnn"].build()
    accelerate.utils.check_device_map(model, found)
