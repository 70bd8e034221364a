"""The guide to writing a cost model says what is so, and its snippets run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from cost_models import DEVICE_KINDS, OperatorCall, RooflineCostModel

GUIDE = Path(__file__).parents[2] / "docs" / "writing_a_cost_model.md"
SNIPPETS = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)[1:]


def test_the_snippets_run_and_price_as_they_say(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"__name__": __name__}
    for snippet in SNIPPETS:
        exec(snippet, names)
    assert capsys.readouterr().out.strip()
    kind = DEVICE_KINDS["a100-40gb"]
    for operator, share in (("aten._scaled_dot_product_attention_x", 3), ("aten.mm.default", 1)):
        call = OperatorCall(operator, f"{operator}()", "float32", 10**12, 10**6, True)
        priced = names["FasterAttention"]().seconds(call, kind)
        assert priced * share == pytest.approx(RooflineCostModel().seconds(call, kind))


def test_the_unchecked_kinds_are_named() -> None:
    paragraph = re.search(r"in at least one figure:\n\n(.*?)\n\n", GUIDE.read_text(), re.DOTALL)
    assert paragraph
    unchecked = {
        name
        for name, kind in DEVICE_KINDS.items()
        if not kind.checked and not name.startswith("generic")
    }
    assert set(re.findall(r"`([^`]+)`", paragraph[1])) == unchecked
