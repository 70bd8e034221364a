"""Virtual GPUs: unmodified CUDA code goes in; true numbers and counted bytes come out.

Tensors stay ordinary CPU tensors (or fake ones); every *storage* carries a label that says on which
device it would be. ::

    user's code ──► functions.py   device arguments become labels, `.device` is answered from them
                        │
                        ▼
                    dispatch.py    rules.py: may these devices meet in this operator?
                        │          kernels.py: where CUDA computes or keeps other things
                        │          ledger.py: bytes that are live, the peak, the limit
                        ▼
                    PyTorch on the CPU

`cuda.py` is what `torch.cuda` tells meanwhile, `patches.py` what else is replaced in PyTorch,
`session.py` what all of them share.
"""

from partitioner.virtual.context import VirtualGpus, suspended, virtual_gpus
from partitioner.virtual.kernels import computed, native_dropout
from partitioner.virtual.ledger import VirtualGpu, rounded

__all__ = [
    "VirtualGpu",
    "VirtualGpus",
    "computed",
    "native_dropout",
    "rounded",
    "suspended",
    "virtual_gpus",
]
