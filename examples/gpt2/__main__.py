"""A GPT-2 that fits on neither of two unequal GPUs learns the Zen of Python on both."""

import codecs
import contextlib
import io
from pathlib import Path

import torch
from torch import Tensor, nn

from examples.gpt2 import SEQUENCE, inputs, model
from partitioner import plan, virtual_gpus

with contextlib.redirect_stdout(io.StringIO()):
    import this

STEPS = 12
PICTURES = Path("out")


def main() -> None:
    roomy = plan(model, "2x16GiB", inputs(), optimizer="adamw")
    one_needs = max(use.peak for use in roomy.memory.values())
    memory = {"cuda:0": int(0.8 * one_needs), "cuda:1": int(0.5 * one_needs)}
    tight = plan(model, "cuda:0,cuda:1", inputs(), optimizer="adamw", memory=memory)
    print(tight, "", tight.explain(), "", sep="\n")
    PICTURES.mkdir(exist_ok=True)
    tight.draw(PICTURES / "gpt2.svg")
    (PICTURES / "gpt2_placed.py").write_text(tight.source())

    with virtual_gpus(tight.virtual_cluster()):
        split = train(tight.apply(model))
    whole = train(model)
    for step, (one, two) in enumerate(zip(whole, split, strict=True)):
        print(f"step {step:2}: loss {one:.5f} in one piece, {two:.5f} split")
    assert max(abs(one - two) for one, two in zip(whole, split, strict=True)) < 1e-3


def train(network: nn.Module) -> list[float]:
    """A few steps on random pieces of the text; the losses."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    losses = []
    for _ in range(STEPS):
        ids = batch(generator)
        optimizer.zero_grad()
        loss = network(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def batch(generator: torch.Generator) -> Tensor:
    """Eight pieces of the Zen of Python, as bytes."""
    text = torch.tensor(list(codecs.decode(this.s, "rot13").encode("ascii")))
    starts = torch.randint(len(text) - SEQUENCE, (8,), generator=generator)
    return torch.stack([text[start : start + SEQUENCE] for start in starts])


if __name__ == "__main__":
    main()
