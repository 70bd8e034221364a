"""Pipelines of two processes, pinned to one core each, against one process and other splits.

    python -m benchmarks.pipeline [--smoke] [--model NAME]

All ways train the same model on the same batch, four micro-batches a step, under 1F1B on gloo:

- one: the whole model in one process on one core.
- planned: the cut of `partitioner.plan`, on times that were measured on this machine.
- layers: the cut into equal numbers of nodes.
- parameters: the cut into equal numbers of parameters.
- best: the fastest of `BEST_TRIED` cuts around the even ones, each of them run.

Samples per second are of the median step; the planned cut also has its predicted ones.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from cost_models import DeviceKind, MeasuredCostModel, OperatorCall, local_device
from partitioner import Cluster, Device, Link, plan
from partitioner.capture import capture
from partitioner.distributed import PipelineLayout, RankPipeline, first_micro_batch, micro_calls
from partitioner.graph import stage_units, training_loss

MICRO_BATCHES = 4
BEST_TRIED = 9
ROUNDS, SMOKE_ROUNDS = 12, 2
LINK = Link(("cuda:0", "cuda:1"), bandwidth="1GB/s", latency="200us")
"""Of gloo between two processes of one machine, roughly; the names stand for the processes."""


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
        torch.set_num_threads(1)
        self.measured = MeasuredCostModel().measure(model, "cpu", args, example_kwargs=kwargs)

    def seconds(self, call: OperatorCall, kind: DeviceKind) -> float:
        return self.measured.seconds(call, self.kind)


def splits(name: str, tried: int) -> tuple[dict[str, dict[str, int]], float]:
    """By way of splitting, the stage of each node; and the planned step's seconds."""
    model, args, kwargs = made(name)
    micro_args, micro_kwargs = first_micro_batch(args, kwargs, MICRO_BATCHES)
    captured = capture(model, micro_args, micro_kwargs, training=True)
    units = stage_units(captured)
    size = len(units)

    def cut(place: int) -> dict[str, int]:
        return {node: int(i >= place) for i, unit in enumerate(units) for node in unit}

    owned, seen = [], set()
    for unit in units:
        fresh = {s for node in unit for s in _state_of(captured, node)} - seen
        seen |= fresh
        owned.append(sum(captured.state[s].tensor.nbytes for s in fresh))
    sums = list(itertools.accumulate(owned))
    even = min(range(1, size), key=lambda place: abs(2 * sums[place - 1] - sums[-1]))
    found = plan(
        model,
        Cluster(tuple(Device(device, memory="16GiB") for device in LINK.between or ()), (LINK,)),
        args,
        example_kwargs=kwargs,
        objective="throughput",
        micro_batches=MICRO_BATCHES,
        cost_model=OnThisCpu(model, micro_args, micro_kwargs),
    )
    assert found.pipeline is not None
    ways = {
        "planned": dict(found.pipeline.stages),
        "layers": cut(size // 2),
        "parameters": cut(even),
    }
    ways |= {
        f"cut {place}": cut(place)
        for place in sorted({max(1, size * i // (tried + 1)) for i in range(1, tried + 1)})
    }
    return ways, float(found.step_seconds)


def _state_of(captured: Any, node: str) -> set[str]:
    """State that a node reads, directly or through `get_attr` nodes."""
    by_name = {n.name: n for n in captured.graph.nodes}
    found = set(captured.nodes[node].state)
    for operand in by_name[node].all_input_nodes:
        if operand.op == "get_attr":
            found |= set(captured.nodes[operand.name].state)
    return found


def worker(file: str) -> None:
    """One process of a measured pair: prints the seconds of each way's steps, on rank 1."""
    job = json.loads(Path(file).read_text())
    rank = int(os.environ["RANK"])
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[rank % len(cores)]})
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    model, args, kwargs = made(job["model"])
    micro_args, micro_kwargs = first_micro_batch(args, kwargs, MICRO_BATCHES)
    captured = capture(model, micro_args, micro_kwargs, training=True)
    steps: dict[str, Callable[[], None]] = {}
    for name, stage_of in job["ways"].items():
        if max(stage_of.values()) == 0:
            continue
        layout = PipelineLayout.of(captured, stage_of, "1f1b", MICRO_BATCHES)
        steps[name] = _pipelined(
            RankPipeline(model, layout, "cpu", lambda output, _: training_loss(output)),
            args,
            kwargs,
        )
    seconds: dict[str, list[float]] = {"one": [], **{name: [] for name in steps}}
    for turn in range(job["rounds"] + 1):
        for name, step in [("one", _whole(model, args, kwargs)), *steps.items()]:
            dist.barrier()
            start = time.perf_counter()
            if name != "one" or rank == 0:
                step()
            dist.barrier()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    if rank == 0:
        print("seconds:", json.dumps(seconds), flush=True)
    dist.destroy_process_group()


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


def measure(name: str, rounds: int, tried: int) -> dict[str, float]:
    """Samples per second by way, and as predicted for the planned one."""
    ways, predicted = splits(name, tried)
    model, args, kwargs = made(name)
    del model
    batch = next(iter((*args, *kwargs.values()))).shape[0]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "job.json")
        file.write_text(json.dumps({"model": name, "ways": ways, "rounds": rounds}))
        done = subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--standalone",
             "--nproc-per-node", "2", "-m", "benchmarks.pipeline", "--worker", str(file)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )  # fmt: skip
    told = [line for line in done.stdout.splitlines() if line.startswith("seconds:")]
    if done.returncode or not told:
        raise RuntimeError(done.stderr[-3000:])
    seconds = json.loads(told[0].removeprefix("seconds:"))
    rates = {way: batch / statistics.median(each) for way, each in seconds.items()}
    if "planned" not in rates:  # everything in one process was planned
        rates["planned"] = rates["one"]
    pipelines = [rate for way, rate in rates.items() if way != "one"]
    return {
        **{way: rates[way] for way in ("one", "planned", "layers", "parameters")},
        "best": max(pipelines),
        "predicted": batch / predicted,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="one small model, few steps")
    parser.add_argument("--model", choices=list(MODELS))
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker:
        worker(options.worker)
        return
    names = [options.model] if options.model else ["MLP"] if options.smoke else list(MODELS)
    rounds, tried = (SMOKE_ROUNDS, 2) if options.smoke else (ROUNDS, BEST_TRIED)
    print("samples per second; two processes of one core each, 1F1B")
    columns = ("one", "planned", "predicted", "layers", "parameters", "best")
    print(f"{'model':26}" + "".join(f"{column:>12}" for column in columns), " planned over best")
    for name in names:
        found = measure(name, rounds, tried)
        row = "".join(f"{found[column]:12.1f}" for column in columns)
        print(f"{name:26}{row}{found['planned'] / found['best']:14.2f}", flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
