"""The guide to reading a plan: its Python runs, and it names every drawing there is."""

from __future__ import annotations

import re
from pathlib import Path

from partitioner.report import DRAWINGS

DOCS = Path(__file__).parent.parent.parent / "docs"
GUIDE = (DOCS / "reading_a_plan.md").read_text(encoding="utf-8")


def test_the_snippet_runs() -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", GUIDE, flags=re.DOTALL)
    space: dict = {}
    exec(snippet, space)
    devices = {told.get("device") for _, told in space["graph"].nodes(data=True)}
    assert devices >= {"cuda:0", "cuda:1"}
    assert space["crossing"]


def test_every_drawing_is_named_with_its_suffixes_and_every_picture_is_there() -> None:
    rows = [line for line in GUIDE.splitlines() if line.startswith("| `")]
    for what, suffixes in DRAWINGS.items():
        told = " ".join(row for row in rows if f"`{what}`" in row)
        assert set(suffixes) <= set(re.findall(r"\.\w+", told)), what
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", GUIDE):
        assert (DOCS / picture).is_file()
