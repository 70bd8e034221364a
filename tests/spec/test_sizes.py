from __future__ import annotations

from math import isclose

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partitioner.errors import SpecError
from partitioner.spec import (
    format_bandwidth,
    format_flops,
    format_nbytes,
    format_seconds,
    parse_bandwidth,
    parse_flops,
    parse_nbytes,
    parse_seconds,
)


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("16GiB", 16 * 2**30),
        ("16 gib", 16 * 2**30),
        ("24GB", 24 * 10**9),
        ("1.5KiB", 1536),
        ("512 B", 512),
        ("512", 512),
        ("1e3", 1000),
        ("  2MiB ", 2 * 2**20),
        (7, 7),
        (2**63 + 1, 2**63 + 1),
        (1024.0, 1024),
    ],
)
def test_bytes_are_read(text: str | float, nbytes: int) -> None:
    assert parse_nbytes(text) == nbytes


@pytest.mark.parametrize(
    ("text", "seconds"), [("5us", 5e-6), ("5µs", 5e-6), ("1.5ms", 1.5e-3), ("2 min", 120.0), (3, 3)]
)
def test_seconds_are_read_exactly(text: str | float, seconds: float) -> None:
    assert parse_seconds(text) == seconds


def test_a_bandwidth_may_count_bytes_or_bits() -> None:
    assert parse_bandwidth("300GB/s") == 300e9
    assert parse_bandwidth("25Gbit/s") == parse_bandwidth("25Gbps") == 3.125e9
    assert parse_bandwidth("1GiB/s") == 2**30


def test_a_speed_may_be_spelt_in_three_ways() -> None:
    assert parse_flops("312TFLOPS") == parse_flops("312 TFLOP/s") == parse_flops(312e12) == 312e12


@pytest.mark.parametrize(
    ("parse", "value", "fragment"),
    [
        (parse_nbytes, "16Gigs", "unknown unit 'Gigs'"),
        (parse_nbytes, "sixteen", "'16GiB'"),
        (parse_nbytes, "", "cannot read ''"),
        (parse_nbytes, "1 2", "cannot read"),
        (parse_nbytes, True, "cannot read True"),
        (parse_nbytes, None, "cannot read None"),
        (parse_nbytes, float("nan"), "not finite"),
        (parse_nbytes, "1e400", "not finite"),
        (parse_bandwidth, "300gb/s", "unknown unit 'gb/s'"),
        (parse_bandwidth, "300Gb/s", "'25Gbit/s'"),
        (parse_bandwidth, "300GB", "unknown unit 'GB'"),
        (parse_seconds, "5GB", "unknown unit 'GB'"),
        (parse_seconds, [5], "a duration"),
        (parse_flops, "312T", "unknown unit 'T'"),
    ],
)
def test_what_cannot_be_read_is_a_spec_error(parse, value, fragment) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(SpecError) as error:
        parse(value)
    assert fragment in str(error.value)


def test_texts_are_for_people() -> None:
    assert format_nbytes(16 * 2**30) == "16 GiB"
    assert format_nbytes(1536) == "1.5 KiB"
    assert format_nbytes(1023) == "1023 B"
    assert format_nbytes(0) == "0 B"
    assert format_seconds(5e-6) == "5 us"
    assert format_seconds(0.0) == "0 s"
    assert format_bandwidth(300e9) == "300 GB/s"
    assert format_flops(19.5e12) == "19.5 TFLOPS"


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**50), st.floats(1e-9, 1e5), st.floats(1.0, 1e16))
def test_what_is_written_can_be_read(nbytes: int, seconds: float, rate: float) -> None:
    assert isclose(parse_nbytes(format_nbytes(nbytes)), nbytes, rel_tol=6e-3)
    assert isclose(parse_seconds(format_seconds(seconds)), seconds, rel_tol=6e-3)
    assert isclose(parse_bandwidth(format_bandwidth(rate)), rate, rel_tol=6e-3)
    assert isclose(parse_flops(format_flops(rate)), rate, rel_tol=6e-3)
