"""What decisions about positions come to, whatever the sizes are.

Decoders look at their tokens' positions to see whether several sequences are packed in one row. Of
positions that they have made themselves, `torch.arange(n)`, the answer is known without any data:
a *ramp* grows by one from each element of its last dimension to the next, so that its differences
are all 1, the places where they are not are all `False`, and so on.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import TensorWeakRef, WeakIdKeyDictionary

from partitioner.capture.calls import written

Number = bool | int | float

_COMPARISONS = frozenset(
    {operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge}
)


@dataclass(frozen=True, slots=True)
class _Ramp:
    """Whole numbers, wide enough for any size, that grow by one along the last dimension."""


@dataclass(frozen=True, slots=True)
class _Start:
    """The first elements of a ramp along its last dimension, less a number."""

    ramp: TensorWeakRef
    less: int


@dataclass(frozen=True, slots=True)
class _Constant:
    """One number in all places."""

    number: Number


_Fact = _Ramp | _Start | _Constant


class _Positions(TorchFunctionMode):
    """Follows what is known of tensors from how they were made, and decides by it."""

    def __init__(self) -> None:
        super().__init__()
        self._facts: MutableMapping[Tensor, tuple[_Fact, int]] = WeakIdKeyDictionary()

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is Tensor.__bool__ and args[0].numel() == 1:
            number = self.number(args[0])
            if number is not None:
                return bool(number)
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and (func is torch.arange or self._fact(args[:1])):
            fact = self._made(func, args, kwargs or {}, result)
            if fact is not None and not result.is_inference():
                self._facts[result] = fact, result._version
        return result

    def number(self, tensor: Tensor) -> Number | None:
        """What all elements of a tensor are, if that is known."""
        fact = self._fact((tensor,))
        return fact.number if isinstance(fact, _Constant) else None

    def _fact(self, values: Any) -> _Fact | None:
        """What is known of the only value, unless it was changed since."""
        if not self._facts or not values or not isinstance(values[0], Tensor):
            return None
        noted = self._facts.get(values[0])
        return noted[0] if noted is not None and noted[1] == values[0]._version else None

    def _made(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor
    ) -> _Fact | None:
        """What is known of a result."""
        op, target, args, kwargs = written(func, args, kwargs)
        method = target if op == "call_method" else ""
        fact = self._fact(args[:1])
        if self._is_ramp(target, method, fact, args, kwargs, result):
            return _Ramp()
        if isinstance(fact, _Ramp):
            ramp = args[0]
            if target is torch.diff:
                return _Constant(1) if self._is_difference(args, kwargs) else None
            if target is operator.getitem and _is_first(ramp, args[1]):
                return _Start(TensorWeakRef(ramp), 0)
        if isinstance(fact, _Start) and target is operator.sub and type(args[1]) is int:
            return _Start(fact.ramp, fact.less + args[1])
        if isinstance(fact, _Constant):
            known = fact.number
            if target in _COMPARISONS and isinstance(args[1], (bool, int, float)):
                return _Constant(target(known, args[1]))
            if target is operator.getitem:
                return fact
            if method == "cumsum" and not known:
                return _Constant(0)
            if method == "all" and known:
                return _Constant(True)
        return None

    @staticmethod
    def _is_ramp(
        target: Any, method: str, fact: _Fact | None, args: Any, kwargs: Any, result: Tensor
    ) -> bool:
        if result.dtype not in (torch.int32, torch.int64):
            return False
        if target is torch.arange:
            return len(args) < 3 and "step" not in kwargs
        if not isinstance(fact, _Ramp):
            return False
        if target in (operator.add, operator.sub):
            return not isinstance(args[1], Tensor)
        if method == "unsqueeze":
            return args[1:] in [(dim,) for dim in range(args[0].dim())]
        return method == "expand" and args[-1:] == (-1,)

    def _is_difference(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Whether it is of neighbours in a ramp, the first less one put before it if at all."""
        others = dict(kwargs)
        before = others.pop("prepend", None)
        if len(args) > 1 or others.pop("dim", -1) != -1 or others:
            return False
        start = self._fact((before,))
        return before is None or (
            isinstance(start, _Start) and start.less == 1 and start.ramp() is args[0]
        )


def _is_first(ramp: Tensor, key: Any) -> bool:
    """Whether it asks for `ramp[..., :1]`."""
    keys = key if isinstance(key, tuple) else (key,)
    before = keys[:-1]
    whole = before == (Ellipsis,) or before == (slice(None),) * (ramp.dim() - 1)
    return whole and keys[-1] == slice(None, 1)


@contextmanager
def decided_by_positions() -> Iterator[None]:
    """Let fake tensors decide by positions as others do, and transformers let them.

    It takes fake tensors for a sign that it must not, and then makes masks that eager mode is
    spared, with which attention is slower.
    """
    positions = _Positions()
    library: Any = sys.modules.get("transformers.utils.import_utils")
    is_fake = getattr(library, "is_fake_tensor", None)
    if is_fake is None:
        with positions:
            yield
        return

    def undecided(value: Any) -> bool:
        return bool(is_fake(value)) and positions.number(value) is None

    with positions, mock.patch.object(library, "is_fake_tensor", undecided):
        yield
