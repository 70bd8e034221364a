"""The roofline's arithmetic."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cost_models import DEVICE_KINDS, CostModelError, OperatorCall, RooflineCostModel

A100 = DEVICE_KINDS["a100-40gb"]
IDEAL = RooflineCostModel(compute_efficiency=1.0, memory_efficiency=1.0, launch_seconds=0.0)


def call(
    flops: int = 0, nbytes: int = 0, dtype: str = "float32", operator: str = "aten.mm.default"
) -> OperatorCall:
    return OperatorCall(operator, f"{operator}({flops}, {nbytes})", dtype, flops, nbytes, True)


def test_the_tighter_limit_decides_and_the_launch_is_added() -> None:
    compute, memory = call(flops=int(19.5e12), nbytes=1), call(flops=1, nbytes=int(1555e9))
    assert IDEAL.seconds(compute, A100) == pytest.approx(1.0)
    assert IDEAL.seconds(memory, A100) == pytest.approx(1.0)
    assert RooflineCostModel().seconds(call(), A100) == A100.launch_seconds
    assert RooflineCostModel(launch_seconds=1e-3).seconds(call(), A100) == 1e-3


def test_efficiency_stretches_time() -> None:
    slow = RooflineCostModel(compute_efficiency=0.5, memory_efficiency=0.25, launch_seconds=0.0)
    assert slow.seconds(call(flops=int(19.5e12)), A100) == pytest.approx(2.0)
    assert slow.seconds(call(nbytes=int(1555e9)), A100) == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("kind", "dtype", "peak_of"),
    [
        ("a100-40gb", "bfloat16", "bfloat16"),
        ("v100-16gb", "bfloat16", "float32"),
        ("a100-40gb", "complex64", "float32"),
        ("a100-40gb", "float8_e4m3fn", "bfloat16"),
        ("a100-40gb", "int64", "float32"),
        ("epyc-7763", "float16", "float32"),
    ],
)
def test_a_missing_dtype_falls_back(kind: str, dtype: str, peak_of: str) -> None:
    figures = DEVICE_KINDS[kind]
    work = call(flops=10**12, dtype=dtype)
    expected = 10**12 / figures.flops_per_second[peak_of]
    assert IDEAL.seconds(work, figures) == pytest.approx(expected)


def test_float32_convolutions_round_to_tf32_and_products_do_not_as_pytorch_has_it() -> None:
    product = call(flops=10**12)
    convolution = call(flops=10**12, operator="aten.convolution.default")
    assert IDEAL.seconds(product, A100) == pytest.approx(1e12 / 19.5e12)
    assert IDEAL.seconds(convolution, A100) == pytest.approx(1e12 / 156e12)
    exact = replace(IDEAL, tfloat32_convolutions=False)
    assert exact.seconds(convolution, A100) == IDEAL.seconds(product, A100)
    rounded = replace(IDEAL, tfloat32_products=True)
    assert rounded.seconds(product, A100) == IDEAL.seconds(convolution, A100)


@pytest.mark.parametrize(
    "wrong",
    [
        {"compute_efficiency": 0.0},
        {"compute_efficiency": 1.5},
        {"memory_efficiency": -1.0},
        {"launch_seconds": -1e-6},
    ],
)
def test_senseless_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(CostModelError, match=next(iter(wrong))):
        RooflineCostModel(**wrong)  # type: ignore[arg-type]


def test_a_kind_without_peaks_is_refused_with_what_to_do() -> None:
    blind = replace(A100, name="blind", flops_per_second={"int8": 1e12})
    with pytest.raises(CostModelError, match=r"'blind' has no peak for 'float64', only for int8"):
        IDEAL.seconds(call(flops=1, dtype="float64"), blind)
