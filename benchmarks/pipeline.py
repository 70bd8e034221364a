"""Pipelines of two processes, pinned to one core each, against one process and other splits.

    python -m benchmarks.pipeline [--smoke] [--model NAME]

All ways train the same model on the same batch, four micro-batches a step, under 1F1B on gloo:

- one: the whole model in one process on one core.
- both: two such processes at once, each with a batch of its own. No cut can do more: cores share
  caches and memory.
- planned: the cut of `partitioner.plan`, on times of operators and of gloo's link that were
  measured just before by the very processes: operators by both at once, since cores share caches
  and memory, and the link as pipelines use it, with messages both ways between work.
- layers: the cut into equal numbers of nodes.
- parameters: the cut into equal numbers of parameters.
- best: the best cut by trying. All cuts are run for a few steps; of a model with more than
  `MOST_TRIED`, every n-th, then all around the best three of these. The fastest of them are then
  measured again side by side with the other ways. The fastest in every other round is the best;
  its time, and all others, are those of the rounds between, so that it is not the luckiest.

Samples per second are of the median step of rounds in which all ways take turns, forwards and
backwards. `planned / best` also has the quartiles of its rounds. One process and the planned way
have their predicted figures: the sum of the operators' times, and the simulated timetable, which
`benchmarks.timetables`, printed below, holds against processes by itself.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import timetables
from benchmarks.processes import together
from cost_models import DeviceKind, MeasuredCostModel, OperatorCall, local_device
from partitioner import Cluster, Device, Link, plan
from partitioner.capture import capture
from partitioner.distributed import PipelineLayout, RankPipeline, first_micro_batch, micro_calls
from partitioner.graph import stage_units, training_loss

MICRO_BATCHES = 4
MOST_TRIED, SMOKE_TRIED = 40, 3
"""Cuts of one model that are tried at first."""
AROUND, SMOKE_AROUND = 3, 1
"""The fastest of them, around which all others are."""
STEPS, SMOKE_STEPS = 2, 1
"""Of each cut, of which the fastest counts."""
FINALISTS = 4
"""Cuts that are measured again."""
ROUNDS, SMOKE_ROUNDS = 16, 4
NAMES = ("cuda:0", "cuda:1")
"""Stand for the two processes."""
MESSAGES = (8, 1_000_000)
"""Bytes of the messages by which the link is measured."""
EXCHANGES = 30
WORK_NBYTES = 32_000_000
"""What the processes touch between two of them."""


class MLP(nn.Module):
    """Layers of unequal width."""

    def __init__(self) -> None:
        super().__init__()
        widths = [256, 1024, 1024, 512, 256, 256, 128, 128, 64, 10]
        self.layers = nn.ModuleList(itertools.starmap(nn.Linear, itertools.pairwise(widths)))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = F.relu(layer(x))
        return x


class UNet(nn.Module):
    """Two levels with skips; most of the work is at the ends."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = self._pair(3, 24), self._pair(24, 48)
        self.bottom = self._pair(48, 96)
        self.join2, self.join1 = self._pair(96 + 48, 48), self._pair(48 + 24, 24)
        self.head = nn.Conv2d(24, 1, 1)

    @staticmethod
    def _pair(inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1), nn.ReLU(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        one = self.down1(x)
        two = self.down2(F.max_pool2d(one, 2))
        low = self.bottom(F.max_pool2d(two, 2))
        two = self.join2(torch.cat([F.interpolate(low, scale_factor=2), two], 1))
        return self.head(self.join1(torch.cat([F.interpolate(two, scale_factor=2), one], 1)))


def resnet() -> nn.Module:
    from benchmarks.overhead import ResNet

    return ResNet()


def gpt2() -> nn.Module:
    """Six blocks and a vocabulary that weighs as much as they do."""
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(
            n_layer=6, n_embd=128, n_head=4, vocab_size=16000, n_positions=64, use_cache=False,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, tie_word_embeddings=False,
        )
    )  # fmt: skip


def bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(
        BertConfig(
            num_hidden_layers=6, hidden_size=128, intermediate_size=512, num_attention_heads=4,
            vocab_size=4000, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )
    )  # fmt: skip


def _tokens(batch: int, vocabulary: int) -> dict[str, Tensor]:
    return {"input_ids": torch.arange(batch * 64).reshape(batch, 64) % vocabulary}


BATCH = 16
MODELS: Mapping[str, tuple[Callable[[], nn.Module], Callable[[], tuple[tuple, dict]]]] = {
    "GPT-2, large vocabulary": (
        gpt2,
        lambda: ((), _tokens(BATCH, 16000) | {"labels": _tokens(BATCH, 16000)["input_ids"]}),
    ),
    "U-Net": (UNet, lambda: ((torch.ones(BATCH, 3, 32, 32),), {})),
    "ResNet": (resnet, lambda: ((torch.ones(BATCH, 3, 32, 32),), {})),
    "BERT": (
        bert,
        lambda: ((), _tokens(BATCH, 4000) | {"labels": torch.zeros(BATCH, dtype=torch.long)}),
    ),
    "MLP": (MLP, lambda: ((torch.ones(16 * BATCH, 256),), {})),
}


def made(name: str) -> tuple[nn.Module, tuple, dict]:
    torch.manual_seed(0)
    build, call = MODELS[name]
    return (build().train(), *call())


class OnThisCpu:
    """Times measured on one core of this machine, whatever device is asked for."""

    def __init__(self, model: nn.Module, args: tuple, kwargs: dict) -> None:
        kind = local_device("cpu")
        assert kind is not None
        self.kind = kind
        self.measured = MeasuredCostModel().measure(model, "cpu", args, example_kwargs=kwargs)

    def seconds(self, call: OperatorCall, kind: DeviceKind) -> float:
        return self.measured.seconds(call, self.kind)


def gloo_link() -> Link:
    """Between two processes that work for a while, then send to each other and wait for both.

    So the schedules do; a message that sets out while its receiver computes, or that finds its
    bytes in the cache, is another matter.
    """
    rank, median = dist.get_rank(), []
    work = torch.zeros(WORK_NBYTES // 4)
    for nbytes in MESSAGES:
        seconds = []
        for _ in range(EXCHANGES):
            there, back = (torch.ones(nbytes, dtype=torch.uint8) for _ in range(2))
            work += 1
            begun = time.monotonic()
            messages = [dist.P2POp(dist.isend, there, 1 - rank)]
            messages.append(dist.P2POp(dist.irecv, back, 1 - rank))
            for message in dist.batch_isend_irecv(messages):
                message.wait()
            ended = time.monotonic()
            times: list[tuple[float, float]] = [(0.0, 0.0)] * 2
            dist.all_gather_object(times, (begun, ended))
            begins, ends = zip(*times, strict=True)
            seconds.append(max(ends) - max(begins))
        median.append(statistics.median(seconds))
    small, large = median
    each = max(large - small, 1e-9) / (MESSAGES[1] - MESSAGES[0])
    return Link(NAMES, latency=small, bandwidth=1 / each)


def planned(model: nn.Module, args: tuple, kwargs: dict) -> dict[str, Any]:
    """In each of two processes: the stage of each node by the plan, and what it predicts."""
    link = gloo_link()
    costs = OnThisCpu(model, *first_micro_batch(args, kwargs, MICRO_BATCHES))
    told: list[Any] = [None]
    if dist.get_rank() == 0:
        found = plan(
            model,
            Cluster(tuple(Device(device, memory="16GiB") for device in NAMES), (link,)),
            args,
            example_kwargs=kwargs,
            objective="throughput",
            micro_batches=MICRO_BATCHES,
            cost_model=costs,
        )
        assert found.pipeline is not None
        work = sum(
            cost.forward_seconds[NAMES[0]] + cost.backward_seconds[NAMES[0]]
            for cost in found.costs.values()
        )
        told[0] = {
            "stages": dict(found.pipeline.stages),
            "planned": found.step_seconds,
            "one": MICRO_BATCHES * work,
            "link": (link.latency_seconds, link.bytes_per_second),
        }
    dist.broadcast_object_list(told, 0)
    return dict(told[0])


def even_places(captured: Any, units: Sequence[tuple[str, ...]]) -> dict[str, int]:
    """Where a line is cut into equal numbers of nodes, and of parameters."""
    owned, seen = [], set()
    for unit in units:
        fresh = {s for node in unit for s in _state_of(captured, node)} - seen
        seen |= fresh
        owned.append(sum(captured.state[s].tensor.nbytes for s in fresh))
    sums = list(itertools.accumulate(owned))
    size = len(units)
    even = min(range(1, size), key=lambda place: abs(2 * sums[place - 1] - sums[-1]))
    return {"layers": size // 2, "parameters": even}


def _state_of(captured: Any, node: str) -> set[str]:
    """State that a node reads, directly or through `get_attr` nodes."""
    by_name = {n.name: n for n in captured.graph.nodes}
    found = set(captured.nodes[node].state)
    for operand in by_name[node].all_input_nodes:
        if operand.op == "get_attr":
            found |= set(captured.nodes[operand.name].state)
    return found


def times(job: dict[str, Any]) -> dict[str, Any]:
    """In each of two processes: each way's median seconds, and how many cuts were tried."""
    model, args, kwargs = made(job["model"])
    captured = capture(model, *first_micro_batch(args, kwargs, MICRO_BATCHES), training=True)
    units = stage_units(captured)
    predicted = planned(model, args, kwargs)

    def step_of(stage_of: Mapping[str, int]) -> Callable[[], None]:
        layout = PipelineLayout.of(captured, stage_of, "1f1b", MICRO_BATCHES)
        pipeline = RankPipeline(model, layout, "cpu", lambda output, _: training_loss(output))
        return _pipelined(pipeline, args, kwargs)

    def cut(place: int) -> dict[str, int]:
        return {node: int(i >= place) for i, unit in enumerate(units) for node in unit}

    tried: dict[int, float] = {}

    def trying(places: Iterable[int]) -> None:
        for place in places:
            if 0 < place < len(units) and place not in tried:
                step = step_of(cut(place))
                tried[place] = min([_timed(step) for _ in range(job["steps"] + 1)][1:])

    stride = -(-len(units) // job["tried"])
    trying(range(1, len(units), stride))
    for place in _fastest(tried, job["around"]) if stride > 1 else ():
        trying(range(place - stride + 1, place + stride))
    ways = {way: cut(place) for way, place in even_places(captured, units).items()}
    if max(predicted["stages"].values()):
        ways["planned"] = predicted["stages"]
    distinct = [cut(place) for place in _fastest(tried, FINALISTS)]
    distinct += [stage_of for stage_of in ways.values() if stage_of not in distinct]
    whole = _whole(model, args, kwargs)
    alone = whole if dist.get_rank() == 0 else _nothing
    steps = [alone, whole, *map(step_of, distinct)]
    rounds: list[list[float]] = []
    for turn in range(-1, job["rounds"]):
        taken = {}
        for place in sorted(range(len(steps)), reverse=turn % 4 > 1):
            taken[place] = _timed(steps[place])
        if turn >= 0:
            rounds.append([taken[place] for place in range(len(steps))])
    cuts = _medians(rounds[::2])[2:]
    best = 2 + cuts.index(min(cuts))
    place_of = {"one": 0, "both": 1, "planned": 0, "best": best}
    place_of |= {way: 2 + distinct.index(stage_of) for way, stage_of in ways.items()}
    counted = rounds[1::2]
    medians = _medians(counted)
    ratios = [turn[best] / turn[place_of["planned"]] for turn in counted]
    return {
        "seconds": {way: medians[place] for way, place in place_of.items()},
        "predicted": predicted,
        "quartiles": statistics.quantiles(ratios, n=4)[::2],
        "tried": len(tried),
        "places": len(units) - 1,
    }


def _medians(rounds: Sequence[Sequence[float]]) -> list[float]:
    return [statistics.median(each) for each in zip(*rounds, strict=True)]


def _timed(step: Callable[[], None]) -> float:
    """Seconds until both processes are done; the same figure in both."""
    dist.barrier()
    start = time.perf_counter()
    step()
    dist.barrier()
    taken = torch.tensor(time.perf_counter() - start)
    dist.broadcast(taken, 0)
    return float(taken)


def _fastest(tried: Mapping[int, float], count: int) -> list[int]:
    return sorted(tried, key=lambda place: (tried[place], place))[:count]


def _nothing() -> None:
    """What the other process does while one has the whole model."""


def _pipelined(pipeline: RankPipeline, args: tuple, kwargs: dict) -> Callable[[], None]:
    def step() -> None:
        pipeline.zero_grad()
        pipeline.step(*args, **kwargs)

    return step


def _whole(model: nn.Module, args: tuple, kwargs: dict) -> Callable[[], None]:
    def step() -> None:
        model.zero_grad()
        for micro_args, micro_kwargs in micro_calls(args, kwargs, MICRO_BATCHES):
            loss = training_loss(model(*micro_args, **micro_kwargs)) / MICRO_BATCHES
            loss.backward()

    return step


def measure(name: str, small: bool) -> dict[str, Any]:
    """What `times` finds, with samples per second in place of seconds."""
    job = {
        "model": name,
        "tried": SMOKE_TRIED if small else MOST_TRIED,
        "around": SMOKE_AROUND if small else AROUND,
        "steps": SMOKE_STEPS if small else STEPS,
        "rounds": SMOKE_ROUNDS if small else ROUNDS,
    }
    found = together(2, {"benchmarks.pipeline:times": job})["benchmarks.pipeline:times"]
    _, args, kwargs = made(name)
    batch = next(iter((*args, *kwargs.values()))).shape[0]
    predicted = {way: batch / found["predicted"][way] for way in ("one", "planned")}
    rates = {way: batch / seconds for way, seconds in found["seconds"].items()}
    rates["both"] *= 2
    return {**found, "rates": rates, "predicted": predicted, "link": found["predicted"]["link"]}


def row(name: str, found: Mapping[str, Any]) -> str:
    """One model's line: samples per second, then the planned way over the others."""
    rates, predicted = found["rates"], found["predicted"]
    columns = (
        rates["one"], predicted["one"], rates["both"], rates["planned"], predicted["planned"],
        rates["layers"], rates["parameters"], rates["best"],
    )  # fmt: skip
    shown = "".join(f"{rate:11.1f}" for rate in columns)
    worse = min(rates["layers"], rates["parameters"])
    best, *others = (rates["planned"] / other for other in (rates["best"], worse, rates["one"]))
    low, high = found["quartiles"]
    latency, bandwidth = found["link"]
    return (
        f"{name:24}{shown}{best:7.2f} ({low:.2f} to {high:.2f})"
        + "".join(f"{ratio:9.2f}" for ratio in others)
        + f"  {found['tried']} of {found['places']}"
        + f"  {1e6 * latency:.0f} us, {bandwidth / 1e9:.2f} GB/s"
    )


COLUMNS = ("one", "predicted", "both", "planned", "predicted", "layers", "parameters", "best")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="one small model, few steps")
    parser.add_argument("--model", choices=list(MODELS))
    options = parser.parse_args(arguments)
    names = [options.model] if options.model else ["MLP"] if options.smoke else list(MODELS)
    print(
        "samples per second; two processes of one core each, 1F1B on gloo\n"
        f"{'model':24}"
        + "".join(f"{column:>11}" for column in COLUMNS)
        + " / best (quartiles)     / worse    / one  cuts tried  a message"
    )
    for name in names:
        print(row(name, measure(name, options.smoke)), flush=True)
    if not options.smoke and not options.model:
        print()
        timetables.main([])


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
