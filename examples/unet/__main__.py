"""A U-Net that does not fit on one GPU learns to find bright discs on two."""

from pathlib import Path

import torch
from torch import Tensor, nn

from examples.unet import inputs, model
from partitioner import plan, virtual_gpus

STEPS = 6
PICTURES = Path("out")


def main() -> None:
    roomy = plan(model, "1x16GiB", inputs(), optimizer="adam")
    limit = int(0.75 * roomy.memory["cuda:0"].peak)
    tight = plan(model, "cuda:0,cuda:1", inputs(), optimizer="adam", memory=limit)
    print(tight, "", tight.explain(), "", sep="\n")
    PICTURES.mkdir(exist_ok=True)
    tight.draw(PICTURES / "unet.svg")

    with virtual_gpus(tight.virtual_cluster()):
        split = train(tight.apply(model))
    whole = train(model)
    for step, (one, two) in enumerate(zip(whole, split, strict=True)):
        print(f"step {step:2}: loss {one:.5f} in one piece, {two:.5f} split")
    assert max(abs(one - two) for one, two in zip(whole, split, strict=True)) < 1e-4


def train(network: nn.Module) -> list[float]:
    """A few steps on images with a bright disc each; the losses."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(STEPS):
        images, discs = batch(generator)
        optimizer.zero_grad()
        found = network(images)
        loss = nn.functional.binary_cross_entropy_with_logits(found, discs.to(found.device))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Four noisy images with a bright disc each, and where the discs are."""
    centres = torch.randint(8, 24, (4, 2, 1, 1), generator=generator)
    lines = torch.arange(32)
    far = (lines.view(1, 32, 1) - centres[:, 0]) ** 2 + (lines.view(1, 1, 32) - centres[:, 1]) ** 2
    discs = (far < 36).float().unsqueeze(1)
    return discs + 0.5 * torch.randn(4, 3, 32, 32, generator=generator), discs


if __name__ == "__main__":
    main()
