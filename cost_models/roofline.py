"""`RooflineCostModel`: time from datasheets alone.

::

    seconds = max( flops / (compute_efficiency * peak[dtype]),
                   nbytes / (memory_efficiency * bandwidth) ) + launch

S. Williams, A. Waterman, D. Patterson, "Roofline: an insightful visual performance model for
multicore architectures", CACM 52(4), 2009.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cost_models.errors import CostModelError
from cost_models.interface import DeviceKind, OperatorCall

FALLBACKS: Mapping[str, tuple[str, ...]] = {
    "tfloat32": ("float32",),
    "float32": ("float64",),
    "float16": ("float32", "float64"),
    "bfloat16": ("float32", "float64"),
    "float8_e4m3fn": ("bfloat16", "float16", "float32"),
    "float8_e5m2": ("bfloat16", "float16", "float32"),
    "float64": ("float32",),
    "complex64": ("float32",),
    "complex128": ("float64", "float32"),
    "int8": ("float32",),
    "uint8": ("int8", "float32"),
}
"""Whose peak is taken where a kind has none for a dtype, in order: what PyTorch then computes in.
Any other dtype falls back on `float32`."""

_CONVOLUTIONS = ("aten.convolution", "aten._convolution", "aten.cudnn_convolution")


@dataclass(frozen=True, slots=True)
class RooflineCostModel:
    """Prices a call by the tighter of two limits, arithmetic and memory, plus a launch.

    Attributes:
        compute_efficiency: share of the peak arithmetic that is reached. 0.6 is what large
            matrix products reach in eager PyTorch on data-centre GPUs, give or take 0.2.
        memory_efficiency: share of the peak bandwidth that is reached. 0.8 is what streaming
            kernels reach, give or take 0.1.
        launch_seconds: overhead per operator; `None` is the kind's own.
        tfloat32_convolutions: float32 convolutions use TF32 where the kind has it
            (`torch.backends.cudnn.allow_tf32`, on by default).
        tfloat32_products: float32 matrix products, too (`torch.backends.cuda.matmul.allow_tf32`,
            off by default).

    Raises:
        CostModelError: an efficiency is not in (0, 1], or the overhead is negative.
    """

    compute_efficiency: float = 0.6
    memory_efficiency: float = 0.8
    launch_seconds: float | None = None
    tfloat32_convolutions: bool = True
    tfloat32_products: bool = False

    def __post_init__(self) -> None:
        for name in ("compute_efficiency", "memory_efficiency"):
            value = getattr(self, name)
            if not 0 < value <= 1:
                raise CostModelError(f"{name} must be above 0 and at most 1, not {value!r}")
        if self.launch_seconds is not None and self.launch_seconds < 0:
            raise CostModelError(
                f"launch_seconds must not be negative, not {self.launch_seconds!r}"
            )

    def seconds(self, call: OperatorCall, kind: DeviceKind) -> float:
        """Seconds that `call` takes on `kind`."""
        launch = kind.launch_seconds if self.launch_seconds is None else self.launch_seconds
        arithmetic = 0.0
        if call.flops:
            peak = peak_flops_per_second(kind, self.compute_dtype(call))
            arithmetic = call.flops / (self.compute_efficiency * peak)
        traffic = call.nbytes / (self.memory_efficiency * kind.bytes_per_second)
        return max(arithmetic, traffic) + launch

    def compute_dtype(self, call: OperatorCall) -> str:
        """The dtype whose peak limits the call's arithmetic."""
        if call.dtype != "float32":
            return call.dtype
        convolution = call.operator.startswith(_CONVOLUTIONS)
        rounded = self.tfloat32_convolutions if convolution else self.tfloat32_products
        return "tfloat32" if rounded else "float32"


def peak_flops_per_second(kind: DeviceKind, dtype: str) -> float:
    """The kind's peak for `dtype`, or for the first of `FALLBACKS[dtype]` that it has.

    Raises:
        CostModelError: it has none of them.
    """
    for name in (dtype, *FALLBACKS.get(dtype, ()), "float32"):
        if name in kind.flops_per_second:
            return kind.flops_per_second[name]
    raise CostModelError(
        f"'{kind.name}' has no peak for '{dtype}', only for "
        f"{', '.join(sorted(kind.flops_per_second)) or 'nothing'}; give it one for 'float32'"
    )
