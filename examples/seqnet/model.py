"""The same network twice: as anyone writes it, and as an expert splits it over two GPUs."""

import torch.nn.functional as F
from torch import Tensor, nn


class SeqNet(nn.Module):
    """Two linear layers with a log-softmax between them. It knows nothing of devices."""

    def __init__(self, input_size: int = 784, hidden_size: int = 200, output_size: int = 10):
        super().__init__()
        self.lin1 = nn.Linear(input_size, hidden_size)
        self.lin2 = nn.Linear(hidden_size, output_size)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(start_dim=1)
        x = F.log_softmax(self.lin1(x), dim=1)
        return self.lin2(x)


class HandSplitSeqNet(nn.Module):
    """SeqNet with its first layer on one GPU and its second on another, by hand."""

    def __init__(self, input_size: int = 784, hidden_size: int = 200, output_size: int = 10):
        super().__init__()
        self.lin1 = nn.Linear(input_size, hidden_size).to("cuda:0")
        self.lin2 = nn.Linear(hidden_size, output_size).to("cuda:1")

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(start_dim=1)
        x = F.log_softmax(self.lin1(x.to("cuda:0")), dim=1)
        return self.lin2(x.to("cuda:1"))
