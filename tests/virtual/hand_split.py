"""Models split by hand, as one writes them for two GPUs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SeqNet(nn.Module):
    def __init__(self, first: str, second: str) -> None:
        super().__init__()
        self.first, self.second = first, second
        self.lin1 = nn.Linear(784, 128).to(first)
        self.lin2 = nn.Linear(128, 10).to(second)

    def forward(self, images: Tensor) -> Tensor:
        hidden = F.relu(self.lin1(images.to(self.first)))
        return F.log_softmax(self.lin2(hidden.to(self.second)), dim=1)


class Perceptron(nn.Module):
    def __init__(self, first: str, second: str) -> None:
        super().__init__()
        self.first, self.second = first, second
        self.below = nn.Sequential(nn.Linear(784, 64), nn.BatchNorm1d(64), nn.ReLU()).to(first)
        self.above = nn.Sequential(nn.Dropout(0.2), nn.Linear(64, 32), nn.GELU()).to(second)
        self.head = nn.Linear(32 + 64, 10).to(second)

    def forward(self, images: Tensor) -> Tensor:
        below = self.below(images.to(self.first)).to(self.second)
        return F.log_softmax(self.head(torch.cat([self.above(below), below], dim=1)), dim=1)


class Transformer(nn.Module):
    """Rows of an image are tokens; attention gets a mask that is made on the way."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__()
        self.first, self.second = first, second
        self.embed = nn.Linear(28, 32, device=first)
        self.below = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True).to(first)
        self.above = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True)
        self.above.to(second)
        self.head = nn.Linear(32, 10).to(second)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.embed(images.view(-1, 28, 28).to(self.first))
        mask = nn.Transformer.generate_square_subsequent_mask(28, device=self.first)
        hidden = self.below(tokens, src_mask=mask, is_causal=True).to(self.second)
        return F.log_softmax(self.head(self.above(hidden).mean(1)), dim=1)


class Recurrent(nn.Module):
    def __init__(self, first: str, second: str) -> None:
        super().__init__()
        self.first, self.second = first, second
        self.lstm = nn.LSTM(28, 16, 2, dropout=0.1, batch_first=True).to(first)
        self.head = nn.Linear(16, 10).to(second)

    def forward(self, images: Tensor) -> Tensor:
        hidden, _ = self.lstm(images.view(-1, 28, 28).to(self.first))
        return F.log_softmax(self.head(hidden[:, -1].to(self.second)), dim=1)


class Convolution(nn.Module):
    def __init__(self, first: str, second: str) -> None:
        super().__init__()
        self.first, self.second = first, second
        self.below = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)
        ).to(first)
        self.above = nn.Sequential(
            nn.Conv2d(4, 8, 3, stride=2), nn.GroupNorm(2, 8), nn.SiLU(), nn.AdaptiveAvgPool2d(1)
        ).to(second)
        self.head = nn.Linear(8, 10).to(second)

    def forward(self, images: Tensor) -> Tensor:
        below = self.below(images.view(-1, 1, 28, 28).to(self.first))
        return F.log_softmax(self.head(self.above(below.to(self.second)).flatten(1)), dim=1)


MODELS = (SeqNet, Perceptron, Transformer, Recurrent, Convolution)
