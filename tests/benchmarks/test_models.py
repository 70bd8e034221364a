"""The table of models, on a few of them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.models import SMOKE, main


def test_the_smoke_run_writes_a_page_with_a_row_for_each_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "models.md"
    monkeypatch.setattr(sys, "argv", ["models", "--smoke", "-o", str(page)])
    main()
    text = page.read_text()
    assert all(f"| {name} | plain | 2, " in text for name in SMOKE)
    assert f"Right: {len(SMOKE)} of {len(SMOKE)}." in text
