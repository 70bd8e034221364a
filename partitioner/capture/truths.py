"""Answers to questions about data, where they can be given without any."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx

STAND_INS: dict[Any, Any] = {
    Tensor.__bool__: True,
    Tensor.item: 1,
    Tensor.__int__: 1,
    Tensor.__index__: 1,
    Tensor.__float__: 1.0,
}
"""What a module that is called as a whole is told of its data, to see what it returns."""

# By comparison of a number in [0, 1) with a limit: the answer for a limit of at most 0, at least 1.
_ALWAYS: dict[Any, tuple[bool, bool]] = {
    operator.lt: (False, True),
    operator.ge: (True, False),
}


def known_truth(node: fx.Node | None) -> bool | None:
    """Whether `torch.rand([]) < p` holds, where `p` is so that it always does or never.

    Models drop whole layers so, with a probability that is mostly zero.
    """
    if node is None or len(node.args) != 2 or node.target not in _ALWAYS:
        return None
    drawn, limit = node.args
    if not isinstance(drawn, fx.Node) or drawn.target is not torch.rand:
        return None
    lowest, highest = _ALWAYS[node.target]
    if isinstance(limit, (int, float)):
        return lowest if limit <= 0 else highest if limit >= 1 else None
    return None
