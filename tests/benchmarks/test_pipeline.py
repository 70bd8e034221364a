"""The benchmarks of pipelines: they run, and their splits are splits."""

from __future__ import annotations

import pytest

from benchmarks import pipeline, timetables


def test_smoke_run(capsys: pytest.CaptureFixture[str]) -> None:
    pipeline.main(["--smoke"])
    row = capsys.readouterr().out.splitlines()[-1].replace("(", "").replace(")", "").split()
    assert row[0] == "MLP"
    rates, ratios = row[1:9], [row[9], row[10], row[12], *row[13:15]]
    assert all(float(value) > 0 for value in rates + ratios)
    assert float(row[10]) <= float(row[12])
    tried, of, places = row[15:18]
    assert of == "of"
    assert 2 < int(tried) <= int(places)


def test_timetables_hold(capsys: pytest.CaptureFixture[str]) -> None:
    """Stages that wait do so in the simulated order, and take at least as long."""
    timetables.main(["--smoke"])
    told = capsys.readouterr().out.splitlines()[-1].split()
    processes, schedule, _, predicted, measured, ratio, *_, order, _ = told
    assert (processes, schedule, order) == ("2", "zero-bubble", "same")
    assert float(measured) >= float(predicted) > 0
    assert float(ratio) >= 1
