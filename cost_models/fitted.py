"""A roofline fitted to measurements: the price of calls that were not measured."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from cost_models.interface import DeviceKind, OperatorCall
from cost_models.roofline import RooflineCostModel, peak_flops_per_second
from cost_models.timing import Measurement

TINY = 20_000
"""A call of fewer FLOPs and bytes than this tells the launch overhead."""

_ROOFLINE = RooflineCostModel(
    compute_efficiency=1.0, memory_efficiency=1.0, tfloat32_convolutions=False
)


@dataclass(frozen=True, slots=True)
class FittedRoofline:
    """The roofline of one kind of device, as its measured calls are.

    Attributes:
        kind: with the peaks, the bandwidth and the launch overhead that they reached.
        factors: by operator, how many times as long as that allows its own calls took.
    """

    kind: DeviceKind
    factors: Mapping[str, float]

    def seconds(self, call: OperatorCall) -> float:
        """Seconds that `call` takes."""
        work = _ROOFLINE.seconds(call, self.kind) - self.kind.launch_seconds
        return self.kind.launch_seconds + work * self.factors.get(call.operator, 1.0)


def fit(kind: DeviceKind, table: Mapping[str, Measurement]) -> FittedRoofline:
    """Fit a roofline to what was measured on `kind`, by signature."""
    reached = _reached(kind, table.values())
    ratios: dict[str, list[float]] = defaultdict(list)
    for signature, entry in table.items():
        operator = signature.partition("(")[0]
        call = OperatorCall(operator, signature, entry.dtype, entry.flops, entry.nbytes, True)
        work = _ROOFLINE.seconds(call, reached) - reached.launch_seconds
        taken = entry.median_seconds - reached.launch_seconds
        if work > 0 and taken > 0:
            ratios[operator].append(taken / work)
    factors = {operator: statistics.median(found) for operator, found in ratios.items()}
    return FittedRoofline(reached, factors)


def _reached(kind: DeviceKind, measured: Iterable[Measurement]) -> DeviceKind:
    """`kind` with the peaks, bandwidth and launch overhead that the measured calls reached."""
    entries = list(measured)
    tiny = [e.median_seconds for e in entries if e.flops < TINY and e.nbytes < TINY]
    launch = statistics.median(tiny) if tiny else kind.launch_seconds
    compute: list[float] = []
    memory: list[float] = []
    for entry in entries:
        work = entry.median_seconds - launch
        if work <= launch:
            continue
        peak = peak_flops_per_second(kind, entry.dtype)
        if entry.flops / peak > entry.nbytes / kind.bytes_per_second:
            compute.append(entry.flops / (work * peak))
        elif entry.nbytes:
            memory.append(entry.nbytes / (work * kind.bytes_per_second))
    arithmetic = statistics.median(compute) if compute else 0.6
    bandwidth = statistics.median(memory) if memory else 0.8
    return replace(
        kind,
        flops_per_second={
            dtype: rate * arithmetic for dtype, rate in kind.flops_per_second.items()
        },
        bytes_per_second=kind.bytes_per_second * bandwidth,
        launch_seconds=launch,
    )
