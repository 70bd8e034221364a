"""`MeasuredCostModel`: operators timed on the device itself, each distinct one once.

A call is known by its signature (operator, shapes, dtypes, strides, plain arguments), so that the
table of one model serves any other that makes equal calls, and a model of 32 equal layers costs the
measuring of one. What was not measured is priced by a roofline fitted to what was.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from cost_models.errors import CostModelError
from cost_models.fitted import FittedRoofline, fit
from cost_models.interface import DeviceKind, OperatorCall
from cost_models.machine import local_device
from cost_models.operators import observe
from cost_models.roofline import RooflineCostModel
from cost_models.timing import Measurement, overhead_seconds, time_call

SCHEMA = 1
"""Version of the file that `save` writes."""

ROUNDS = 3
"""How often all calls are timed, one after the other."""

Progress = Callable[[int, int, str], None]


class MeasuredCostModel:
    """Prices calls by a table of measurements, and the rest by a roofline fitted to it.

    Attributes:
        measurements: by the kind of device's name, by signature.
        overhead_seconds: of modules, Python and autograd per operator, by kind.
        skipped: why a call was not measured, by signature.
        clock: tells seconds; on a CPU that others use too, `time.process_time` leaves out the time
            in which they ran.
    """

    def __init__(
        self,
        measurements: Mapping[str, Mapping[str, Measurement]] | None = None,
        overhead_seconds: Mapping[str, float] | None = None,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.overhead_seconds = dict(overhead_seconds or {})
        self.measurements: dict[str, dict[str, Measurement]] = {
            kind: dict(table) for kind, table in (measurements or {}).items()
        }
        self.skipped: dict[str, str] = {}
        self.clock = clock
        self._fitted: dict[str, tuple[int, FittedRoofline]] = {}

    def seconds(self, call: OperatorCall, kind: DeviceKind) -> float:
        """Seconds that `call` takes on `kind`: as measured, else by the fitted roofline."""
        known = self.measurements.get(kind.name, {}).get(call.signature)
        if known is not None:
            return known.median_seconds + self.overhead_seconds.get(kind.name, 0.0)
        return self.calibrated_seconds(call, kind)

    def calibrated_seconds(self, call: OperatorCall, kind: DeviceKind) -> float:
        """Seconds by the roofline that is fitted to the table, as for a call that is not in it."""
        table = self.measurements.get(kind.name, {})
        if not table:
            return RooflineCostModel().seconds(call, kind)
        size, fitted = self._fitted.get(kind.name, (0, None))
        if fitted is None or size != len(table):
            fitted = fit(kind, table)
            self._fitted[kind.name] = (len(table), fitted)
        return fitted.seconds(call) + self.overhead_seconds.get(kind.name, 0.0)

    def is_measured(self, call: OperatorCall, kind: DeviceKind) -> bool:
        """Whether the price of `call` on `kind` is a measured one."""
        return call.signature in self.measurements.get(kind.name, {})

    def measure(
        self,
        model: nn.Module,
        device: str | torch.device,
        example_inputs: Any,
        *,
        example_kwargs: Mapping[str, Any] | None = None,
        training: bool | None = None,
        progress: Progress | None = None,
    ) -> Self:
        """Time every operator of a step of `model` that is not in the table yet, and add it.

        Args:
            model: never run itself: its operators are observed on fake tensors.
            device: `"cpu"` or a GPU that is there; the table is kept under its kind.
            example_inputs: a tensor, a tuple, or a dict of keyword arguments.
            example_kwargs: further keyword arguments.
            training: the backward, too; `None` is as `model.training`.
            progress: called with the number of calls done, of all calls, and the next operator.

        Returns:
            The model itself.

        Raises:
            CostModelError: there is no such device, or the model does not run.
        """
        kind = local_device(str(device))
        if kind is None:
            raise CostModelError(f"there is no device '{device}' in this machine to measure on")
        args, kwargs = _as_call(example_inputs, example_kwargs)
        backward = model.training if training is None else training
        observation = observe(model, args, kwargs, backward=backward)
        calls = (*observation.forward, *observation.backward)
        self.measure_calls(calls, device, progress=progress)
        return self

    def measure_calls(
        self,
        calls: Iterable[OperatorCall],
        device: str | torch.device,
        *,
        progress: Progress | None = None,
    ) -> None:
        """Time the given calls of one step, as far as they are not in the table yet.

        All are timed once, then all again, so that no disturbance of the machine has all of one.

        Args:
            calls: of the step.
            device: as for `measure`.
            progress: as for `measure`.

        Raises:
            CostModelError: there is no such device.
        """
        kind = local_device(str(device))
        if kind is None:
            raise CostModelError(f"there is no device '{device}' in this machine to measure on")
        table = self.measurements.setdefault(kind.name, {})
        made = list(calls)
        step_nbytes = sum(call.nbytes for call in made)
        missing = {call.signature: call for call in made if call.signature not in table}
        samples: dict[str, list[float]] = {signature: [] for signature in missing}
        turns = [call for _ in range(ROUNDS) for call in missing.values()]
        for done, call in enumerate(turns):
            name = call.signature
            if progress is not None:
                progress(done // ROUNDS, len(missing), call.operator)
            if name in self.skipped:
                continue
            try:
                samples[name] += time_call(call, device, self.clock, step_nbytes)
            except Exception as error:  # whatever an operator does not like about made-up values
                self.skipped[name] = f"{type(error).__name__}: {error}"
            else:
                table[name] = Measurement.of(call, samples[name])
        if missing and progress is not None:
            progress(len(missing), len(missing), "")
        if missing and kind.name not in self.overhead_seconds:
            self.overhead_seconds[kind.name] = overhead_seconds(device, self.clock)

    def to_json(self) -> str:
        """The table as JSON; equal tables give equal text."""
        document = {
            "schema": SCHEMA,
            "torch": torch.__version__,
            "overhead_seconds": dict(sorted(self.overhead_seconds.items())),
            "measurements": {
                kind: {signature: asdict(entry) for signature, entry in sorted(table.items())}
                for kind, table in sorted(self.measurements.items())
            },
        }
        return json.dumps(document, indent=1) + "\n"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `to_json()` to a file, whole or not at all."""
        target = Path(path)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=target.name)
        try:
            with os.fdopen(handle, "w") as file:
                file.write(self.to_json())
            Path(temporary).replace(target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a table that `save` wrote.

        Raises:
            CostModelError: the file is not there, is damaged, or has another version.
        """
        try:
            document = json.loads(Path(path).read_text())
        except OSError as error:
            raise CostModelError(f"'{path}' cannot be read: {error}") from error
        except (ValueError, RecursionError) as error:
            raise CostModelError(f"'{path}' is no JSON: {error}") from error
        if not isinstance(document, dict) or document.get("schema") != SCHEMA:
            found = document.get("schema") if isinstance(document, dict) else None
            raise CostModelError(
                f"'{path}' has schema {found!r}, this version reads {SCHEMA}; measure again"
            )
        tables = document.get("measurements")
        if not isinstance(tables, dict):
            raise CostModelError(f"'{path}': 'measurements' must be an object")
        overheads = document.get("overhead_seconds")
        if not isinstance(overheads, dict):
            raise CostModelError(f"'{path}': 'overhead_seconds' must be an object")
        return cls(
            {kind: _read_table(table, f"{path}: {kind}") for kind, table in tables.items()},
            {kind: _number(value, f"{path}: {kind}") for kind, value in overheads.items()},
        )


def _as_call(
    example_inputs: Any, example_kwargs: Mapping[str, Any] | None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    kwargs = dict(example_kwargs or {})
    if isinstance(example_inputs, Mapping):
        return (), {**example_inputs, **kwargs}
    if isinstance(example_inputs, tuple | list):
        return tuple(example_inputs), kwargs
    return (example_inputs,), kwargs


def _read_table(table: object, where: str) -> dict[str, Measurement]:
    if not isinstance(table, dict):
        raise CostModelError(f"'{where}' must be an object")
    return {name: _read_entry(entry, f"{where}: {name}") for name, entry in table.items()}


def _read_entry(entry: object, where: str) -> Measurement:
    types = {
        "median_seconds": float,
        "spread_seconds": float,
        "runs": int,
        "flops": int,
        "nbytes": int,
        "dtype": str,
    }
    if not isinstance(entry, dict) or set(entry) != set(types):
        raise CostModelError(f"'{where}' must have exactly the keys {', '.join(types)}")
    for key, kind in types.items():
        value = entry[key]
        if isinstance(value, bool) or not isinstance(value, kind):
            raise CostModelError(f"'{where}': '{key}' must be {kind.__name__}, not {value!r}")
        if kind is not str:
            _number(value, f"{where}: {key}")
    return Measurement(**entry)


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise CostModelError(f"'{where}' must be a number from 0 on, not {value!r}")
    return value
