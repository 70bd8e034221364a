"""The guide to pipelines: its Python runs."""

from __future__ import annotations

import re
from pathlib import Path

GUIDE = Path(__file__).parent.parent / "docs" / "pipelines.md"


def test_the_snippet_runs() -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), flags=re.DOTALL)
    space: dict = {}
    exec(snippet, space)
    assert len(space["losses"]) == 4
    assert len(space["found"].pipeline.ranks) == 2
