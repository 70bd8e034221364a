"""Other ways to split a model, judged alike: `python -m benchmarks.peers [--smoke]`.

Models of the zoo, in training with Adam, and generated graphs like real models, on four equal
devices, each with twice the least memory with which the model can be held. Every split is counted
by the same evaluator under the same costs and limits; a cell is its objective over the best of the
row. `too full`: a memory limit is broken. `-`: not everything has a device.

- accelerate: `infer_auto_device_map` with the devices' memory.
- auto: the same with `get_balanced_memory` first, as `device_map="auto"` of transformers does.
- METIS: nodes weighed with their seconds, edges with their bytes.
- torchgpipe: contiguous blocks of about equal time, `balance_by_time`; its rule stops at blocks
  that differ by no more than one node, these are the ones whose largest is smallest.
- DeepSpeed: contiguous blocks, the largest as small as can be, of parameters
  (`partition_method="parameters"`) and of nodes (`"uniform"`).

Nodes that must share a device go where the first of them goes; where accelerate has no module for a
node, it goes where its last input is. For generated graphs, accelerate sees a module for each node.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import pymetis
import torch
from accelerate.utils import get_balanced_memory, infer_auto_device_map
from torch import nn

from benchmarks.scale import FAMILIES, generate
from benchmarks.scale import Case as Generated
from cost_models import RooflineCostModel
from partitioner.capture import example_call
from partitioner.options import Options
from partitioner.priced import priced
from partitioner.solve import Problem, solve
from partitioner.solve.contract import colocation_groups
from partitioner.solve.evaluate import count, everything_nbytes
from partitioner.spec import Cluster
from tests.zoo import ZOO

OBJECTIVES = ("latency", "throughput", "memory")
MODELS = (
    "mlp",
    "residual_cnn",
    "transformer_encoder",
    "unet",
    "inception",
    "language_model",
    "hf_gpt2",
    "hf_bert",
    "hf_llama",
    "recurrent",
    "tied",
    "dense_experts",
)
SMOKE = ("mlp",)
ROOM = 2.0
"""Memory of each device over what the fullest has when memory is all that counts."""
DEVICES = 4
NODES = 200
"""Of the generated graphs."""

Split = Callable[["Subject"], Sequence[int] | None]


@dataclass(frozen=True)
class Subject:
    """A problem, and what accelerate asks about it.

    Attributes:
        name: of the model.
        problem: with its limits.
        module: whose parameters accelerate counts.
        module_path: by node, the path of its module; empty without one.
        parameter_nbytes: by node, what DeepSpeed counts.
    """

    name: str
    problem: Problem
    module: nn.Module
    module_path: tuple[str, ...]
    parameter_nbytes: tuple[int, ...]


def zoo_subject(name: str, objective: str) -> Subject:
    """A model of the zoo on equal devices."""
    case = ZOO[name]
    model = case.build().train()
    options = Options(
        mode="train", optimizer="adam", objective=objective, cost_model=RooflineCostModel()
    )
    cluster = Cluster.of(f"{DEVICES}x16GiB")
    found = priced(model, cluster, example_call(model, case.args(), case.kwargs()), options)
    sizes = {path: parameter.nbytes for path, parameter in model.named_parameters()}
    parameter_nbytes = dict.fromkeys(found.graph.order, 0)
    for path, nodes in found.graph.owners.items():
        if nodes:
            parameter_nbytes[nodes[0]] += sizes.get(path, 0)
    return Subject(
        name,
        with_limits(found.problem()),
        model,
        tuple(found.graph.cost(node).module_path for node in found.graph.order),
        tuple(parameter_nbytes[node] for node in found.graph.order),
    )


def generated_subject(family: str, objective: str) -> Subject:
    """A generated graph; every node is a module that has what the node always holds."""
    case = Generated(family, NODES, DEVICES, objective, ordered=False)
    problem = with_limits(generate(case))
    nbytes = [0] * NODES
    for hold in problem.holds:
        if hold.first == 0 and hold.last == problem.points - 1:
            nbytes[hold.nodes[0]] += hold.nbytes // 4
    module = nn.ModuleDict()
    for node, size in zip(problem.nodes, nbytes, strict=True):
        module[node] = nn.Module()
        if size:
            weight = torch.empty(size // 4, device="meta")
            module[node].register_parameter("weight", nn.Parameter(weight))
    paths = tuple(node if size else "" for node, size in zip(problem.nodes, nbytes, strict=True))
    return Subject(f"{family} ({NODES})", problem, module, paths, tuple(nbytes))


def with_limits(problem: Problem) -> Problem:
    """Equal devices with `ROOM` times the least with which the model can be held at all."""
    everything = everything_nbytes(problem)
    roomy = replace(
        problem, objective="memory", capacity_nbytes=(everything,) * len(problem.devices)
    )
    limit = round(ROOM * solve(roomy).objective * everything)
    return replace(problem, capacity_nbytes=(limit,) * len(problem.devices))


def ours(subject: Subject) -> Sequence[int] | None:
    """The solver."""
    solution = solve(subject.problem)
    index = {device: place for place, device in enumerate(subject.problem.devices)}
    return [index[solution.assignment[node]] for node in subject.problem.nodes]


def accelerate_in_turn(subject: Subject) -> Sequence[int] | None:
    """Modules in their order of registration, on to the next device when one is full."""
    return _by_module(subject, _memory(subject))


def accelerate_balanced(subject: Subject) -> Sequence[int] | None:
    """The same within memory that is shared out evenly first."""
    keep = getattr(subject.module, "_no_split_modules", None)
    keep = list(keep) if keep else None
    return _by_module(
        subject,
        get_balanced_memory(subject.module, _memory(subject), no_split_module_classes=keep),
    )


def _memory(subject: Subject) -> dict[int | str, int | str]:
    return {
        device: limit
        for device, limit in enumerate(subject.problem.capacity_nbytes)
        if limit is not None
    }


def _by_module(subject: Subject, memory: dict[int | str, int | str]) -> Sequence[int] | None:
    keep = getattr(subject.module, "_no_split_modules", None)
    found: Mapping[str, int | str] = infer_auto_device_map(
        subject.module, memory, no_split_module_classes=list(keep) if keep else None
    )
    if not all(isinstance(device, int) for device in found.values()):
        return None
    sources: list[int | None] = [None] * len(subject.problem.nodes)
    for flow in subject.problem.flows:
        for target in flow.targets:
            sources[target] = max(flow.source, sources[target] or 0)
    placed: list[int] = []
    for path, source in zip(subject.module_path, sources, strict=True):
        prefixes = [*accumulate(path.split("."), "{}.{}".format)][::-1]
        device = next((found[prefix] for prefix in (*prefixes, "") if prefix in found), None)
        if not path or device is None:
            device = placed[source] if source is not None else 0
        placed.append(int(device))
    return placed


def metis(subject: Subject) -> Sequence[int] | None:
    """METIS with seconds for weights of nodes and bytes for weights of edges."""
    problem = subject.problem
    edges: list[dict[int, int]] = [{} for _ in problem.nodes]
    for flow in problem.flows:
        for target in flow.targets:
            for one, other in ((flow.source, target), (target, flow.source)):
                nbytes = flow.nbytes + flow.gradient_nbytes
                edges[one][other] = edges[one].get(other, 0) + nbytes
    largest = max((nbytes for near in edges for nbytes in near.values()), default=1)
    seconds = _seconds(problem)
    _, placed = pymetis.part_graph(
        len(problem.devices),
        pymetis.CSRAdjacency(
            [0, *accumulate(map(len, edges))], [other for near in edges for other in near]
        ),
        eweights=[1 + round(1e6 * n / largest) for near in edges for n in near.values()],
        vweights=[1 + round(1e6 * second / max(seconds)) for second in seconds],
    )
    return [int(device) for device in placed]


def blocks_by_time(subject: Subject) -> Sequence[int] | None:
    """torchgpipe's rule."""
    return blocks(_seconds(subject.problem), len(subject.problem.devices))


def blocks_by_parameters(subject: Subject) -> Sequence[int] | None:
    """DeepSpeed's rule."""
    return blocks(subject.parameter_nbytes, len(subject.problem.devices))


def blocks_by_number(subject: Subject) -> Sequence[int] | None:
    """DeepSpeed's rule for layers that are all alike."""
    return blocks([1] * len(subject.problem.nodes), len(subject.problem.devices))


def _seconds(problem: Problem) -> list[float]:
    return [
        forward[0] + backward[0]
        for forward, backward in zip(problem.forward_seconds, problem.backward_seconds, strict=True)
    ]


def blocks(weights: Sequence[float], number: int) -> list[int]:
    """By place, its block, of contiguous ones whose largest sum is as small as can be."""
    low, high = max(weights), float(sum(weights))
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if _filled(weights, middle)[-1] < number else (middle, high)
    return _filled(weights, high)


def _filled(weights: Sequence[float], limit: float) -> list[int]:
    placed, held, block = [], 0.0, 0
    for weight in weights:
        if held + weight > limit:
            block, held = block + 1, 0.0
        held += weight
        placed.append(block)
    return placed


PEERS: dict[str, Split] = {
    "ours": ours,
    "accelerate": accelerate_in_turn,
    "auto": accelerate_balanced,
    "METIS": metis,
    "torchgpipe": blocks_by_time,
    "DeepSpeed parameters": blocks_by_parameters,
    "DeepSpeed uniform": blocks_by_number,
}


def compare(subject: Subject) -> dict[str, float | None]:
    """By peer, its objective; `inf` where it breaks a limit."""
    found: dict[str, float | None] = {}
    for name, split in PEERS.items():
        placed = split(subject)
        if placed is None:
            found[name] = None
            continue
        placed = list(placed)
        for group in colocation_groups(subject.problem):
            for node in group:
                placed[node] = placed[group[0]]
        recount = count(subject.problem, placed)
        found[name] = recount.objective if recount.feasible else float("inf")
    return found


def cell(value: float | None, best: float) -> str:
    """For the table."""
    if value is None:
        return "-"
    return "too full" if value == float("inf") else f"{value / best if best else 1.0:.3f}"


def subjects(models: Sequence[str], families: Sequence[str], objective: str) -> Iterator[Subject]:
    """What is compared."""
    for name in models:
        yield zoo_subject(name, objective)
    for family in families:
        yield generated_subject(family, objective)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="one model only")
    parser.add_argument("--objective", choices=OBJECTIVES, action="append")
    given = parser.parse_args(arguments)
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    models, families = (SMOKE, ()) if given.smoke else (MODELS, tuple(FAMILIES))
    print(f"| model | objective | {' | '.join(PEERS)} |")
    print(f"| --- | --- |{' ---: |' * len(PEERS)}")
    for objective in given.objective or OBJECTIVES:
        for subject in subjects(models, families, objective):
            found = compare(subject)
            best = min(value for value in found.values() if value is not None)
            cells = [cell(value, best) for value in found.values()]
            print(f"| {subject.name} | {objective} | {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
