"""How the solver grows: `python -m benchmarks.scale [--smoke]`.

Generated problems that look like real models (`FAMILIES`), trained on equal devices with equal
links and a little more memory than they need. One JSON object a line: `{"family", "nodes",
"devices", "objective", "ordered", "seconds", "cpu_seconds", "value", "bound", "gap",
"peak_rss_nbytes"}`, each case in a process of its own; the last lines have the growth exponents of
the CPU seconds.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from math import log
from multiprocessing import get_context

from partitioner.solve import Flow, Hold, Problem, solve

SMOKE: tuple[tuple[int, int], ...] = ((100, 2), (400, 4))
SIZES: tuple[tuple[int, int], ...] = tuple(product((100, 1_000, 10_000, 100_000), (2, 8, 64)))
ROOM = 1.3
"""Memory of all devices together, over what the model takes at its fullest point."""
BANDWIDTH = 50e9
"""Bytes per second of each link."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node of a generated model: what it reads, and what it costs."""

    reads: tuple[int, ...]
    seconds: float
    parameter_nbytes: int
    output_nbytes: int


@dataclass(frozen=True, slots=True)
class Case:
    """One run of the benchmark."""

    family: str
    nodes: int
    devices: int
    objective: str
    ordered: bool
    time_limit: float | None = None


class Model:
    """Nodes in execution order, as a builder."""

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self.random = random.Random(seed)
        self.nodes: list[Node] = []
        self.add((), heavy=False)

    def add(self, reads: Sequence[int], *, heavy: bool, scale: float = 1.0) -> int:
        """A matrix product with weights, or something small; the node's index."""
        spread = self.random.uniform(0.8, 1.2) * scale
        self.nodes.append(
            Node(
                tuple(dict.fromkeys(reads)),
                (2e-4 if heavy else 1e-5) * spread,
                round(4e6 * spread) if heavy else 0,
                round(2e5 * scale),
            )
        )
        return len(self.nodes) - 1

    def run(self, start: int, length: int, scale: float = 1.0) -> int:
        """A chain that starts with a heavy node; its last node."""
        for place in range(length):
            start = self.add((start,), heavy=place % 3 == 0, scale=scale)
        return start

    @property
    def last(self) -> int:
        """The newest node."""
        return len(self.nodes) - 1

    @property
    def full(self) -> bool:
        """Whether there are as many nodes as wanted."""
        return len(self.nodes) >= self.size


def residual_chain(model: Model) -> None:
    """Blocks of two runs, each added to what it read."""
    while not model.full:
        for length in (7, 4):
            before = model.last
            model.add((before, model.run(before, length)), heavy=False)


def branches(model: Model) -> None:
    """Modules of four branches of unequal length, joined."""
    while not model.full:
        before = model.last
        model.add([model.run(before, length) for length in (1, 3, 5, 2)], heavy=False)


def mixture_of_experts(model: Model) -> None:
    """Attention, then a router and eight experts whose outputs are summed, with residuals."""
    while not model.full:
        before = model.last
        attention = model.add((before, model.run(before, 6)), heavy=False)
        router = model.add((attention,), heavy=False)
        experts = [model.run(router, 3, scale=0.5) for _ in range(8)]
        model.add((attention, router, *experts), heavy=False)


def unet(model: Model) -> None:
    """U-Nets one after the other: what goes down is read again on the way up."""
    while not model.full:
        kept = []
        for level in range(5):
            model.run(model.last, 4, scale=2.0**-level)
            kept.append(model.last)
        for level, skip in reversed([*enumerate(kept)]):
            model.add((model.last, skip), heavy=False, scale=2.0**-level)
            model.run(model.last, 4, scale=2.0**-level)


def repeated_blocks(model: Model) -> None:
    """The same block with the same costs again and again."""
    while not model.full:
        model.random.seed(0)
        before = model.last
        model.add((before, model.run(before, 12)), heavy=False)


FAMILIES: dict[str, Callable[[Model], None]] = {
    "residual_chain": residual_chain,
    "branches": branches,
    "mixture_of_experts": mixture_of_experts,
    "unet": unet,
    "repeated_blocks": repeated_blocks,
}


def generate(case: Case, seed: int = 0) -> Problem:
    """The problem of one case; the same for the same arguments."""
    model = Model(case.nodes, seed)
    FAMILIES[case.family](model)
    nodes = model.nodes[: case.nodes]
    size, points = len(nodes), 2 * len(nodes)
    readers: list[list[int]] = [[] for _ in nodes]
    for index, node in enumerate(nodes):
        for source in node.reads:
            readers[source].append(index)
    devices = range(case.devices)
    holds = []
    for index, node in enumerate(nodes):
        if node.parameter_nbytes:
            holds.append(Hold((index,), 4 * node.parameter_nbytes, 0, points - 1))
        holders = (index, *readers[index])
        holds.append(Hold(holders, node.output_nbytes, index, points - 1 - index))
    everything = sum(hold.nbytes for hold in holds)
    largest = max(hold.nbytes for hold in holds)
    return Problem(
        objective=case.objective,
        nodes=tuple(f"node_{index}" for index in range(size)),
        devices=tuple(f"cuda:{device}" for device in devices),
        forward_seconds=tuple((node.seconds,) * case.devices for node in nodes),
        backward_seconds=tuple((2 * node.seconds,) * case.devices for node in nodes),
        flows=tuple(
            Flow(index, tuple(readers[index]), node.output_nbytes, node.output_nbytes)
            for index, node in enumerate(nodes)
            if readers[index]
        ),
        latency_seconds=tuple(tuple(5e-6 * (a != b) for b in devices) for a in devices),
        seconds_per_byte=tuple(tuple((a != b) / BANDWIDTH for b in devices) for a in devices),
        holds=tuple(holds),
        points=points,
        capacity_nbytes=(round(ROOM * everything / case.devices) + 2 * largest,) * case.devices,
        allowed=(tuple(devices),) * size,
        contiguous=case.ordered,
    )


def measure(case: Case) -> dict[str, object]:
    """One line of the table."""
    problem = generate(case)
    started, begun = time.perf_counter(), time.process_time()
    solution = solve(problem, time_limit=case.time_limit)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - begun
    return {
        "family": case.family,
        "nodes": case.nodes,
        "devices": case.devices,
        "objective": case.objective,
        "ordered": case.ordered,
        "seconds": round(seconds, 3),
        "cpu_seconds": round(cpu_seconds, 3),
        "value": solution.objective,
        "bound": solution.bound,
        "gap": solution.gap,
        "peak_rss_nbytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def growth(rows: Sequence[dict[str, object]]) -> Iterator[dict[str, object]]:
    """By family, devices and objective: the exponent of CPU seconds from 1,000 nodes on."""
    series: dict[tuple[object, ...], list[tuple[int, float]]] = {}
    for row in rows:
        key = tuple(row[name] for name in ("family", "devices", "objective", "ordered"))
        nodes, seconds = row["nodes"], row["cpu_seconds"]
        assert isinstance(nodes, int)
        assert isinstance(seconds, float)
        if nodes >= 1_000:
            series.setdefault(key, []).append((nodes, seconds))
    for (family, devices, objective, ordered), points in series.items():
        (few, short), (many, long) = min(points), max(points)
        if few < many:
            yield {
                "family": family,
                "devices": devices,
                "objective": objective,
                "ordered": ordered,
                "growth_exponent": log(long / short) / log(many / few),
            }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="small cases only")
    parser.add_argument("--family", choices=FAMILIES, action="append", help="default: all")
    parser.add_argument("--nodes", type=int, help="with --devices: this size only")
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--objective", choices=("throughput", "memory", "latency"), action="append")
    parser.add_argument("--any-split", action="store_true", help="throughput without an order")
    parser.add_argument("--time-limit", type=float, metavar="S", help="seconds for each case")
    given = parser.parse_args(arguments)
    sizes = SMOKE if given.smoke else SIZES
    if given.nodes:
        sizes = ((given.nodes, given.devices),)
    cases = [
        Case(family, nodes, devices, objective, ordered, given.time_limit)
        for objective in given.objective or ["throughput"]
        for ordered in [objective == "throughput" and not given.any_split]
        for family in given.family or FAMILIES
        for nodes, devices in sizes
    ]
    rows = []
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        for row in pool.map(measure, cases):
            rows.append(row)
            print(json.dumps(row), flush=True)
    for line in growth(rows):
        print(json.dumps(line), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
