"""Making each call twice: for the example, and for its twin of other sizes."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, NoReturn

import torch
from torch import Tensor, fx

from partitioner.capture.groups import Group, Groups
from partitioner.capture.sizes import DataDecidesError, Read, Varying, first_of, replaced
from partitioner.capture.symbols import Symbols
from partitioner.capture.truths import DATA_DEPENDENT


class Twins:
    """The twins of a recording's tensors.

    Args:
        symbols: of this recording.
    """

    def __init__(self, symbols: Symbols) -> None:
        self.symbols = symbols
        self._twins: dict[int, Tensor] = {}

    def pair(self, tensor: Tensor, twin: Tensor) -> None:
        """Tell the twin of a tensor, which must live as long as the recording."""
        self._twins[id(tensor)] = twin

    def shape(self, tensor: Tensor, node: fx.Node | None) -> torch.Size:
        """The shape that Python code is told; sizes that vary are read from `node`."""
        shape = tensor.shape
        twin = self._twins.get(id(tensor))
        if node is None or twin is None or twin is tensor or twin.shape == shape:
            return shape
        return torch.Size(
            [
                self.symbols.size(size, other, Read(node, dimension))
                for dimension, (size, other) in enumerate(zip(shape, twin.shape, strict=True))
            ]
        )

    def of(self, value: Any) -> Any:
        """Put twins in the places of tensors, and the twins' numbers in those of varying ones."""

        def change(part: Any) -> Any:
            if isinstance(part, Tensor):
                return self._twins.get(id(part), part)
            return part.second if isinstance(part, Varying) else part

        return replaced(value, change)

    def _pairs(self, *values: Any) -> list[tuple[Any, Any]]:
        """The varying sizes and numbers among the arguments of a call, with their twins."""
        pairs: list[tuple[Any, Any]] = []

        def note(part: Any) -> Any:
            if isinstance(part, Varying):
                pairs.append((part.first, part.second))
            elif isinstance(part, Tensor):
                pairs.extend(zip(part.shape, self.of(part).shape, strict=False))
            return part

        replaced(list(values), note)
        return [pair for pair in pairs if pair[0] != pair[1]]

    def both(
        self, call: Callable[[Any, Any], Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, Any, list[Tensor]]:
        """Make a call with the example's tensors and numbers, and with the twins'.

        Returns:
            Both results, and the tensors among the arguments that the call changed.
        """
        tensors = tensors_in(args, kwargs)
        versions = [version_of(tensor) for tensor in tensors]
        try:
            first = call(first_of(args), first_of(kwargs))
        except DATA_DEPENDENT as error:
            raise DataDecidesError(str(error)) from error
        written_to = [
            tensor
            for tensor, version in zip(tensors, versions, strict=True)
            if version is not None and version_of(tensor) != version
        ]
        if not self.symbols.active:
            return first, first, written_to
        enabled = torch.is_grad_enabled()
        try:
            torch._C._set_grad_enabled(False)
            second = call(self.of(args), self.of(kwargs))
            _compare(first, second)
        except Exception:
            self._blame(call, first, args, kwargs)
        finally:
            torch._C._set_grad_enabled(enabled)
        return first, second, written_to

    def _blame(
        self, call: Callable[[Any, Any], Any], first: Any, args: Any, kwargs: Any
    ) -> NoReturn:
        """Find the fewest sizes that keep a call from working for the twins, and give them up."""
        groups = self.symbols.groups
        behind = {id(g): g for pair in self._pairs(args, kwargs) for g in groups.behind(*pair)}
        candidates = sorted(behind.values(), key=lambda group: -group.dimension)[:5]
        for count in range(1, len(candidates) + 1):
            for blamed in itertools.combinations(candidates, count):
                with contextlib.suppress(Exception):
                    tried = call(
                        self._without(blamed, args),
                        self._without(blamed, kwargs),
                    )
                    _compare(first, tried)
                    self.symbols.give_up(blamed)
        self.symbols.give_up(groups.inner())

    def _without(self, blamed: Sequence[Group], value: Any) -> Any:
        """Twins again, with the sizes of some groups as in the example."""
        groups = self.symbols.groups

        def change(part: Any) -> Any:
            if isinstance(part, Varying):
                return _lessened(part.first, part.second, blamed, groups)
            twin = self._twins.get(id(part)) if isinstance(part, Tensor) else None
            if twin is None or twin is part:
                return part
            pairs = zip(part.shape, twin.shape, strict=True)
            shape = [_lessened(*pair, blamed, groups) for pair in pairs]
            return torch.empty(shape, dtype=part.dtype, device="cpu")

        return replaced(value, change)

    def bounded(self, result: Any, twin: Any, tensors: list[Tensor]) -> tuple[Any, Any]:
        """Give results whose sizes depend on data a size that stands for all of them."""
        if isinstance(result, (list, tuple)):
            pairs = [self.bounded(*pair, tensors) for pair in zip(result, twin, strict=True)]
            if all(mine is item for (mine, _), item in zip(pairs, result, strict=True)):
                return result, twin
            return [mine for mine, _ in pairs], [other for _, other in pairs]
        if not isinstance(result, Tensor):
            return result, twin
        unknown = [size for size in result.shape if not isinstance(size, int)]
        if not unknown:
            return result, twin
        masks = [tensor for tensor in tensors if tensor.dtype is torch.bool] or tensors
        limit, twin_limit = masks[0].numel(), self.of(masks[0]).numel()
        first, second = self.symbols.data_sizes(0, limit, twin_limit)
        return _resized(result, first), _resized(twin, second)


def tensors_in(*values: Any) -> list[Tensor]:
    """All tensors in nested values, each once."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            if not any(value is other for other in found):
                found.append(value)
        elif isinstance(value, (tuple, list)):
            found.extend(tensors_in(*value))
        elif isinstance(value, dict):
            found.extend(tensors_in(*value.values()))
    return found


def version_of(tensor: Tensor) -> int | None:
    """A number that grows with each change in place; `None` where PyTorch does not count."""
    return None if tensor.is_inference() else tensor._version


def _compare(first: Any, second: Any) -> None:
    """Raise a `ValueError` where two results differ in more than sizes."""
    if isinstance(first, (list, tuple)):
        if len(first) != len(second):
            raise ValueError("another number of results")
        for one, other in zip(first, second, strict=True):
            _compare(one, other)
    elif isinstance(first, (bool, str)) and first != second:
        raise ValueError("another answer")


def _lessened(size: int, twin: int, blamed: Sequence[Group], groups: Groups) -> int:
    behind = groups.behind(size, twin)
    if not behind:
        return size
    ratio = Fraction(1)
    for group in blamed:
        if group in behind:
            ratio *= group.factor
    return int(twin / ratio)


def _resized(tensor: Tensor, size: int) -> Tensor:
    """A tensor like a fake one, with `size` in the places of sizes that depend on data."""
    shape = [each if isinstance(each, int) else size for each in tensor.shape]
    made = torch.empty(shape, dtype=tensor.dtype, device="cpu")
    return made.requires_grad_(tensor.requires_grad)
