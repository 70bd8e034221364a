"""A plan as a pipeline of micro-batches: in one process, or with one process for each rank.

::

    Plan + nn.Module ─layout─► PipelineLayout ─┬─► LocalPipeline   one process, its GPUs
                                               └─► RankPipeline    one rank of `torchrun`

Both are stepped alike: `pipeline.step(*batch, target=labels, losses=[])`.
"""

from partitioner.distributed.faults import reporting_faults
from partitioner.distributed.layout import (
    PipelineLayout,
    first_micro_batch,
    micro_calls,
    whole_batch,
)
from partitioner.distributed.local import LocalPipeline
from partitioner.distributed.ranks import RankPipeline
from partitioner.distributed.resume import resume_checkpoint, save_checkpoint
from partitioner.distributed.script import training_script
from partitioner.distributed.share import joined

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
