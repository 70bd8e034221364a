"""A pipeline over processes: each of two has half of the layers, and micro-batches flow through.

`python -m examples.pipeline` plans it, starts the processes on gloo and compares their losses with
those of the whole model. With GPUs, `partitioner emit --target pipeline` writes such a loop for
`torchrun`.
"""

import torch
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(*(nn.Sequential(nn.Linear(32, 32), nn.Tanh()) for _ in range(8)))


def inputs() -> torch.Tensor:
    """An example call: a batch of sixteen."""
    return torch.zeros(16, 32)
