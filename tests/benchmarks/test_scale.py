"""Generated problems: their shape, and that every case gets a sane plan."""

from __future__ import annotations

import json

import pytest

from benchmarks.scale import FAMILIES, Case, generate, growth, main


@pytest.mark.parametrize("family", FAMILIES)
def test_generated_problems_repeat_and_are_in_execution_order(family: str) -> None:
    case = Case(family, 150, 4, "throughput", ordered=True)
    problem = generate(case)
    assert problem == generate(case)
    assert len(problem.nodes) == 150
    assert all(flow.source < target for flow in problem.flows for target in flow.targets)
    assert {target for flow in problem.flows for target in flow.targets} == set(range(1, 150))


def test_smoke(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--smoke", "--family", "repeated_blocks"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["nodes"], row["devices"]) for row in rows] == [(100, 2), (400, 4)]
    for row in rows:
        assert row["bound"] <= row["value"]
        assert row["gap"] == pytest.approx(1 - row["bound"] / row["value"])
        assert row["peak_rss_nbytes"] > 1e6


def test_growth_is_the_slope_in_the_logarithms() -> None:
    common = {"family": "unet", "devices": 8, "objective": "throughput", "ordered": True}
    rows = [
        {**common, "nodes": nodes, "cpu_seconds": seconds}
        for nodes, seconds in ((100, 9.0), (1_000, 2.0), (100_000, 200.0))
    ]
    assert [line["growth_exponent"] for line in growth(rows)] == [pytest.approx(1.0)]
