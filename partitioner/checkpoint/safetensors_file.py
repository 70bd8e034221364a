"""Files of the safetensors library: its own header check, and tensors that are read one by one."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from partitioner.checkpoint.stored import StoredTensor, existing
from partitioner.errors import CheckpointError
from partitioner.virtual import suspended


def safetensors_tensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a file, whose header has been held against the file's size.

    Raises:
        CheckpointError: the file is missing, truncated or damaged.
    """
    with suspended():
        try:
            file: Any = safe_open(existing(path), framework="pt", device="cpu")
            return {key: _stored(path, file, key) for key in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"'{path}' is truncated or damaged, or no safetensors file: {error}"
            ) from error


def _stored(path: Path, file: Any, key: str) -> StoredTensor:
    """The tensor is a view of the mapped file: it costs the host nothing until it is copied."""
    tensor = file.get_tensor(key)
    return StoredTensor(tuple(tensor.shape), tensor.dtype, path, partial(_read, file, key))


def _read(file: Any, key: str) -> Tensor:
    tensor: Tensor = file.get_tensor(key)
    return tensor
