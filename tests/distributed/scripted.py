"""The model of the tests of emitted scripts, and what may befall it in a job."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn

SECOND_STEP = 5
"""How often the backward of a layer runs on rank 1 until it is in the middle of the second step."""


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
    """The process of rank 1 is killed."""
    return _befalling(lambda: os.kill(os.getpid(), signal.SIGKILL))


def hanging() -> nn.Module:
    """Rank 1 hangs in Python."""
    return _befalling(lambda: time.sleep(1000))


def stopping() -> nn.Module:
    """The process of rank 1 stops, and does not answer."""
    return _befalling(lambda: os.kill(os.getpid(), signal.SIGSTOP))


def running_out_of_memory() -> nn.Module:
    """Rank 1 has no memory left."""

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (2**32, resource.RLIM_INFINITY))
        torch.ones(2**32)

    return _befalling(fill)


def _befalling(happen: Callable[[], object]) -> nn.Module:
    """The model, to whose layers it happens on rank 1 in the backward of the second step."""
    model = Chain()
    calls = iter(range(1000))

    def hook(grad: Tensor) -> None:
        if dist.get_rank() == 1 and next(calls) >= SECOND_STEP:
            happen()

    if dist.is_initialized():
        real = nn.Linear.forward

        def forward(self: nn.Linear, x: Tensor) -> Tensor:
            out = real(self, x)
            if out.requires_grad and type(out) is Tensor:
                out.register_hook(hook)
            return out

        nn.Linear.forward = forward
    return model
