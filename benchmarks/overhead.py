"""What a placed module costs beside the original, a hand-split, and accelerate's hooks.

    python -m benchmarks.overhead [--smoke] [--model NAME] [--seconds S]

All "devices" are the CPU, where a move is a call that copies nothing: what is left is what each way
adds to the model's own work. All share their weights' memory and take turns within one run, in
another order in every round, on one thread, without garbage collection. Ratios are of the process's
CPU seconds in the same round: their median, and between which limits it is with 95% confidence
(bootstrap over the rounds).

- again: the original, built once more, over the original: how far two runs of the same work differ.
- one: everything on one device, over the original.
- split: cut in two, over the same cut made by hand.
- accelerate: `dispatch_model` with the same cut as its device map, over the same hand-split.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import dispatch_model
from torch import Tensor, nn

from examples.seqnet import SeqNet
from partitioner.capture import Captured, capture
from partitioner.emit import map_of, place, placement_of_state

DEVICES = ("cpu:0", "cpu:1")
"""Of the plan; in code, as on tensors, the CPU has no index."""
RUNS = ("inference", "training")
PIECE_SECONDS = 0.004
"""How long one way works before it is the next one's turn, at least."""
MOST_ROUNDS = 1001
RESAMPLES = 1000
"""Of the bootstrap."""
RATIOS = {
    "again": ("again", "original"),
    "one": ("one", "original"),
    "split": ("split", "by hand"),
    "accelerate": ("accelerate", "by hand"),
}
"""Each column: which way over which other."""


class HandSplitSeqNet(SeqNet):
    def forward(self, x: Tensor) -> Tensor:
        x = x.view(x.size(0), -1).to("cpu")
        x = F.log_softmax(self.lin1(x), dim=1)
        return self.lin2(x.to("cpu"))


class Block(nn.Module):
    """A residual block of two convolutions."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """Eight residual blocks on small images."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, 1, 1)
        widths = [32, 32, 32, 64, 64, 128, 128, 256, 256]
        pairs = itertools.pairwise(widths)
        self.blocks = nn.ModuleList(Block(a, b, 1 + (a != b)) for a, b in pairs)
        self.head = nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))


class HandSplitResNet(ResNet):
    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x.to("cpu"))
        for block in self.blocks[:4]:
            x = block(x)
        x = x.to("cpu")
        for block in self.blocks[4:]:
            x = block(x)
        return self.head(x.mean((2, 3)))


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        n_layer=12, n_embd=128, n_head=4, vocab_size=1000, n_positions=128, use_cache=False
    )
    return _without_dropout(GPT2LMHeadModel(config))


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        num_hidden_layers=8,
        hidden_size=128,
        intermediate_size=344,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=1000,
        max_position_embeddings=128,
        use_cache=False,
    )
    return _without_dropout(LlamaForCausalLM(config))


def _without_dropout(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def hand_split(build: Callable[[], nn.Module], first_of_second: str) -> Callable[[], nn.Module]:
    """A model of a library, split as one would without touching its code: a hook at the cut."""

    def moved(module: nn.Module, args: Any, kwargs: Any) -> Any:
        return (
            tuple(_on_second(value) for value in args),
            {name: _on_second(value) for name, value in kwargs.items()},
        )

    def made() -> nn.Module:
        model = build()
        cut = model.get_submodule(first_of_second)
        cut.register_forward_pre_hook(moved, with_kwargs=True)
        return model

    return made


def _on_second(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_on_second(part) for part in value)
    return value.to("cpu") if isinstance(value, Tensor) else value


@dataclass(frozen=True)
class Case:
    """A model, its call, and where it is cut.

    Attributes:
        name: in the table.
        build: the original.
        by_hand: the same, split.
        cut: path of the first module of the second half.
        call: keyword arguments.
    """

    name: str
    build: Callable[[], nn.Module]
    by_hand: Callable[[], nn.Module]
    cut: str
    call: Mapping[str, Tensor]


def cases() -> tuple[Case, ...]:
    torch.manual_seed(0)
    tokens = torch.randint(1000, (2, 16))
    halves = {"gpt2": "transformer.h.6", "llama": "model.layers.4"}
    return (
        Case("SeqNet, batch 1", SeqNet, HandSplitSeqNet, "lin2", {"x": torch.randn(1, 784)}),
        Case("SeqNet, batch 64", SeqNet, HandSplitSeqNet, "lin2", {"x": torch.randn(64, 784)}),
        Case("ResNet", ResNet, HandSplitResNet, "blocks.4", {"x": torch.randn(2, 3, 32, 32)}),
        Case(
            "GPT-2", gpt2, hand_split(gpt2, halves["gpt2"]), halves["gpt2"], {"input_ids": tokens}
        ),
        Case(
            "Llama",
            llama,
            hand_split(llama, halves["llama"]),
            halves["llama"],
            {"input_ids": tokens},
        ),
    )


def cut_in_two(recording: Captured, cut: str) -> dict[str, str]:
    """Everything from the first node of a module on is on the second device."""
    placement, device = {}, DEVICES[0]
    for name, info in recording.nodes.items():
        if info.module_path == cut or info.module_path.startswith(f"{cut}."):
            device = DEVICES[1]
        placement[name] = device
    for group in recording.colocated:
        placement.update(dict.fromkeys(group, placement[group[0]]))
    return placement


def variants(case: Case, *, training: bool) -> dict[str, nn.Module]:
    """The same model in each way, on the same weights; their outputs are compared."""
    original = case.build().train(training)
    recording = capture(original, (), case.call, training=training)
    placement = cut_in_two(recording, case.cut)
    homes = placement_of_state(recording, placement)
    device_map = map_of(recording.graph, recording.nodes, placement, homes)
    made = {
        "original": original,
        "again": case.build().train(training),
        "one": place(original, recording, dict.fromkeys(recording.nodes, DEVICES[0])),
        "by hand": case.by_hand().train(training),
        "split": place(original, recording, placement),
        "accelerate": dispatch_model(
            case.build().train(training),
            dict.fromkeys(device_map, "cpu"),
            main_device="cpu",
            force_hooks=True,
        ),
    }
    for module in made.values():
        for own, shared in (
            *zip(module.parameters(), original.parameters(), strict=True),
            *zip(module.buffers(), original.buffers(), strict=True),
        ):
            own.data = shared.data
    _check_same(case, made)
    return made


def _check_same(case: Case, made: Mapping[str, nn.Module]) -> None:
    with torch.no_grad():
        outputs = [first_tensor(module(**case.call)) for module in made.values()]
    for output in outputs[1:]:
        torch.testing.assert_close(output, outputs[0])


def first_tensor(output: Any) -> Tensor:
    tensor: Tensor = output if isinstance(output, Tensor) else output.logits
    return tensor


def step(module: nn.Module, call: Mapping[str, Tensor], *, training: bool) -> Callable[[], Tensor]:
    """A function that runs a module once."""

    def train() -> Tensor:
        module.zero_grad()
        output = first_tensor(module(**call))
        output.sum().backward()  # type: ignore[no-untyped-call]
        return output

    def infer() -> Tensor:
        with torch.no_grad():
            return first_tensor(module(**call))

    return train if training else infer


def seconds(
    steps: Mapping[str, Callable[[], Tensor]], rounds: int, repeats: int
) -> dict[str, np.ndarray]:
    """CPU seconds of several functions in every round, in which they take turns."""
    taken: dict[str, list[float]] = {name: [] for name in steps}
    order, shuffled = list(steps), random.Random(0)
    for i in range(rounds + 1):
        shuffled.shuffle(order)
        for name in order:
            start = time.process_time()
            for _ in range(repeats):
                steps[name]()
            if i > 0:
                taken[name].append((time.process_time() - start) / repeats)
        gc.collect(0)
    return {name: np.array(each) for name, each in taken.items()}


@dataclass(frozen=True)
class Ratio:
    """The median of a ratio over all rounds, and its 95% interval."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, ratios: np.ndarray) -> Ratio:
        """From the ratio of each round."""
        generator = np.random.default_rng(0)
        drawn = generator.choice(ratios, (RESAMPLES, len(ratios)))
        low, high = np.quantile(np.median(drawn, axis=1), (0.025, 0.975))
        return cls(float(np.median(ratios)), float(low), float(high))

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True)
class Measured:
    """What was measured of a model.

    Attributes:
        seconds: of the original, median.
        ratios: by column.
    """

    seconds: float
    ratios: Mapping[str, Ratio]


def measure(case: Case, run: str, *, run_seconds: float) -> Measured:
    """Seconds of the original, and the ratios, of a measurement of about `run_seconds`."""
    training = run == "training"
    made = variants(case, training=training)
    steps = {name: step(module, case.call, training=training) for name, module in made.items()}
    gc.collect()
    gc.disable()
    try:
        first = seconds({"original": steps["original"]}, 3, 1)["original"]
        once = max(float(np.median(first)), 1e-6)
        repeats = max(1, round(PIECE_SECONDS / once))
        rounds = max(3, min(MOST_ROUNDS, round(run_seconds / (len(steps) * repeats * once))))
        taken = seconds(steps, rounds, repeats)
    finally:
        gc.enable()
    return Measured(
        float(np.median(taken["original"])),
        {name: Ratio.of(taken[way] / taken[other]) for name, (way, other) in RATIOS.items()},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--smoke", action="store_true", help="a tiny run that shows it works")
    parser.add_argument("--model", help="only models whose names begin so")
    parser.add_argument("--seconds", type=float, default=18.0, help="of each line, about")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    chosen = [
        case
        for case in cases()
        if case.name.startswith(asked.model or "") and (case.build is SeqNet or not asked.smoke)
    ]
    run_seconds = 0.1 if asked.smoke else asked.seconds
    print(f"torch {torch.__version__}, one thread, {run_seconds:g} s a line")
    print(f"| model | run | original | {' | '.join(RATIOS)} |")
    print(f"| --- | --- | ---: |{' ---: |' * len(RATIOS)}")
    for case in chosen:
        for run in RUNS:
            found = measure(case, run, run_seconds=run_seconds)
            columns = " | ".join(map(str, found.ratios.values()))
            print(f"| {case.name} | {run} | {found.seconds * 1e3:.3f} ms | {columns} |", flush=True)


if __name__ == "__main__":
    main()
