"""What every cost model answers: how long does one operator call take on one kind of device?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class OperatorCall:
    """One call of an ATen operator, known by its shapes alone.

    Attributes:
        operator: such as `"aten.addmm.default"`.
        signature: operator, shapes, dtypes and plain arguments, in one canonical text; two calls
            with the same signature take the same time.
        dtype: in which the arithmetic is done, such as `"float32"`.
        flops: floating point operations, from `torch.utils.flop_counter`; 0 without a formula.
        nbytes: read and written.
        has_formula: whether `flops` is known.
    """

    operator: str
    signature: str
    dtype: str
    flops: int
    nbytes: int
    has_formula: bool


@dataclass(frozen=True, slots=True)
class DeviceKind:
    """A kind of device, as its datasheet describes it.

    Attributes:
        name: such as `"a100-40gb"`.
        type: the `torch.device` type, `"cuda"` or `"cpu"`.
        memory_nbytes: of the whole device.
        flops_per_second: peak, by dtype name.
        bytes_per_second: of the device's own memory.
        launch_seconds: overhead of starting one operator.
        source: the datasheet.
        date: of the datasheet, `YYYY-MM`.
    """

    name: str
    type: str
    memory_nbytes: int
    flops_per_second: Mapping[str, float]
    bytes_per_second: float
    launch_seconds: float
    source: str
    date: str


class CostModel(Protocol):
    """Prices one operator call on one kind of device."""

    def seconds(self, call: OperatorCall, kind: DeviceKind) -> float:
        """Seconds that `call` takes on `kind`; `math.inf` where it cannot be done there."""
        ...
