"""SeqNet on two GPUs that are not there: planned, emitted, and trained beside the hand-split."""

import inspect
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.seqnet import HandSplitSeqNet, SeqNet, digits
from partitioner import Cluster, Plan, plan, virtual_gpus
from partitioner.compare import compare, state_devices
from partitioner.options import Options
from partitioner.report import comparison_table
from partitioner.spec import format_nbytes

EPOCHS = 3
PICTURES = Path("out")


def main() -> None:
    torch.manual_seed(0)
    model, batches = SeqNet(), digits()
    images = batches[0][0]

    heading("Two GPUs of 16 GiB: one is enough, and the plan says so")
    roomy = plan(model, "2x16GiB", images, optimizer="adam", loss="cross_entropy")
    print(roomy.explain())

    one_needs = max(use.peak for use in roomy.memory.values())
    heading(f"Two GPUs with 1 KiB less than the {format_nbytes(one_needs)} that it takes on one")
    cluster = Cluster.of("cuda:0,cuda:1", memory=one_needs - 1024)
    tight = plan(model, cluster, images, optimizer="adam", loss="cross_entropy")
    print(tight, "", tight.explain(), sep="\n")

    heading("Split by hand")
    print(inspect.getsource(HandSplitSeqNet))
    heading("Split by partitioner")
    print(tight.source())

    heading("Both under one cost model")
    by_hand = state_devices(HandSplitSeqNet, cluster)
    candidates = {"partitioner": tight, "by hand": by_hand}
    options = Options(mode="train", optimizer="adam", loss="cross_entropy")
    print(comparison_table(compare(model, candidates, ((images,), {}), cluster, options)))

    heading(f"Both trained for {EPOCHS} epochs on {len(batches) * len(images)} handwritten digits")
    ours = train(model, cluster, batches, tight)
    hand = train(model, cluster, batches, None)
    largest = max(abs(a - b) for a, b in zip(ours, hand, strict=True))
    print(f"{len(ours)} steps; largest difference of two losses: {largest:.3g}")
    assert largest < 1e-5, "the two must learn the same"

    PICTURES.mkdir(exist_ok=True)
    for suffix in ("svg", "png", "html"):
        tight.draw(PICTURES / f"graph.{suffix}")
    print(f"pictures: {', '.join(str(path) for path in sorted(PICTURES.glob('graph.*')))}")


def train(
    model: nn.Module, cluster: Cluster, batches: list[tuple[Tensor, Tensor]], split: Plan | None
) -> list[float]:
    """Train a copy of `model`, split by a plan or by hand; print what it took; the losses."""
    with virtual_gpus(cluster) as gpus:
        placed: nn.Module
        if split is None:
            placed = HandSplitSeqNet()
            placed.load_state_dict(model.state_dict())
        else:
            placed = split.apply(model)
        gpus.reset_peak()
        gpus.reset_transfers()
        optimizer = torch.optim.Adam(placed.parameters())
        losses = []
        for _ in range(EPOCHS):
            for images, labels in batches:
                optimizer.zero_grad()
                output = placed(images)
                loss = F.cross_entropy(output, labels.to(output.device))
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
        print(f"{type(placed).__name__}: loss {losses[0]:.4f} -> {losses[-1]:.4f}")
        moves = [move for move in gpus.transfers if "cpu" not in move[:2]]
        print(
            f"  {len(moves) // len(losses)} transfers a step: {moves[: len(moves) // len(losses)]}"
        )
        for name in cluster.names:
            measured = gpus[name].peak_nbytes
            promised = f", promised {split.memory[name].peak:,}" if split else ""
            print(f"  {name}: measured peak {measured:,} bytes{promised}")
            assert split is None or measured == split.memory[name].peak, "a promise is kept"
    return losses


def heading(text: str) -> None:
    print(f"\n=== {text}\n")


if __name__ == "__main__":
    main()
