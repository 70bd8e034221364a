"""The benchmark of the overhead runs."""

from benchmarks.virtual_overhead import SMOKE, measure


def test_the_benchmark_measures_both_sides() -> None:
    figures = measure(SMOKE)
    assert figures["ratio"] == figures["virtual_seconds"] / figures["plain_seconds"] > 0
