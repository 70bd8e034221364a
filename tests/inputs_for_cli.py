"""A model and its inputs, as a user of the command line would have them in a file."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from examples.seqnet import SeqNet


class Adder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, left: Tensor, *, right: Tensor) -> Tensor:
        return self.layer(left) + right


def call() -> dict[str, Tensor]:
    return {"left": torch.ones(2, 4), "right": torch.ones(4)}


def wider() -> SeqNet:
    """SeqNet with more between its layers: another model under the same name."""
    return SeqNet(hidden_size=300)


one_device = {"": "cuda:0"}
"""A device map that puts the whole model on one GPU."""
