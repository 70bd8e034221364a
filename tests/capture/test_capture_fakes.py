"""Fake tensors that remember operators, against PyTorch's own."""

import contextlib
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils import _pytree as pytree

from partitioner.capture import Fakes

Operator = Callable[[Tensor, Tensor, Tensor], Any]

_OPERATORS: tuple[Operator, ...] = (
    lambda x, w, i: F.linear(x, w[:, :4]),
    lambda x, w, i: F.linear(x.mT, w[:, :6], w[:, 0]),
    lambda x, w, i: x.view(-1, 4),
    lambda x, w, i: x.transpose(0, 1)[..., 1:].reshape(-1),
    lambda x, w, i: x.permute(2, 0, 1).contiguous(memory_format=torch.contiguous_format),
    lambda x, w, i: x.split(1, dim=-1),
    lambda x, w, i: x.unbind(1),
    lambda x, w, i: torch.cat([x, x[:1]]).flatten(1).chunk(3, 1),
    lambda x, w, i: x.unsqueeze(0).expand(3, -1, -1, -1),
    lambda x, w, i: x.add_(1).mul_(x),
    lambda x, w, i: x.detach().copy_(x.half()),
    lambda x, w, i: x.clone().transpose_(0, 1),
    lambda x, w, i: x.as_strided((2, 2), (1, 3)),
    lambda x, w, i: x.to(torch.bfloat16) + 1.5,
    lambda x, w, i: (x > 0) & True,
    lambda x, w, i: x.max(dim=1),
    lambda x, w, i: torch.topk(x, 2),
    lambda x, w, i: F.embedding(i, w),
    lambda x, w, i: x.masked_fill(i[:1, :1, None] > 0, 0.0),
    lambda x, w, i: F.layer_norm(x, (4,), w[0, :4], w[1, :4]),
    lambda x, w, i: F.conv1d(x, w[:, :6, None]),
    lambda x, w, i: F.batch_norm(x, w[0, :6].detach(), w[1, :6].detach(), training=True),
    lambda x, w, i: F.scaled_dot_product_attention(x[None], x[None], x[None], is_causal=True),
    lambda x, w, i: F.dropout(x, 0.5),
    lambda x, w, i: torch.arange(4, dtype=x.dtype) + torch.zeros(3, 1),
    lambda x, w, i: torch.fft.rfft(x).abs(),
    lambda x, w, i: x[0].new_empty(2, 3).fill_(2),
    lambda x, w, i: torch.index_select(x, 0, i[0]),
    lambda x, w, i: x[i[0], :1],
)


def _told(value: Any, given: tuple[Tensor, ...]) -> list[Any]:
    """All about the tensors of a result, and whose storage they have."""
    leaves = pytree.tree_leaves(value)
    storages = [leaf.untyped_storage()._cdata for leaf in (*given, *leaves)]
    return [
        (
            tuple(leaf.shape),
            leaf.stride(),
            leaf.storage_offset(),
            leaf.untyped_storage().nbytes(),
            (leaf.dtype, leaf.device, leaf.requires_grad, leaf.is_leaf, leaf._is_view()),
            storages.index(leaf.untyped_storage()._cdata),
            [leaf is each for each in given],
            [each._version for each in given],
        )
        for leaf in leaves
    ]


def _ran(mode: FakeTensorMode) -> list[Any]:
    found: list[Any] = []
    for operator, dtype in itertools.product(_OPERATORS, (torch.float32, torch.bfloat16)):
        with mode:
            x = torch.empty(2, 6, 4, dtype=dtype)
            w = torch.empty(6, 8, dtype=dtype, requires_grad=True)
            tensors = (x, w, torch.zeros(2, 6, dtype=torch.int64))
            try:
                result = operator(*tensors)
            except Exception as error:
                found.append(type(error))
                continue
            found.append(_told(result, tensors))
            floating = [leaf for leaf in pytree.tree_leaves(result) if leaf.requires_grad]
            if floating:
                gradient = torch.autograd.grad(floating[0].sum(), w, allow_unused=True)
                found.append(_told(gradient, tensors))
    return found


def test_what_is_remembered_is_what_pytorch_says() -> None:
    mode = Fakes()
    expected = _ran(FakeTensorMode(allow_non_fake_inputs=True))
    assert _ran(mode) == expected
    assert _ran(mode) == expected


def test_values_that_are_known_stay_known() -> None:
    mode = Fakes()
    with mode:
        for value in (2.0, 3.0):
            assert (torch.tensor(value) + 1).item() == value + 1
        for _ in range(2):
            with pytest.raises(DataDependentOutputException):
                (torch.empty(()) + 1).item()
        assert (torch.tensor(4.0) + 1).item() == 5


def test_one_remembered_for_another_device_is_not_taken() -> None:
    with Fakes():
        for name in ("cpu", "xla"):
            with contextlib.suppress(RuntimeError):
                made = torch.empty(3, device=name)
                assert {(made * 2).device.type, (made[1:]).device.type} == {name}


def test_inference_tensors_are_inference_tensors() -> None:
    with Fakes():
        for inside in (False, True, False):
            with torch.inference_mode(inside):
                assert (torch.empty(3) + 1).is_inference() is inside
