"""The enumeration that judges the solver, against the recount of each assignment."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings

from benchmarks.brute_force import best_of_all, main
from partitioner.solve import Problem
from tests.strategies import brute_force, problems


@pytest.mark.parametrize("roads", [False, True])
def test_enumeration_finds_what_single_recounts_find(roads: bool) -> None:
    @settings(max_examples=25, deadline=None)
    @given(problems(most_nodes=5, roads=roads))
    def check(problem: Problem) -> None:
        one, other = best_of_all(problem), brute_force(problem)
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert one.objective == pytest.approx(other[1].objective, rel=1e-9)
            assert (one.moved_nbytes, one.moves) == (other[1].moved_nbytes, other[1].moves)

    check()


def test_smoke(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--smoke"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["equal"] == row["problems"] >= 25
