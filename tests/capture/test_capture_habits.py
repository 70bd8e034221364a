"""Awkward habits of models, each small: the recording does what they do."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from partitioner.capture import Captured, capture
from tests.capture.side_by_side import assert_same

RAMP = torch.linspace(0, 1, 16)


class Layered(nn.Module):
    """A linear layer; `forward` is what each habit is about."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)


class Cube(torch.autograd.Function):
    """A custom gradient, which is not that of its forward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 5 * gradient * x


class Cubes(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Cube.apply(x)


class CustomGradient(Layered):
    def __init__(self) -> None:
        super().__init__()
        self.cube = Cubes()

    def forward(self, x: Tensor) -> Tensor:
        return self.cube(self.layer(x)) + 1


class Reentrant(Layered):
    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(16, 16), nn.Dropout(0.3))

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.block, self.layer(x), use_reentrant=True)


class MapsRows(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.vmap(lambda row: row.sum() * 2)(x)


class Mapped(Layered):
    def __init__(self) -> None:
        super().__init__()
        self.rows = MapsRows()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * self.rows(x)[:, None]


class Arrays(Layered):
    def forward(self, x: Tensor) -> Tensor:
        steps = torch.from_numpy(np.linspace(0, 1, 16).astype("float32"))
        return self.layer(x) * steps + torch.tensor(np.arange(16.0)).to(x) + np.float32(0.5)


class Closure(Layered):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * RAMP


class Compiled(Layered):
    def __init__(self) -> None:
        super().__init__()
        self.double = torch.compile(lambda x: x * 2, backend="eager")

    def forward(self, x: Tensor) -> Tensor:
        return self.double(self.layer(x))


class OldWeightNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.layer = nn.utils.weight_norm(nn.Linear(16, 16))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class SpectralNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.utils.parametrizations.spectral_norm(nn.Linear(16, 16))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Hooked(Layered):
    def __init__(self) -> None:
        super().__init__()
        self.layer.register_forward_hook(lambda module, args, result: result * 2)
        self.block = nn.Sequential(nn.Linear(16, 16))
        self.block.register_forward_pre_hook(lambda module, args: (args[0] + 1,))

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.layer(x))


class ParameterContainers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.listed = nn.ParameterList([nn.Parameter(torch.randn(16)) for _ in range(2)])
        self.named = nn.ParameterDict({"a": nn.Parameter(torch.randn(16))})

    def forward(self, x: Tensor) -> Tensor:
        return x * self.listed[0] + self.listed[1] * self.named["a"]


class ReboundBuffers(Layered):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("steps", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        self.mean = self.mean * 0.5 + x.mean()
        self.steps = self.steps + 1
        return self.layer(x) + self.mean.sum()


class AsksForDevices(Layered):
    def forward(self, x: Tensor) -> Tensor:
        device = next(self.parameters()).device
        mask = torch.ones(x.shape[1], device=device)
        if x.is_cuda or x.device.type == "cuda":
            mask = mask * 2
        zeros = torch.zeros(x.shape, dtype=x.dtype, device=x.device.type)
        return self.layer(x) * mask + torch.arange(x.shape[-1]).to(x) + zeros


class LayerDrop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))
        self.probability = 0.0

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            if self.training and torch.rand([]) < self.probability:
                continue
            x = layer(x)
        return x


class LayerInAList(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(16))
        self.hidden = [nn.Linear(16, 16)]

    def forward(self, x: Tensor) -> Tensor:
        return self.hidden[0](x) * self.scale


class LayersMadeInForward(Layered):
    def forward(self, x: Tensor) -> Tensor:
        return nn.ReLU()(self.layer(x))


class Catches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        try:
            if x.sum() > 0:
                return x * 2
        except Exception:
            return x * 3
        return x * 4


class CatchesAll(Layered):
    def __init__(self) -> None:
        super().__init__()
        self.part = Catches()

    def forward(self, x: Tensor) -> Tensor:
        return self.part(self.layer(x))


class Masks(Layered):
    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        kept = y[x.sum(-1) > -100]
        chosen = (x[:, 0] > -100).nonzero().squeeze(-1)
        y = y.clone()
        y[x > 0] = 0
        y.masked_fill_(x < -1, 2.0)
        return y + kept.mean() + y[chosen].sum(0)


class InPlaceLayers(Layered):
    def forward(self, x: Tensor) -> Tensor:
        y = F.dropout(self.layer(x), 0.5, self.training, inplace=True)
        y += 1
        return F.relu(y * 1, inplace=True)


class Detached(Layered):
    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x.detach().requires_grad_(True))
        return torch.where(y.detach() > 0, y, -y) * y.requires_grad


class AttentionMask(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(16, 2, 16, batch_first=True), 2, enable_nested_tensor=False
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x.unsqueeze(0)
        mask = nn.Transformer.generate_square_subsequent_mask(x.size(1))
        return self.encoder(x, mask=mask)


class RemembersMasks(Layered):
    @functools.lru_cache  # noqa: B019
    def mask(self, size: int) -> Tensor:
        return torch.ones(size)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * self.mask(x.shape[1])


class AnyArguments(Layered):
    def forward(self, *tensors: Tensor, **named: Any) -> Any:
        return {"sum": self.layer(sum(tensors)), "none": None, "size": [len(tensors), (1, "a")]}


class Bfloat16(Layered):
    def __init__(self) -> None:
        super().__init__()
        self.to(torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.to(self.layer.weight.dtype)).float()


HABITS: list[Any] = [
    CustomGradient,
    Reentrant,
    Mapped,
    Arrays,
    Closure,
    pytest.param(Compiled, marks=pytest.mark.filterwarnings("ignore")),
    OldWeightNorm,
    SpectralNorm,
    Hooked,
    ParameterContainers,
    ReboundBuffers,
    AsksForDevices,
    LayerDrop,
    LayerInAList,
    LayersMadeInForward,
    CatchesAll,
    Masks,
    InPlaceLayers,
    Detached,
    AttentionMask,
    RemembersMasks,
    AnyArguments,
    Bfloat16,
]


def seeded(cls: type[nn.Module]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        torch.manual_seed(1)
        return cls()

    return build


def recorded(cls: type[nn.Module]) -> Captured:
    return capture(seeded(cls)(), (torch.ones(4, 16),), training=True)


@pytest.mark.parametrize("habit", HABITS)
def test_the_graph_computes_what_the_model_does(habit: type[nn.Module]) -> None:
    captured = recorded(habit)
    torch.manual_seed(2)
    for batch in (4, 3):
        x = torch.randn(batch, 16)
        for training in (True, False):
            assert_same(captured, seeded(habit), (x,), {}, training=training)


def test_why_parts_are_whole() -> None:
    assert "autograd function" in recorded(CustomGradient).opaque["cube"]
    assert "vmap" in recorded(Mapped).opaque["rows"]
    assert "checkpointing" in recorded(Reentrant).opaque["block"]
    assert "decides by its data" in recorded(CatchesAll).opaque["part"]
    assert recorded(Hooked).opaque == {"block": "it has hooks"}
    assert not recorded(AttentionMask).opaque
    assert not recorded(LayerDrop).opaque


def test_tensors_of_no_module_are_kept() -> None:
    captured = recorded(Closure)
    [(name, tensor)] = captured.constants.items()
    assert tensor is RAMP
    assert captured.nodes[name].state == (name,)


def test_a_part_without_a_rule_for_fake_tensors_is_run_for_real() -> None:
    @torch.library.custom_op("partitioner_tests::twice", mutates_args=())
    def twice(x: Tensor) -> Tensor:
        return x * 2

    class Twice(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.ops.partitioner_tests.twice(x)

    class Model(Layered):
        def __init__(self) -> None:
            super().__init__()
            self.twice = Twice()

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                y = self.twice(x)
            return self.layer(y)

    captured = recorded(Model)
    assert captured.opaque == {"twice": "it does not run on fake tensors"}
    assert captured.dynamic
    assert_same(captured, seeded(Model), (torch.randn(3, 16),), {}, training=True)
