"""`Checkpoint`: what the headers of a checkpoint say, and how each tensor is read."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from partitioner.errors import CheckpointError

METADATA = ".metadata"
"""In a folder of `torch.distributed.checkpoint`, the file that tells of the others."""
STATE_KEYS = ("state_dict", "model_state_dict", "model")
"""Under which of its keys a checkpoint of a whole training run has the model's `state_dict`."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in a file.

    Attributes:
        shape: its sizes.
        dtype: its type in the file.
        file: where it is.
        read: gives its data on the host, which the caller only reads from and lets go of.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    file: Path
    read: Callable[[], Tensor]

    @property
    def nbytes(self) -> int:
        """Bytes of its elements."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A `state_dict` that is still on disk.

    Attributes:
        path: as the user gave it.
        tensors: by key.
        others: entries that are no tensors, such as a module's extra state.
    """

    path: Path
    tensors: Mapping[str, StoredTensor]
    others: Mapping[str, Any]


def existing(path: Path) -> Path:
    """The path of a file that is there.

    Raises:
        CheckpointError: it is not.
    """
    if not path.is_file():
        raise CheckpointError(f"'{path}': there is no such file")
    return path
