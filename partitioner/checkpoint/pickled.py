"""What `torch.save` writes: the zip's checksums, `weights_only` unpickling, and a mapped file."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any

import torch
from torch import Tensor

from partitioner.checkpoint.stored import STATE_KEYS, StoredTensor, existing
from partitioner.errors import CheckpointError
from partitioner.virtual import suspended

_PIECE_NBYTES = 1 << 20


def pickled_entries(path: Path) -> tuple[dict[str, StoredTensor], dict[str, Any]]:
    """The tensors of a file, and its other entries.

    Raises:
        CheckpointError: the file is missing, truncated, damaged, of the format from before
            torch 1.6, or holds anything but tensors and plain values.
    """
    with existing(path).open("rb") as file:
        check_zip(file, str(path))
    with suspended():
        try:
            held = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except (UnpicklingError, RuntimeError, ValueError, EOFError, KeyError) as error:
            raise CheckpointError(
                f"'{path}' cannot be read with weights_only=True, and nothing in a checkpoint is "
                f"executed: {_first_line(error)}"
            ) from error
        state = _state_in(held, path)
        tensors = {k: v for k, v in state.items() if isinstance(v, Tensor)}
        return (
            {key: _stored(tensor, path, key) for key, tensor in tensors.items()},
            {key: value for key, value in state.items() if key not in tensors},
        )


def check_zip(file: IO[bytes], name: str) -> None:
    """Compare each record of a zip with its checksum, a piece at a time.

    `torch.load` does not. A record that was written without a checksum has 0 in its place.

    Raises:
        CheckpointError: it is no zip, or a record differs.
    """
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise CheckpointError(
            f"'{name}' is truncated or damaged, or was written before torch 1.6 ({error}); a file "
            "that `torch.load` reads can be rewritten by `torch.save(torch.load(path), path)`"
        ) from error
    with archive:
        for record in archive.infolist():
            if record.CRC == 0:
                continue
            try:
                with archive.open(record) as stream:
                    while stream.read(_PIECE_NBYTES):
                        pass
            except (zipfile.BadZipFile, EOFError, OSError, ValueError) as error:
                raise CheckpointError(
                    f"'{name}' is damaged in its record '{record.filename}': {error}"
                ) from error


def _stored(tensor: Tensor, path: Path, key: str) -> StoredTensor:
    if tensor.layout is torch.strided and not tensor.is_quantized:
        last = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
        needed = (tensor.storage_offset() + last + 1) * tensor.dtype.itemsize
        if tensor.numel() and needed > tensor.untyped_storage().nbytes():
            raise CheckpointError(f"'{path}': '{key}' reaches beyond its storage in the file")
    detached = tensor.detach()
    return StoredTensor(tuple(tensor.shape), tensor.dtype, path, lambda: detached)


def _state_in(held: Any, path: Path) -> Mapping[str, Any]:
    """The `state_dict`: the whole, or one entry of what a training run saved."""
    if isinstance(held, Mapping):
        if _is_state(held):
            return held
        found = [key for key in STATE_KEYS if _is_state(held.get(key))]
        if len(found) == 1:
            state: Mapping[str, Any] = held[found[0]]
            return state
    keys = f" with {', '.join(map(repr, list(held)[:6]))}" if isinstance(held, Mapping) else ""
    raise CheckpointError(
        f"'{path}' holds a {type(held).__name__}{keys}, where a model's state_dict is needed: "
        f"tensors by name, at the top or under {' or '.join(map(repr, STATE_KEYS))}"
    )


def _is_state(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and all(isinstance(key, str) for key in value)
        and any(isinstance(entry, Tensor) for entry in value.values())
        and not any(_is_state(entry) for entry in value.values())
    )


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
