"""Sizes with units, as texts and as numbers: bytes, seconds, bytes per second, FLOPs per second.

Each `parse_*` takes a number (already in the base unit) or a text, and raises `SpecError` for what
it cannot read. Each `format_*` gives a text for people, which its `parse_*` reads back to three
significant digits or better.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from decimal import Decimal

from partitioner.errors import SpecError

_QUANTITY = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?)\s*([^\d\s.+-].*?)?\s*")

_BINARY = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_DECIMAL = {"kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_NBYTES: Mapping[str, float] = {
    unit.lower(): nbytes for unit, nbytes in {"B": 1, **_BINARY, **_DECIMAL}.items()
}
_SECONDS: Mapping[str, float] = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "μs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "min": 60.0,
}
_PREFIXES: Mapping[str, float] = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_BANDWIDTH: Mapping[str, float] = {
    **{f"{prefix}B/s": scale for prefix, scale in _PREFIXES.items()},
    **{f"{unit}/s": float(nbytes) for unit, nbytes in _BINARY.items()},
    **{f"{prefix}bit/s": scale / 8 for prefix, scale in _PREFIXES.items()},
    **{f"{prefix}bps": scale / 8 for prefix, scale in _PREFIXES.items()},
    "KB/s": 1e3,
}
_FLOPS: Mapping[str, float] = {
    f"{prefix}{unit}": scale
    for prefix, scale in _PREFIXES.items()
    for unit in ("FLOP/s", "FLOPS", "FLOPs/s")
}


def parse_nbytes(value: int | float | str) -> int:
    """Bytes of `"16GiB"` (powers of 1024), `"24GB"` (powers of 1000) or a number of bytes."""
    number = _parse(value, "a size in bytes", _NBYTES, "'16GiB', '24GB' or a number of bytes", True)
    return value if isinstance(value, int) else round(number)


def parse_seconds(value: int | float | str) -> float:
    """Seconds of `"5us"`, `"1.5ms"` or a number of seconds."""
    return _parse(value, "a duration", _SECONDS, "'5us', '1.5ms' or a number of seconds")


def parse_bandwidth(value: int | float | str) -> float:
    """Bytes per second of `"300GB/s"`, `"25Gbit/s"` or a number of bytes per second."""
    return _parse(
        value, "a bandwidth", _BANDWIDTH, "'300GB/s', '25Gbit/s' or a number of bytes per second"
    )


def parse_flops(value: int | float | str) -> float:
    """Floating point operations per second of `"312TFLOPS"`, `"19.5TFLOP/s"` or a number."""
    return _parse(
        value, "a speed", _FLOPS, "'312TFLOPS' or a number of floating point operations per second"
    )


def format_nbytes(nbytes: int) -> str:
    """Such as `"16 GiB"`, `"1.5 KiB"` or `"512 B"`."""
    return _format(nbytes, {"B": 1, **_BINARY})


def format_seconds(seconds: float) -> str:
    """Such as `"1.25 ms"`, `"5 us"` or `"0 s"`."""
    return _format(seconds, {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}) if seconds else "0 s"


def format_bandwidth(bytes_per_second: float) -> str:
    """Such as `"300 GB/s"`."""
    return _format(bytes_per_second, {f"{prefix}B/s": s for prefix, s in _PREFIXES.items()})


def format_flops(flops_per_second: float) -> str:
    """Such as `"312 TFLOPS"`."""
    return _format(flops_per_second, {f"{prefix}FLOPS": s for prefix, s in _PREFIXES.items()})


def exact_nbytes(nbytes: int) -> int | str:
    """The shortest exact form: `"16GiB"` where a unit divides `nbytes`, else the number."""
    for unit, size in reversed([*_BINARY.items(), *_DECIMAL.items()]):
        if nbytes and nbytes % size == 0 and nbytes // size < 10_000:
            return f"{nbytes // size}{unit}"
    return nbytes


def _parse(
    value: object, what: str, units: Mapping[str, float], example: str, any_case: bool = False
) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise SpecError(f"cannot read {value!r} as {what}; write {example}")
    if isinstance(value, str):
        found = _QUANTITY.fullmatch(value)
        if found is None:
            raise SpecError(f"cannot read {value!r} as {what}; write {example}")
        unit = (found[2] or "").lower() if any_case else found[2] or ""
        if unit and unit not in units:
            raise SpecError(
                f"cannot read {value!r} as {what}: unknown unit '{found[2]}'; write {example}"
            )
        number = float(Decimal(found[1]) * Decimal(str(units.get(unit, 1))))
    else:
        number = float(value)
    if not math.isfinite(number):
        raise SpecError(f"cannot read {value!r} as {what}: it is not finite; write {example}")
    return number


def _format(number: float, units: Mapping[str, float]) -> str:
    smallest = next(iter(units.values()))
    fitting = [(u, s) for u, s in units.items() if abs(number) >= s * 0.9995]
    unit, scale = fitting[-1] if fitting else (next(iter(units)), smallest)
    scaled = number / scale
    digits = max(0, 2 - math.floor(math.log10(abs(scaled)))) if scaled else 0
    text = f"{scaled:.{digits}f}"
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text} {unit}"
