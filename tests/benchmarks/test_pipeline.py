"""The benchmarks of pipelines: they run, and their splits are splits."""

from __future__ import annotations

import pytest

from benchmarks import pipeline, timetables


def test_smoke_run(capsys: pytest.CaptureFixture[str]) -> None:
    pipeline.main(["--smoke"])
    row = capsys.readouterr().out.splitlines()[-1].split()
    assert row[0] == "MLP"
    figures, ratios = row[1:7], row[7:10]
    assert all(float(value) > 0 for value in figures + ratios)
    assert float(ratios[0]) <= 1
    tried, of, places = row[10:]
    assert of == "of"
    assert 2 < int(tried) <= int(places)


def test_timetables_are_never_beaten(capsys: pytest.CaptureFixture[str]) -> None:
    """Stages that wait take at least as long as the simulated step."""
    timetables.main(["--smoke"])
    processes, schedule, predicted, measured, ratio = (
        capsys.readouterr().out.splitlines()[-1].split()[:5]
    )
    assert (processes, schedule) == ("2", "1f1b")
    assert float(measured) >= float(predicted) > 0
    assert float(ratio) >= 1
