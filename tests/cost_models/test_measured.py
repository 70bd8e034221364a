"""Measuring, saving, loading, and what happens to calls that were not measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from cost_models import (
    DEVICE_KINDS,
    CostModelError,
    MeasuredCostModel,
    Measurement,
    OperatorCall,
    RooflineCostModel,
    local_device,
    observe,
)

CPU = local_device("cpu")
assert CPU is not None


@pytest.fixture(scope="module")
def measured() -> MeasuredCostModel:
    layers = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU())
    return MeasuredCostModel().measure(layers, "cpu", torch.randn(4, 16))


def test_equal_calls_are_measured_once(measured: MeasuredCostModel) -> None:
    table = measured.measurements["generic-cpu"]
    assert sum(signature.startswith("aten.addmm") for signature in table) == 1
    assert sum(signature.startswith("aten.threshold_backward") for signature in table) == 1
    assert measured.skipped == {}
    assert all(entry.median_seconds > 0 and entry.runs >= 5 for entry in table.values())


def test_a_measured_call_costs_what_was_measured(measured: MeasuredCostModel) -> None:
    (call,) = observe(nn.Linear(16, 16), (torch.randn(4, 16),)).forward
    entry = measured.measurements["generic-cpu"][call.signature]
    overhead = measured.overhead_seconds["generic-cpu"]
    assert measured.seconds(call, CPU) == entry.median_seconds + overhead


def measured_calls(layers: int) -> MeasuredCostModel:
    """The measurements of a transformer's training step."""
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
    return MeasuredCostModel().measure(model, "cpu", torch.randn(2, 4, 16))


def test_a_deep_model_costs_no_more_measuring_than_a_shallow_one() -> None:
    shallow, deep = measured_calls(2), measured_calls(8)
    tables = [model.measurements["generic-cpu"] for model in (shallow, deep)]
    assert tables[0].keys() == tables[1].keys()
    assert len(tables[0]) > 10


def test_measuring_again_adds_only_what_is_new(measured: MeasuredCostModel) -> None:
    seen: list[str] = []
    before = dict(measured.measurements["generic-cpu"])
    measured.measure(
        nn.Linear(16, 16),
        "cpu",
        {"input": torch.randn(4, 16)},
        training=False,
        progress=lambda done, total, operator: seen.append(operator),
    )
    assert seen == []
    assert measured.measurements["generic-cpu"] == before


def test_what_was_not_measured_is_priced_by_a_fitted_roofline() -> None:
    kind = DEVICE_KINDS["a100-40gb"]
    half_speed = {
        "tiny": Measurement(8e-6, 0.0, 9, 0, 512, "float32"),
        "product": Measurement(8e-6 + 2.0, 0.0, 9, int(19.5e12), 1, "float32"),
        "copy": Measurement(8e-6 + 4.0, 0.0, 9, 0, int(1555e9), "float32"),
    }
    model = MeasuredCostModel({kind.name: half_speed})
    product = OperatorCall("aten.mm.default", "new", "float32", int(19.5e12), 1, True)
    copy = OperatorCall("aten.clone.default", "new too", "float32", 0, int(1555e9), False)
    assert model.seconds(product, kind) == pytest.approx(2.0, rel=1e-3)
    assert model.seconds(copy, kind) == pytest.approx(4.0, rel=1e-3)
    other = DEVICE_KINDS["t4"]
    assert model.seconds(product, other) == RooflineCostModel().seconds(product, other)


def test_an_operator_that_was_measured_is_fitted_by_its_own_calls() -> None:
    """Random numbers and activations compute more than their bytes tell."""
    kind = DEVICE_KINDS["a100-40gb"]
    byte_seconds = 1e-9

    def copied(nbytes: int, times: float) -> Measurement:
        return Measurement(times * nbytes * byte_seconds, 0.0, 9, 0, nbytes, "float32")

    table = {f"aten.clone.default(float32[{n}])": copied(n, 1.0) for n in (10**7, 10**8, 10**9)}
    table |= {f"aten.tanh.default(float32[{n}])": copied(n, 5.0) for n in (10**7, 10**9)}
    model = MeasuredCostModel({kind.name: table})

    def priced(operator: str) -> float:
        call = OperatorCall(operator, f"{operator}(new)", "float32", 0, 10**8, False)
        return model.seconds(call, kind)

    assert priced("aten.clone.default") == pytest.approx(1e8 * byte_seconds, rel=0.01)
    assert priced("aten.tanh.default") == pytest.approx(5e8 * byte_seconds, rel=0.01)
    assert priced("aten.relu.default") == pytest.approx(1e8 * byte_seconds, rel=0.01)


def test_saved_and_loaded_it_is_the_same(measured: MeasuredCostModel, tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    measured.save(path)
    loaded = MeasuredCostModel.load(path)
    assert loaded.measurements == measured.measurements
    assert loaded.overhead_seconds == measured.overhead_seconds
    assert loaded.to_json() == path.read_text() == measured.to_json()
    kind = replace(CPU, name="t4")
    for seen in (observe(nn.Linear(16, 16), (torch.randn(n, 16),)).forward[0] for n in (4, 5)):
        for where in (CPU, kind):
            assert loaded.seconds(seen, where) == measured.seconds(seen, where)
            assert loaded.is_measured(seen, where) == (where is CPU and "4, 16" in seen.signature)
    assert [entry.name for entry in tmp_path.iterdir()] == ["costs.json"]


ENTRY = {
    "median_seconds": 1e-6,
    "spread_seconds": 0.0,
    "runs": 5,
    "flops": 0,
    "nbytes": 4,
    "dtype": "float32",
}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no JSON"),
        ("[]", "schema None"),
        ('{"schema": 99}', "schema 99, this version reads 1"),
        ('{"schema": 1}', "'measurements' must be an object"),
        ('{"schema": 1, "measurements": {}}', "'overhead_seconds' must be an object"),
        ('{"schema": 1, "measurements": {"t4": 3}, "overhead_seconds": {}}', "t4' must be"),
        ('{"schema": 1, "measurements": {}, "overhead_seconds": {"t4": -1}}', "number from 0 on"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "damaged.json"
    path.write_text(text)
    with pytest.raises(CostModelError, match=message):
        MeasuredCostModel.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"runs": "5"}, "'runs' must be int"),
        ({"runs": True}, "'runs' must be int"),
        ({"median_seconds": -1.0}, "number from 0 on"),
        ({"median_seconds": float("nan")}, "number from 0 on"),
        ({"extra": 1}, "exactly the keys"),
    ],
)
def test_a_damaged_entry_is_refused(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    document = {
        "schema": 1,
        "measurements": {"t4": {"aten.add.Tensor()": {**ENTRY, **change}}},
        "overhead_seconds": {},
    }
    path = tmp_path / "damaged.json"
    path.write_text(json.dumps(document))
    with pytest.raises(CostModelError, match=message):
        MeasuredCostModel.load(path)


def test_a_missing_file_and_a_missing_device_are_reported(tmp_path: Path) -> None:
    with pytest.raises(CostModelError, match="cannot be read"):
        MeasuredCostModel.load(tmp_path / "nothing.json")
    with pytest.raises(CostModelError, match="no device 'cuda:99'"):
        MeasuredCostModel().measure(nn.Linear(2, 2), "cuda:99", torch.randn(1, 2))


def test_operators_that_cannot_run_on_made_up_values_are_skipped_and_named() -> None:
    bags = nn.EmbeddingBag(8, 4)
    model = MeasuredCostModel().measure(bags, "cpu", torch.zeros(3, 2, dtype=torch.int64))
    assert any("embedding_bag" in signature for signature in model.skipped)
    assert all("embedding_bag" in signature for signature in model.skipped)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_fused_recurrent_layers_are_measured(bidirectional: bool) -> None:
    """Their backward asks for a workspace of the forward; unmeasured, they were priced by bytes."""
    layer = nn.LSTM(4, 4, num_layers=2, bidirectional=bidirectional)
    model = MeasuredCostModel().measure(layer, "cpu", torch.randn(3, 2, 4))
    assert model.skipped == {}
    assert any("rnn_layer_backward" in name for name in model.measurements["generic-cpu"])
