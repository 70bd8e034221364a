"""The page about checkpoints tells the truth."""

from __future__ import annotations

import re
from pathlib import Path

import pytest


def test_the_example_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Path(__file__).parents[2] / "docs" / "checkpoints.md"
    (example,) = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, str(page), "exec"), {})
    assert (tmp_path / "trained.safetensors").is_file()
