"""The benchmark of what a placed module costs."""

from __future__ import annotations

import pytest

from benchmarks.overhead import RUNS, cases, measure, variants

CASES = {case.name: case for case in cases()}


@pytest.mark.parametrize("name", ["SeqNet, batch 64", "ResNet"])
def test_all_ways_compute_the_same_on_the_same_weights(name: str) -> None:
    case = CASES[name]
    made = variants(case, training=False)
    assert list(made) == ["original", "again", "one", "by hand", "split", "accelerate"]
    weights = [next(module.parameters()).data_ptr() for module in made.values()]
    assert len(set(weights)) == 1


@pytest.mark.parametrize("run", RUNS)
def test_it_measures_each_way(run: str) -> None:
    found = measure(CASES["SeqNet, batch 1"], run, run_seconds=0.05)
    assert list(found.ratios) == ["again", "one", "split", "accelerate"]
    assert found.seconds > 0
    assert all(0 < ratio.low <= ratio.median <= ratio.high for ratio in found.ratios.values())
