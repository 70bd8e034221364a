"""Fake tensors that are quick: what an operator gives for tensors of given sizes is found once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

_aten = torch.ops.aten
_DEVICE = torch.ops.prim.device.default
_TORCH_CONSTANTS = (torch.dtype, torch.device, torch.layout, torch.memory_format)
_PLAIN = frozenset((type(None), bool, int, float, str, *_TORCH_CONSTANTS))
_BY_MORE_THAN_SIZES = frozenset(
    {
        torch.Tag.data_dependent_output,
        torch.Tag.dynamic_output_shape,
        torch.Tag.inplace_view,
    }
)
_REAL = frozenset({_aten.lift.default, _aten.lift_fresh.default, _aten.lift_fresh_copy.default})
_MOST = 1 << 16
"""So many answers are kept at most, before all are dropped."""


@dataclass(frozen=True, slots=True)
class _Made:
    """A tensor among the results of a call.

    Attributes:
        sizes: shape, stride and offset.
        dtype: of its elements.
        device: on which it says to be.
        attributes: what it knows beside these.
        base: the place of the argument whose storage it has; `None` where the storage is its own.
    """

    sizes: tuple[tuple[int, ...], tuple[int, ...], int]
    dtype: torch.dtype
    device: torch.device
    attributes: Mapping[str, Any]
    base: int | None


_Results = tuple[type | None, tuple[_Made | int, ...]]
"""The class of what holds the results, if any does; each is made, or the argument at that place."""
_answers: dict[tuple[Any, ...], _Results | None] = {}


class _UnlikeError(Exception):
    """A result that cannot be made again from its sizes."""


class Fakes(FakeTensorMode):  # type: ignore[no-untyped-call]
    """A `FakeTensorMode` that asks once what an operator gives for tensors of given sizes.

    PyTorch has a cache for this as well, which takes most of its time to look things up, and which
    holds none of the views that a linear layer makes. Here a result is kept where it is a tensor
    (or several) of an ATen operator that goes by sizes alone, and where making it again gives the
    very same: on a storage of its own, on that of the only tensor among the arguments, or an
    argument itself. All else is left to PyTorch.
    """

    def __init__(
        self, *, shape_env: ShapeEnv | None = None, static_shapes: bool | None = None
    ) -> None:
        super().__init__(
            allow_non_fake_inputs=True, shape_env=shape_env, static_shapes=static_shapes
        )

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Give the results of `func` on fake tensors."""
        if func is _DEVICE and type(args[0]) is FakeTensor:
            inside = args[0].fake_mode.in_kernel_invocation
            return torch.device("meta") if inside else args[0].fake_device
        key = self._key(func, args, kwargs)
        if key is None:
            return super().__torch_dispatch__(func, types, args, kwargs or {})
        if key in _answers:
            known = _answers[key]
            if known is not None:
                return self._results(known, args)
            return super().__torch_dispatch__(func, types, args, kwargs or {})
        results = super().__torch_dispatch__(func, types, args, kwargs or {})
        if len(_answers) >= _MOST:
            _answers.clear()
        _answers[key] = self._answer(func, args, results)
        return results

    def _key(self, func: Any, args: Sequence[Any], kwargs: Any) -> tuple[Any, ...] | None:
        """What the sizes of the results depend on; `None` where that is more than can be told."""
        key = [
            func,
            torch.get_default_dtype(),
            torch._C._get_default_device(),
            torch.is_inference_mode_enabled(),
        ]
        if not self._add(key, args):
            return None
        for name, value in kwargs.items() if kwargs else ():
            if type(value) not in _PLAIN:
                return None
            key += (name, type(value), value)
        return tuple(key)

    def _add(self, key: list[Any], values: Sequence[Any]) -> bool:
        for value in values:
            kind = type(value)
            if kind is FakeTensor:
                if not self._goes_by_sizes(value):
                    return False
                key += (
                    value.shape,
                    value.stride(),
                    value.storage_offset(),
                    value.dtype,
                    value.fake_device,
                    value.requires_grad,
                    value.is_inference(),
                )
            elif kind in _PLAIN:
                key += (kind, value)
            elif kind is list or kind is tuple:
                key += (kind, len(value))
                if not self._add(key, value):
                    return False
            else:
                return False
        return True

    def _goes_by_sizes(self, tensor: FakeTensor) -> bool:
        """Whether a fake tensor is nothing but its sizes: no data is known, nor any lazy change."""
        return (
            tensor.fake_mode is self
            and tensor.constant is None
            and tensor.layout is torch.strided
            and not tensor._has_symbolic_sizes_strides
            and not tensor.dtype.is_complex
            and not tensor.is_neg()
        )

    def _answer(self, func: Any, args: Sequence[Any], results: Any) -> _Results | None:
        """How to make the results of a call again; `None` where that is not known to be right."""
        if (
            not isinstance(func, torch._ops.OpOverload)
            or func.namespace != "aten"
            or func in _REAL
            or not _BY_MORE_THAN_SIZES.isdisjoint(func.tags)
        ):
            return None
        kind = type(results) if type(results) in (list, tuple) else None
        places = {id(value): place for place, value in enumerate(args)}
        made = [results] if kind is None else list(results)
        try:
            found = tuple(
                places[id(each)]
                if type(each) is FakeTensor and id(each) in places
                else self._made(each, args)
                for each in made
            )
        except _UnlikeError:
            return None
        own = [
            _storage(each)
            for each, known in zip(made, found, strict=True)
            if isinstance(known, _Made) and known.base is None
        ]
        return (kind, found) if len(own) == len(set(own)) else None

    def _made(self, result: Any, args: Sequence[Any]) -> _Made:
        """How to make one result again."""
        if type(result) is not FakeTensor or not self._goes_by_sizes(result):
            raise _UnlikeError
        tensors = list(_tensors(args))
        base = None
        if any(_storage(tensor) == _storage(result) for tensor in tensors):
            places = [place for place, value in enumerate(args) if isinstance(value, Tensor)]
            if len(tensors) != 1 or not places:
                raise _UnlikeError
            base = places[0]
        made = _Made(
            (tuple(result.shape), result.stride(), int(result.storage_offset())),
            result.dtype,
            result.fake_device,
            {name: value for name, value in vars(result).items() if name != "fake_mode"},
            base,
        )
        if _described(self._tensor(made, args)) != _described(result):
            raise _UnlikeError
        return made

    def _results(self, known: _Results, args: Sequence[Any]) -> Any:
        kind, results = known
        if kind is None:
            (only,) = results
            return args[only] if isinstance(only, int) else self._tensor(only, args)
        return kind(
            args[each] if isinstance(each, int) else self._tensor(each, args) for each in results
        )

    def _tensor(self, made: _Made, args: Sequence[Any]) -> FakeTensor:
        shape, stride, offset = made.sizes
        with torch._C._DisableTorchDispatch(), torch._C.DisableTorchFunction():
            if made.base is None:
                inner = torch.empty_strided(shape, stride, dtype=made.dtype, device="meta")
            else:
                inner = torch.empty(0, dtype=made.dtype, device="meta")
                inner.set_(args[made.base].untyped_storage(), offset, shape, stride)
            fake = Tensor._make_subclass(
                FakeTensor,
                inner,
                False,
                dispatch_device=True,
                device_for_backend_keys=made.device,
            )
            torch._C._set_throw_on_mutable_data_ptr(fake)
        vars(fake).update(made.attributes)
        fake.fake_mode = self
        return fake


def _tensors(values: Sequence[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _described(fake: FakeTensor) -> tuple[Any, ...]:
    """All that can be told of a fake tensor."""
    return (
        fake.shape,
        fake.stride(),
        fake.storage_offset(),
        fake.untyped_storage().nbytes(),
        fake.dtype,
        fake.fake_device,
        fake.requires_grad,
        fake.is_inference(),
        None if fake.is_inference() else fake._version,
        str(torch._C._dispatch_keys(fake)),
    )
