"""What a placed module costs beside the original, a hand-split, and accelerate's hooks.

    python -m benchmarks.overhead [--smoke]

All "devices" are the CPU, where a move is a call that copies nothing: what is left is what each way
adds to the model's own work. All share their weights' memory and take turns within one run; ratios
are of medians of the process's CPU seconds.

- one: everything on one device, over the original.
- split: cut in two, over the same cut made by hand.
- accelerate: `dispatch_model` with the same cut as its device map, over the same hand-split.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
MOST_ROUNDS = 301


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
    tokens = torch.randint(1000, (2, 64))
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


def seconds(steps: Sequence[Callable[[], Tensor]], rounds: int, repeats: int) -> list[float]:
    """Median CPU seconds of several functions, which take turns, each second time backwards."""
    taken: list[list[float]] = [[] for _ in steps]
    for i in range(rounds + 1):
        order = range(len(steps)) if i % 2 else reversed(range(len(steps)))
        for which in order:
            start = time.process_time()
            for _ in range(repeats):
                steps[which]()
            if i > 0:
                taken[which].append((time.process_time() - start) / repeats)
    return [statistics.median(each) for each in taken]


def measure(case: Case, run: str, *, run_seconds: float) -> dict[str, float]:
    """Seconds of the original, and the three ratios, of a measurement of about `run_seconds`."""
    training = run == "training"
    made = variants(case, training=training)
    steps = [step(module, case.call, training=training) for module in made.values()]
    once = max(seconds(steps[:1], 3, 1)[0], 1e-6)
    repeats = max(1, round(PIECE_SECONDS / once))
    rounds = max(3, min(MOST_ROUNDS, round(run_seconds / (len(steps) * repeats * once))))
    taken = dict(zip(made, seconds(steps, rounds, repeats), strict=True))
    return {
        "seconds": taken["original"],
        "one": taken["one"] / taken["original"],
        "split": taken["split"] / taken["by hand"],
        "accelerate": taken["accelerate"] / taken["by hand"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--smoke", action="store_true", help="a tiny run that shows it works")
    smoke = parser.parse_args().smoke
    torch.set_num_threads(1)
    chosen = [case for case in cases() if not smoke or case.build is SeqNet]
    run_seconds = 0.1 if smoke else 12.0
    print(f"torch {torch.__version__}, one thread, {run_seconds:g} s a line")
    print("| model | run | original | one | split | accelerate |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for case in chosen:
        for run in RUNS:
            found = measure(case, run, run_seconds=run_seconds)
            print(
                f"| {case.name} | {run} | {found['seconds'] * 1e3:.3f} ms | {found['one']:.3f} | "
                f"{found['split']:.3f} | {found['accelerate']:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
