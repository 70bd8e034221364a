"""A checkpoint and a model in; for each of the model's tensors, where its data is read, out.

::

    path ─open_checkpoint─► Checkpoint ─match─► {name: read} ─emit.place─► PlacedModule
            headers only, checked        named as the model's state_dict

Nothing is placed before every header was checked, nothing in a file is ever executed, and the host
holds the data of one tensor at a time.
"""

from partitioner.checkpoint.matching import match
from partitioner.checkpoint.opening import open_checkpoint
from partitioner.checkpoint.stored import Checkpoint, StoredTensor

__all__ = ["Checkpoint", "StoredTensor", "match", "open_checkpoint"]
