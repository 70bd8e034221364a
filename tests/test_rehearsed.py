"""Plans whose linear rows pass the limits, though the placed module stays within them."""

from __future__ import annotations

import pytest

from partitioner import Cluster, InfeasibleError, plan
from partitioner.capture import example_call
from partitioner.options import Options
from partitioner.placement import peak_nbytes
from partitioner.priced import priced
from partitioner.verify import verify
from tests.zoo import ZOO

CASES = {
    "residual_cnn": (None, {"cuda:0": 821_760, "cuda:1": 821_760}),
    "named_tuple_output": ("sgd", {"cuda:0": 15_293, "cuda:1": 3_108}),
}


@pytest.mark.parametrize("name", CASES)
def test_a_plan_is_found_that_the_rows_refuse(name: str) -> None:
    optimizer, limits = CASES[name]
    case, mode = ZOO[name], "train" if optimizer else "inference"
    model = case.build().train(mode == "train")
    args = case.args(32)
    found = plan(
        model, list(limits), args, mode=mode, optimizer=optimizer, memory=limits, objective="memory"
    )
    report = verify(model, found, args)
    assert report.passed
    assert all(peak <= limits[name] for name, peak in report.measured_peak_nbytes.items())
    assert found.certificate.bound <= found.certificate.objective
    cluster = Cluster.of(list(limits), limits)
    options = Options(mode=mode, optimizer=optimizer, objective="memory")
    rows = peak_nbytes(
        priced(model, cluster, example_call(model, args, {}), options).graph, found.placement
    )
    assert any(rows[name] > limit for name, limit in limits.items())


def test_what_does_not_fit_in_truth_is_refused_still() -> None:
    case = ZOO["named_tuple_output"]
    with pytest.raises(InfeasibleError, match="no placement fits"):
        plan(case.build(), "2x8KiB", case.args(32), mode="train", optimizer="sgd")
