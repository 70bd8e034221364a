"""Published placement problems: `python -m benchmarks.placement FILE...`.

One JSON object a line: `{"workload", "objective", "bound", "gap", "status", "seconds"}`; with
`--out DIR`, `DIR/<workload>.json` holds `{"assignment": {"<node id>": "acc0" | "cpu0" | ...}}`.
The format is that of "Efficient Algorithms for Device Placement of DNN Graph Operators"
(NeurIPS 2020): accelerators that pay for what crosses their border, once for each producer, and
CPUs that do not.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

from benchmarks.published_latency import solve_latency
from partitioner.solve import Flow, Hold, Problem, Solution, solve


@dataclass(frozen=True)
class Workload:
    """One published problem.

    Attributes:
        name: of the file, without its suffix.
        ids: of the nodes, in a topological order.
        document: as the file has it.
    """

    name: str
    ids: tuple[int, ...]
    document: Mapping[str, Any]

    @staticmethod
    def read(path: Path) -> Workload:
        document = json.loads(path.read_text())
        return Workload(path.stem, _topological(document), document)


def _topological(document: Mapping[str, Any]) -> tuple[int, ...]:
    """Nodes in an order that runs branches one after the other, inputs first."""
    ids = [node["id"] for node in document["nodes"]]
    waiting = dict.fromkeys(ids, 0)
    after: dict[int, list[int]] = {node: [] for node in ids}
    for edge in document["edges"]:
        waiting[edge["destId"]] += 1
        after[edge["sourceId"]].append(edge["destId"])
    ready = [node for node in reversed(ids) if waiting[node] == 0]
    order = []
    while ready:
        node = ready.pop()
        order.append(node)
        for target in reversed(after[node]):
            waiting[target] -= 1
            if waiting[target] == 0:
                ready.append(target)
    if len(order) != len(ids):
        raise ValueError("the graph has a cycle")
    return tuple(order)


def throughput_problem(workload: Workload, *, contiguous: bool) -> Problem:
    """The largest load as a `Problem`; links are free, endpoints pay."""
    document = workload.document
    accelerators, cpus = document["maxFPGAs"], document["maxCPUs"]
    devices = [f"acc{i}" for i in range(accelerators)] + [f"cpu{i}" for i in range(cpus)]
    nodes = {node["id"]: node for node in document["nodes"]}
    index = {node: place for place, node in enumerate(workload.ids)}
    readers: dict[int, set[int]] = {}
    cost: dict[int, float] = {}
    for edge in document["edges"]:
        readers.setdefault(edge["sourceId"], set()).add(edge["destId"])
        cost[edge["sourceId"]] = edge["cost"]
    backward = {node for node, row in nodes.items() if row.get("isBackwardNode")}
    classes: dict[object, list[int]] = {}
    for node in workload.ids:
        if "colorClass" in nodes[node]:
            classes.setdefault(nodes[node]["colorClass"], []).append(index[node])
    free = ((0.0,) * len(devices),) * len(devices)
    return Problem(
        objective="throughput",
        nodes=tuple(map(str, workload.ids)),
        devices=tuple(devices),
        forward_seconds=tuple(
            (nodes[node]["fpgaLatency"] if nodes[node]["supportedOnFpga"] else inf,) * accelerators
            + (nodes[node]["cpuLatency"],) * cpus
            for node in workload.ids
        ),
        backward_seconds=((0.0,) * len(devices),) * len(nodes),
        flows=tuple(
            Flow(
                index[node],
                tuple(sorted(index[reader] for reader in readers[node])),
                nbytes=round(cost[node] * 1e6),
                endpoint_seconds=cost[node],
            )
            for node in workload.ids
            if node in readers
        ),
        latency_seconds=free,
        seconds_per_byte=free,
        holds=tuple(
            Hold((index[node],), round(nodes[node]["size"]), 0, 0)
            for node in workload.ids
            if nodes[node].get("size")
        ),
        points=1,
        capacity_nbytes=(int(document["maxSizePerFPGA"]),) * accelerators + (None,) * cpus,
        allowed=(tuple(range(len(devices))),) * len(nodes),
        colocated=tuple(tuple(group) for group in classes.values() if len(group) > 1),
        contiguous=contiguous,
        pays_endpoint=(True,) * accelerators + (False,) * cpus,
        precedences=tuple(
            (index[edge["sourceId"]], index[edge["destId"]])
            for edge in document["edges"]
            if not backward & {edge["sourceId"], edge["destId"]}
        ),
    )


def run(
    workload: Workload,
    *,
    objective: str = "throughput",
    contiguous: bool = False,
    time_limit: float | None = None,
) -> Solution:
    """Solve one published problem."""
    problem = throughput_problem(workload, contiguous=contiguous)
    if objective == "latency":
        return solve_latency(problem, time_limit=time_limit)
    return solve(problem, time_limit=time_limit)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.placement", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--objective", choices=("throughput", "latency"), default="throughput")
    parser.add_argument("--contiguous", action="store_true", help="devices in an order")
    parser.add_argument("--time-limit", type=float, metavar="S", help="seconds for each file")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write the assignments here")
    given = parser.parse_args(arguments)
    for path in given.files:
        workload = Workload.read(path)
        solution = run(
            workload,
            objective=given.objective,
            contiguous=given.contiguous,
            time_limit=given.time_limit,
        )
        row = {
            "workload": workload.name,
            "objective": solution.objective,
            "bound": solution.bound,
            "gap": solution.gap,
            "status": str(solution.status),
            "seconds": round(solution.seconds, 3),
        }
        print(json.dumps(row), flush=True)
        if given.out:
            given.out.mkdir(parents=True, exist_ok=True)
            (given.out / f"{workload.name}.json").write_text(
                json.dumps({"assignment": dict(solution.assignment)}, indent=1) + "\n"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
