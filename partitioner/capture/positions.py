"""What decisions about positions come to, whatever the sizes are.

Decoders look at their tokens' positions to see whether several sequences are packed in one row. Of
positions that they have made themselves, `torch.arange(n)`, the answer is known without any data:
a *ramp* grows by one from each element of its last dimension to the next, so that its differences
are all 1, the places where they are not are all `False`, and so on.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, fx

from partitioner.capture.captured import NodeInfo, TensorSpec

Number = bool | int | float

_COMPARISONS: Mapping[Any, Callable[[Number, Number], bool]] = {
    operator.eq: operator.eq,
    operator.ne: operator.ne,
    operator.lt: operator.lt,
    operator.le: operator.le,
    operator.gt: operator.gt,
    operator.ge: operator.ge,
}


class Positions:
    """The values of a recording that are known from how they were made.

    Args:
        infos: of its nodes.
    """

    def __init__(self, infos: Mapping[fx.Node, NodeInfo]) -> None:
        self._infos = infos
        self._changed: set[str] = set()

    def value(self, node: fx.Node | None) -> Number | None:
        """The number that all elements of a node's value are, if that is known."""
        self._changed = {name for info in self._infos.values() for name in info.mutates}
        return self._constant(node)

    def _constant(self, node: object) -> Number | None:
        if not isinstance(node, fx.Node) or not node.args or node.name in self._changed:
            return None
        if node.target is torch.diff:
            return 1 if self._is_difference(node) else None
        known = self._constant(node.args[0])
        if known is None:
            return None
        if node.target in _COMPARISONS and isinstance(node.args[1], (bool, int, float)):
            return _COMPARISONS[node.target](known, node.args[1])
        if node.target is operator.getitem:
            return known
        if node.op == "call_method" and node.target == "cumsum" and not known:
            return 0
        if node.op == "call_method" and node.target == "all" and known:
            return True
        return None

    def _is_difference(self, node: fx.Node) -> bool:
        """Whether it is of neighbours in a ramp, the first less one put before it if at all."""
        ramp, kwargs = node.args[0], dict(node.kwargs)
        if len(node.args) > 1 or kwargs.pop("dim", -1) != -1 or not self._is_ramp(ramp):
            return False
        before = kwargs.pop("prepend", None)
        return not kwargs and (before is None or self._is_first_less_one(before, ramp))

    def _is_first_less_one(self, node: Any, ramp: Any) -> bool:
        """Whether it is `ramp[..., :1] - 1`."""
        if not isinstance(node, fx.Node) or node.name in self._changed:
            return False
        if node.target is not operator.sub or node.args[1] != 1:
            return False
        first = node.args[0]
        if not isinstance(first, fx.Node) or first.target is not operator.getitem:
            return False
        source, key = first.args
        keys = key if isinstance(key, tuple) else (key,)
        before = keys[:-1]
        whole = before == (Ellipsis,) or before == (slice(None),) * (self._dim(ramp) - 1)
        return source is ramp and whole and keys[-1] == slice(None, 1)

    def _is_ramp(self, node: object) -> bool:
        """Whether it is a ramp of whole numbers that are wide enough for any size."""
        if not isinstance(node, fx.Node) or node.name in self._changed:
            return False
        spec = self._infos[node].value
        if not isinstance(spec, TensorSpec) or spec.dtype not in ("int32", "int64"):
            return False
        if node.target is torch.arange:
            return len(node.args) < 3 and "step" not in node.kwargs
        if not node.args or not self._is_ramp(node.args[0]):
            return False
        if node.target in (operator.add, operator.sub):
            return not self._is_tensor(node.args[1])
        if node.op == "call_method" and node.target == "unsqueeze":
            return node.args[1:] in [(dim,) for dim in range(self._dim(node.args[0]))]
        return node.op == "call_method" and node.target == "expand" and node.args[-1:] == (-1,)

    def _is_tensor(self, value: object) -> bool:
        return isinstance(value, fx.Node) and self._infos[value].value is not None

    def _dim(self, node: Any) -> int:
        spec = self._infos[node].value
        return len(spec.shape) if isinstance(spec, TensorSpec) else 0


@contextmanager
def decided_by_positions(known: Callable[[Tensor], bool]) -> Iterator[None]:
    """Let transformers decide by fake tensors of which `known` holds, as it does by others.

    It takes fake tensors for a sign that it must not, and then makes masks that eager mode is
    spared, with which attention is slower.
    """
    library: Any = sys.modules.get("transformers.utils.import_utils")
    if not hasattr(library, "is_fake_tensor"):
        yield
        return
    is_fake = library.is_fake_tensor
    with mock.patch.object(library, "is_fake_tensor", lambda x: is_fake(x) and not known(x)):
        yield
