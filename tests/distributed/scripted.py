"""The model of the tests of emitted scripts, importable by their processes."""

from __future__ import annotations

import os
import signal

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Chain(nn.Module):
    """Four layers and a loss of their own; tied ends."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))
        self.layers[3].weight = self.layers[0].weight

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return (x - 1).square().mean()


def differing() -> nn.Module:
    """Other weights in each process."""
    torch.manual_seed(int(os.environ["RANK"]))
    return Chain()


def dying() -> nn.Module:
    """Ends the process of rank 1 in its second step."""
    model = Chain()
    calls = iter(range(1000))

    def end(grad: Tensor) -> None:
        if dist.get_rank() == 1 and next(calls) > 4:
            os.kill(os.getpid(), signal.SIGKILL)

    return _hooked(model, end)


def failing() -> nn.Module:
    """Raises an error on rank 1 in its second step."""
    model = Chain()
    calls = iter(range(1000))

    def fail(grad: Tensor) -> None:
        if dist.get_rank() == 1 and next(calls) > 4:
            raise MemoryError("the device is full")

    return _hooked(model, fail)


def _hooked(model: nn.Module, hook: object) -> nn.Module:
    if dist.is_initialized():
        real = nn.Linear.forward

        def forward(self: nn.Linear, x: Tensor) -> Tensor:
            out = real(self, x)
            if out.requires_grad and type(out) is Tensor:
                out.register_hook(hook)
            return out

        nn.Linear.forward = forward
    return model
