"""A U-Net: long skips, whose values are held from the way down until the way up.

`python -m examples.unet` trains it on two virtual GPUs, of which one alone is too small.
"""

import torch
from torch import Tensor, nn


class UNet(nn.Module):
    """Two steps down, two steps up, and a skip at each."""

    def __init__(self, width: int = 8):
        super().__init__()
        self.down1 = block(3, width)
        self.down2 = block(width, 2 * width)
        self.bottom = block(2 * width, 4 * width)
        self.pool = nn.MaxPool2d(2)
        self.up2 = nn.ConvTranspose2d(4 * width, 2 * width, 2, 2)
        self.join2 = block(4 * width, 2 * width)
        self.up1 = nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.join1 = block(2 * width, width)
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        skip1 = self.down1(image)
        skip2 = self.down2(self.pool(skip1))
        bottom = self.bottom(self.pool(skip2))
        up = self.join2(torch.cat([self.up2(bottom), skip2], dim=1))
        return self.head(self.join1(torch.cat([self.up1(up), skip1], dim=1)))


def block(inside: int, outside: int) -> nn.Module:
    """Two convolutions."""
    return nn.Sequential(
        nn.Conv2d(inside, outside, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(outside, outside, 3, padding=1),
        nn.ReLU(),
    )


torch.manual_seed(0)
model = UNet()


def inputs() -> Tensor:
    """An example call: four images."""
    return torch.zeros(4, 3, 32, 32)
