"""`Device`: one place where nodes can run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from cost_models import DEVICE_KINDS, DeviceKind
from partitioner.errors import SpecError
from partitioner.spec.names import check_name
from partitioner.spec.sizes import (
    format_nbytes,
    parse_bandwidth,
    parse_flops,
    parse_nbytes,
)

ASSUMED_KIND = "generic-gpu"
"""The kind that is assumed of a GPU where none is given."""
ASSUMED_CPU_KIND = "generic-cpu"
"""The kind that is assumed of a CPU where none is given."""

Size = TypeVar("Size", int, float)


@dataclass(frozen=True, slots=True)
class Device:
    """One place where nodes can run.

    Attributes:
        name: as PyTorch spells it, such as `"cuda:0"` or `"cpu"`; `"cuda"` becomes `"cuda:0"`.
        kind: a key of `cost_models.DEVICE_KINDS`, or `None` when the figures are given here.
        memory: bytes that a plan may use; a text such as `"16GiB"` is accepted and normalised.
        flops_per_second: overrides the kind's figure, whatever the dtype.
        memory_bandwidth: bytes per second, overrides the kind's figure.

    Raises:
        SpecError: PyTorch has no such device, the kind is unknown, or a figure makes no sense.
    """

    name: str
    kind: str | None = None
    memory: int | str | None = None
    flops_per_second: float | str | None = None
    memory_bandwidth: float | str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", device_name(self.name))
        if self.kind is not None:
            check_name("kind", self.kind, tuple(DEVICE_KINDS))
            if DEVICE_KINDS[self.kind].type != torch.device(self.name).type:
                raise SpecError(
                    f"device '{self.name}' cannot be of kind '{self.kind}', "
                    f"which is a {DEVICE_KINDS[self.kind].type} device"
                )
        self._normalise("memory", parse_nbytes)
        self._normalise("flops_per_second", parse_flops)
        self._normalise("memory_bandwidth", parse_bandwidth)
        if self.kind not in (None, ASSUMED_KIND, ASSUMED_CPU_KIND) and isinstance(self.memory, int):
            most = DEVICE_KINDS[self.kind].memory_nbytes
            if self.memory > most:
                raise SpecError(
                    f"device '{self.name}': memory of {format_nbytes(self.memory)} is more than "
                    f"the {format_nbytes(most)} that '{self.kind}' has"
                )

    def figures(self) -> DeviceKind:
        """The kind, with what is given here in place of its own figures."""
        assumed = ASSUMED_CPU_KIND if torch.device(self.name).type == "cpu" else ASSUMED_KIND
        kind = DEVICE_KINDS[self.kind or assumed]
        if isinstance(self.memory, int):
            kind = replace(kind, memory_nbytes=self.memory)
        if isinstance(self.flops_per_second, float):
            speed = self.flops_per_second
            kind = replace(kind, flops_per_second=dict.fromkeys(kind.flops_per_second, speed))
        if isinstance(self.memory_bandwidth, float):
            kind = replace(kind, bytes_per_second=self.memory_bandwidth)
        return kind

    def _normalise(self, field: str, parse: Callable[[int | float | str], Size]) -> None:
        value = getattr(self, field)
        if value is not None:
            where = f"device '{self.name}': {field.replace('_', ' ')}"
            object.__setattr__(self, field, positive(value, parse, where))


def device_name(device: object) -> str:
    """How plans spell a device: an accelerator with its index, `"cpu"` without.

    Raises:
        SpecError: PyTorch has no such device, or none that can hold data.
    """
    if not isinstance(device, str | torch.device):
        raise SpecError(f"a device is a text such as 'cuda:0' or a torch.device, not {device!r}")
    try:
        known = torch.device(device)
    except RuntimeError as error:
        raise SpecError(
            f"PyTorch knows no device {str(device)!r}; write one like 'cuda:0' or 'cpu'"
        ) from error
    if known.type == "meta":
        raise SpecError("a plan cannot use the device 'meta', which holds no data")
    if known.type == "cpu":
        return "cpu" if not known.index else str(known)
    index = str(device).partition(":")[
        2
    ]  # PyTorch keeps a byte of it; a plan may have more devices
    return f"{known.type}:{int(index or 0)}"


def positive(
    value: int | float | str,
    parse: Callable[[int | float | str], Size],
    where: str,
    *,
    zero: bool = False,
) -> Size:
    """`value` as a number above 0 (or 0, where `zero`).

    Raises:
        SpecError: it is not; the message begins with `where`.
    """
    try:
        number = parse(value)
    except SpecError as error:
        raise SpecError(f"{where}: {error}") from error
    if number < 0 or (number == 0 and not zero):
        raise SpecError(f"{where} must be {'at least' if zero else 'above'} 0, not {value!r}")
    return number
