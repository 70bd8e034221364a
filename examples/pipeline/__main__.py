"""Two processes train a model as a pipeline, and lose what the whole model loses."""

import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from examples.pipeline import inputs, model
from partitioner import Cluster, Device, Link, Plan, plan

STEPS = 4
PICTURES = Path("out")
PROCESSES = 2


def main() -> None:
    gpus = ("cuda:0", "cuda:1")
    cluster = Cluster([Device(gpu, memory="1GiB") for gpu in gpus], [Link(gpus, "1000000GB/s")])
    found = plan(
        model, cluster, inputs(), optimizer="sgd", objective="throughput", micro_batches=4
    )  # fmt: skip
    print(found)
    PICTURES.mkdir(exist_ok=True)
    found.draw(PICTURES / "pipeline.svg", "timeline")
    with tempfile.TemporaryDirectory() as folder:
        found.save(f"{folder}/plan.json")
        mp.start_processes(run, (folder, STEPS), nprocs=PROCESSES, start_method="fork")
        split = torch.load(f"{folder}/losses.pt")
    whole = train_whole(STEPS)
    for step, (one, two) in enumerate(zip(whole, split, strict=True)):
        print(f"step {step}: loss {one:.6f} in one piece, {two:.6f} in {PROCESSES} processes")
    assert max(abs(one - two) for one, two in zip(whole, split, strict=True)) < 1e-5


def run(rank: int, folder: str, steps: int) -> None:
    """What each process does: its stage, step by step."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=PROCESSES
    )
    pipeline = Plan.load(f"{folder}/plan.json").pipeline_rank(model, "cpu", nn.functional.mse_loss)
    optimizer = torch.optim.SGD(pipeline.parameters(), lr=0.1)
    told = []
    for step in range(steps):
        batch, target = data(step)
        losses: list[Tensor] = []
        optimizer.zero_grad()
        pipeline.step(batch, target=target, losses=losses)
        optimizer.step()
        if losses:  # on the last stage, one for each micro-batch
            told.append(sum(loss.item() for loss in losses) / len(losses))
    if told:
        torch.save(told, f"{folder}/losses.pt")
    dist.destroy_process_group()


def train_whole(steps: int) -> list[float]:
    """The losses of the model in one piece."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for step in range(steps):
        batch, target = data(step)
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(batch), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def data(step: int) -> tuple[Tensor, Tensor]:
    """The batch of a step, and what the model is to make of it."""
    batch = torch.randn(16, 32, generator=torch.Generator().manual_seed(step))
    return batch, batch.roll(1, dims=1)


if __name__ == "__main__":
    main()
