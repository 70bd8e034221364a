"""The comparison with other tools, and the rule that two of them follow."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.peers import blocks, main


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=7), st.integers(1, 4))
def test_blocks_have_the_smallest_largest_sum(weights: list[int], number: int) -> None:
    placed = blocks(weights, number)
    assert placed == sorted(placed)
    assert max(placed) < number
    found = max(
        sum(w for w, block in zip(weights, placed, strict=True) if block == b) for b in placed
    )
    size = len(weights)
    best = min(
        max(sum(weights[a:b]) for a, b in zip((0, *cuts), (*cuts, size), strict=True))
        for count in range(min(number, size))
        for cuts in combinations(range(1, size), count)
    )
    assert found == best


def test_smoke(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--smoke", "--objective", "throughput"]) == 0
    heads, _, row = capsys.readouterr().out.splitlines()
    assert [cell.strip() for cell in heads.split("|")[3:5]] == ["ours", "accelerate"]
    assert row.split("|")[3].strip() == "1.000"
