"""Every model of the zoo: its graph does what it does, and the model is left alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from partitioner.capture import capture
from tests.capture.side_by_side import assert_same, captured_case
from tests.zoo import HAND_SPLIT, ZOO

HELD = {name: case for name, case in ZOO.items() if name != "data_dependent_root"}
"""Models that a graph stands for. Of the other it is one way: see `emit/test_emit_sketch.py`."""


@pytest.mark.parametrize("name", HELD)
def test_the_graph_computes_what_the_model_does(name: str) -> None:
    case, captured = ZOO[name], captured_case(name)
    for training in (True, False):
        assert_same(captured, case.build, case.args(), case.kwargs(), training=training)


@pytest.mark.parametrize("name", [name for name, case in HELD.items() if case.batched])
def test_the_graph_holds_for_another_batch_size(name: str) -> None:
    case, captured = ZOO[name], captured_case(name)
    assert captured.dynamic
    assert_same(captured, case.build, case.args(3), case.kwargs(3), training=True)


@pytest.mark.parametrize("name", ["seqnet", "counter", "called_twice", "weight_norm", "hf_gpt2"])
def test_the_original_is_left_as_it_was(name: str) -> None:
    case = ZOO[name]
    model = case.build()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    before = {path: set(vars(module)) for path, module in model.named_modules()}
    random = torch.get_rng_state()
    capture(model, case.args(), case.kwargs(), training=False)
    assert model.training
    assert {path: set(vars(module)) for path, module in model.named_modules()} == before
    assert all(parameter.grad is None for parameter in model.parameters())
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, state[key])
    case.args()
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("name", ["seqnet", "residual_cnn", "language_model", "hf_llama"])
def test_a_model_without_data_gives_the_same_graph(name: str) -> None:
    case = ZOO[name]
    with torch.device("meta"):
        model = case.build()
    captured = capture(model, case.args(), case.kwargs(), training=True)
    assert str(captured.graph) == str(captured_case(name).graph)
    assert captured.nodes == captured_case(name).nodes


def test_devices_in_the_models_text_are_gone() -> None:
    captured = capture(HAND_SPLIT.build(), HAND_SPLIT.args(), training=True)
    assert "cuda" not in str(captured.graph)
    [root] = captured.calls
    assert not root.foldable

    def build() -> nn.Module:
        model = HAND_SPLIT.build()
        return nn.Sequential(model.first, nn.ReLU(), model.second)

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, _, self.second = build()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(torch.relu(self.first(x)))

    model = Plain()
    from partitioner.capture import GraphRun

    x = HAND_SPLIT.args()[0]
    torch.testing.assert_close(GraphRun(model, captured).call(x), model(x))
