"""What virtual GPUs cost: one training step on them against the same step on the plain CPU.

    python -m benchmarks.virtual_overhead [--smoke]

The two alternate within one run, and the ratio is that of their medians. The virtual model is split
by hand between two virtual GPUs, so that moves are counted in.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from partitioner.virtual import suspended, virtual_gpus


@dataclass(frozen=True)
class Case:
    layers: int
    width: int
    batch: int
    length: int
    rounds: int


FULL = Case(layers=4, width=512, batch=8, length=64, rounds=15)
SMOKE = Case(layers=2, width=32, batch=2, length=8, rounds=3)


def encoder_layers(case: Case) -> list[nn.TransformerEncoderLayer]:
    torch.manual_seed(0)
    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(case.width, 8, 4 * case.width, batch_first=True),
        case.layers,
        enable_nested_tensor=False,
    )
    return [layer for layer in encoder.layers if isinstance(layer, nn.TransformerEncoderLayer)]


def training_step(case: Case, devices: tuple[str, str]) -> Callable[[], Tensor]:
    """A function that does one step of a model whose first half is on the first device."""
    layers = encoder_layers(case)
    half = case.layers // 2
    first = nn.Sequential(*layers[:half]).to(devices[0])
    second = nn.Sequential(*layers[half:]).to(devices[1])
    optimizer = torch.optim.Adam([*first.parameters(), *second.parameters()])
    inputs = torch.randn(case.batch, case.length, case.width)

    def step() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = second(first(inputs.to(devices[0])).to(devices[1])).square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss

    return step


def seconds(step: Callable[[], Tensor]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def measure(case: Case) -> dict[str, float]:
    """Median seconds of a step on the plain CPU and on virtual GPUs, and their ratio."""
    plain_step = training_step(case, ("cpu", "cpu"))
    plain, virtual = [], []
    with virtual_gpus(2):
        virtual_step = training_step(case, ("cuda:0", "cuda:1"))
        for i in range(case.rounds + 1):
            with suspended():
                plain_seconds = seconds(plain_step)
            virtual_seconds = seconds(virtual_step)
            if i > 0:
                plain.append(plain_seconds)
                virtual.append(virtual_seconds)
    return {
        "plain_seconds": statistics.median(plain),
        "virtual_seconds": statistics.median(virtual),
        "ratio": statistics.median(virtual) / statistics.median(plain),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--smoke", action="store_true", help="a tiny run that shows it works")
    case = SMOKE if parser.parse_args().smoke else FULL
    print(json.dumps({"case": vars(case), "torch": torch.__version__, **measure(case)}))


if __name__ == "__main__":
    main()
