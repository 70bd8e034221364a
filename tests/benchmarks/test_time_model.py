"""The benchmark of predicted against measured times."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks.time_model import compared, step_of, without
from cost_models import MeasuredCostModel
from tests.zoo import ZOO


@pytest.mark.parametrize("name", ["mlp", "hf_gpt2_labels"])
def test_a_step_leaves_a_gradient_of_every_parameter(name: str) -> None:
    model = ZOO[name].build().train()
    step_of(ZOO[name], model, 4)()
    used = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None and bool(torch.any(gradient != 0)) for gradient in used)


def test_predicted_and_measured_are_of_one_step() -> None:
    cost_model = MeasuredCostModel()
    cost_model.measure(nn.Tanh(), "cpu", torch.zeros(3), training=False)
    before = set(cost_model.measurements["generic-cpu"])
    plan, noted, measured = compared(ZOO["mlp"], cost_model, 8)
    assert measured > 0
    assert plan.mode == "train"
    assert plan.step_seconds > 0
    assert set(without(cost_model, noted.signatures).measurements["generic-cpu"]) == before
