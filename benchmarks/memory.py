"""Predicted against measured peaks: `python -m benchmarks.memory [--smoke] [--batch N]`.

For every model of the zoo, in training with Adam, with SGD, and in inference: what the cost graph's
holdings add up to on each device, against what the placed module takes there on virtual GPUs (the
second of two steps in training). Placements: all on one device; cut in the middle of the order;
every node at random on one of two devices; cut in four. Each cell is the worst device's
`predicted / measured - 1`. Devices on which next to nothing is placed are left out.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Mapping

from cost_models import RooflineCostModel
from partitioner.capture import capture
from partitioner.dry_run import dry_run
from partitioner.graph import CostGraph, annotate, optimizer_factory
from partitioner.placement import peak_nbytes
from partitioner.spec import Cluster
from tests.placements import leaders
from tests.zoo import ZOO, Case

SMOKE = ("seqnet", "unet", "language_model", "hf_llama_no_cache")
RUNS: tuple[tuple[str, str | None], ...] = (
    ("adam", "adam"),
    ("sgd", "sgd"),
    ("inference", None),
)
PLACEMENTS = ("one", "cut", "random", "cut in 4")
SMALLEST_SHARE = 0.05
"""Devices with less than this share of what is placed are not counted."""


def placements(graph: CostGraph, seed: int) -> Iterator[tuple[str, dict[str, str]]]:
    """Named placements that keep together what must be together."""
    count = len(graph.order)
    position = {name: i for i, name in enumerate(graph.order)}
    draws = random.Random(seed)
    drawn = [draws.randrange(2) for _ in range(count)]
    rules = {
        "one": lambda i: 0,
        "cut": lambda i: 2 * i // count,
        "random": lambda i: drawn[i],
        "cut in 4": lambda i: 4 * i // count,
    }
    leader = leaders(graph)
    for name, rule in rules.items():
        yield name, {node: f"cuda:{rule(position[leader[node]])}" for node in graph.order}


def deviations(case: Case, optimizer: str | None, batch: int | None) -> dict[str, float] | None:
    """By placement, the deviation of the device that is furthest off; `None` without a dry run."""
    model = case.build().train(optimizer is not None)
    size = {"batch": batch} if batch is not None and case.batched else {}
    training = optimizer is not None
    captured = capture(model, case.args(**size), case.kwargs(**size), training=training)
    found: dict[str, float] = {}
    clusters = {count: Cluster.of(f"{count}x16GiB") for count in (1, 4)}
    graphs = {
        count: annotate(
            captured, model, cluster, RooflineCostModel(), training=training, optimizer=optimizer
        )
        for count, cluster in clusters.items()
    }
    for name, placement in placements(graphs[4], seed=len(case.name)):
        count = 1 if name == "one" else 4
        predicted = peak_nbytes(graphs[count], placement)
        measured = dry_run(
            model,
            captured,
            placement,
            clusters[count],
            make_optimizer=optimizer_factory(optimizer),
        )
        if measured is None:
            return None
        found[name] = worst(predicted, {device: use.peak for device, use in measured.items()})
    return found


def worst(predicted: Mapping[str, int], measured: Mapping[str, int]) -> float:
    """The largest relative deviation, with its sign."""
    total = sum(measured.values())
    ratios = [
        predicted.get(device, 0) / peak - 1
        for device, peak in measured.items()
        if peak > SMALLEST_SHARE * total
    ]
    return max(ratios, key=abs, default=0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a few models only")
    parser.add_argument("--batch", type=int, default=32, help="for models that take any")
    options = parser.parse_args()
    names = SMOKE if options.smoke else tuple(ZOO)
    print(f"| model | run | {' | '.join(PLACEMENTS)} |")
    print(f"| --- | --- | {' | '.join('---:' for _ in PLACEMENTS)} |")
    columns: dict[tuple[str, str], list[float]] = {}
    for name in names:
        if "untraceable" in ZOO[name].tags:
            continue
        for run, optimizer in RUNS:
            found = deviations(ZOO[name], optimizer, options.batch)
            if found is None:
                print(f"| {name} | {run} | it decides by its data: no dry run |", flush=True)
                continue
            cells = [f"{found[placement]:+.1%}" for placement in PLACEMENTS]
            print(f"| {name} | {run} | {' | '.join(cells)} |", flush=True)
            for placement, ratio in found.items():
                columns.setdefault((run, placement), []).append(ratio)
    print()
    for (run, placement), ratios in columns.items():
        within = sum(abs(ratio) <= 0.03 for ratio in ratios)
        print(
            f"{run}, {placement}: within 3% in {within} of {len(ratios)}, "
            f"from {min(ratios):+.1%} to {max(ratios):+.1%}"
        )


if __name__ == "__main__":
    main()
