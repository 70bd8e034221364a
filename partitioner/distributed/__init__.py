"""A plan as a pipeline of micro-batches: in one process, or with one process for each rank.

::

    Plan + nn.Module ─layout─► PipelineLayout ─┬─► LocalPipeline   one process, its GPUs
                                               └─► RankPipeline    one rank of `torchrun`

Both are stepped alike: `pipeline.step(*batch, target=labels, losses=[])`.

`torch.distributed.pipelining` and `.checkpoint` take as long to import as PyTorch itself; what
needs them is imported when it is asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from partitioner.distributed.faults import reporting_faults
from partitioner.distributed.layout import (
    PipelineLayout,
    first_micro_batch,
    micro_calls,
    whole_batch,
)
from partitioner.distributed.local import LocalPipeline
from partitioner.distributed.script import training_script
from partitioner.distributed.share import joined

if TYPE_CHECKING:
    from partitioner.distributed.ranks import RankPipeline
    from partitioner.distributed.resume import resume_checkpoint, save_checkpoint

__all__ = [
    "LocalPipeline",
    "PipelineLayout",
    "RankPipeline",
    "first_micro_batch",
    "joined",
    "micro_calls",
    "reporting_faults",
    "resume_checkpoint",
    "save_checkpoint",
    "training_script",
    "whole_batch",
]

_LATE = {"RankPipeline": "ranks", "resume_checkpoint": "resume", "save_checkpoint": "resume"}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LATE[name]}"), name)
