"""The benchmark of pipelines: it runs, and its splits are splits."""

from __future__ import annotations

import pytest

from benchmarks.pipeline import main


def test_smoke_run(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--smoke"])
    row = capsys.readouterr().out.splitlines()[-1].split()
    assert row[0] == "MLP"
    assert all(float(value) > 0 for value in row[1:])
    assert float(row[-1]) <= 1
