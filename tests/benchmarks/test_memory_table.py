"""The table of promised against measured peaks."""

from __future__ import annotations

import sys

import pytest

from benchmarks import memory
from tests.zoo import ZOO


@pytest.mark.parametrize("optimizer", ["adam", None])
def test_the_promise_of_a_model_is_what_it_takes(optimizer: str | None) -> None:
    found = memory.deviation(ZOO["seqnet"], optimizer, 2, batch=32)
    assert found.counted
    assert all(abs(ratio) <= memory.TARGET for ratio in found.promised.values())
    assert min(found.promised.values()) >= -memory.BELOW


def test_a_table_and_a_summary_are_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["memory", "--smoke", "--models", "seqnet"])
    memory.main()
    head, _, row, _, summary, rows = capsys.readouterr().out.splitlines()
    cells = len(memory.RUNS) * 2
    assert head.count("|") == row.count("|") == cells + 2
    assert row.startswith("| seqnet | ")
    assert summary.startswith("Promised, any device: within 3% on ")
    assert rows.startswith("Linear rows: median")
