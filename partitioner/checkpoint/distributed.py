"""Folders of `torch.distributed.checkpoint`, read without a process group.

Their `.metadata` is a pickle; only the plain records that the library writes are let through. A
tensor is stored in chunks, each of them what `torch.save` writes, at an offset of a file.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, TensorStorageMetadata

from partitioner.checkpoint.pickled import check_zip
from partitioner.checkpoint.stored import METADATA, STATE_KEYS, StoredTensor, existing
from partitioner.errors import CheckpointError

_RECORDS: Mapping[str, frozenset[str]] = {
    "torch.distributed.checkpoint.metadata": frozenset(
        {
            "BytesStorageMetadata",
            "ChunkStorageMetadata",
            "Metadata",
            "MetadataIndex",
            "StorageMeta",
            "TensorProperties",
            "TensorStorageMetadata",
            "_MEM_FORMAT_ENCODING",
        }
    ),
    "torch.distributed.checkpoint.filesystem": frozenset({"_StorageInfo"}),
    "torch.serialization": frozenset({"_get_layout"}),
    "torch": frozenset({"Size"}),
    "collections": frozenset({"OrderedDict"}),
    "pathlib": frozenset({"PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"}),
    "pathlib._local": frozenset({"PosixPath", "WindowsPath"}),
}


class _Chunk(NamedTuple):
    """A part of a tensor, and where it is."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: Path
    start: int
    nbytes: int


def distributed_entries(folder: Path) -> tuple[dict[str, StoredTensor], dict[str, Any]]:
    """The tensors of a folder; entries of other kinds would have to be executed and stay out.

    Raises:
        CheckpointError: the metadata is damaged or foreign, a file is missing or damaged, or the
            chunks of a tensor do not make it whole.
    """
    metadata = _metadata(folder / METADATA)
    try:
        named = {
            key: (stored, metadata.state_dict_metadata[stored])
            for key, stored in _state_keys(metadata).items()
        }
        return {
            key: _stored(folder, metadata, stored, held)
            for key, (stored, held) in named.items()
            if isinstance(held, TensorStorageMetadata)
        }, {}
    except (AttributeError, KeyError, TypeError) as error:
        raise CheckpointError(f"'{folder / METADATA}' is damaged: {error!r}") from error


class _Slice(io.RawIOBase):
    """The part of a file that a chunk takes up."""

    def __init__(self, chunk: _Chunk) -> None:
        self._file = chunk.file.open("rb", buffering=0)
        self._start, self._nbytes, self._at = chunk.start, chunk.nbytes, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._nbytes}[whence]
        if base + offset < 0:
            raise ValueError(f"position {base + offset} is before the start")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        room = memoryview(buffer)[: max(self._nbytes - self._at, 0)]
        self._file.seek(self._start + self._at)
        count = self._file.readinto(room) or 0
        self._at += count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """A class of `_RECORDS`, or a `torch.dtype`."""
        if name in _RECORDS.get(module, ()):
            return super().find_class(module, name)
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        raise pickle.UnpicklingError(f"it names '{module}.{name}', which is not executed")


def _metadata(path: Path) -> Metadata:
    try:
        with existing(path).open("rb") as file:
            metadata = _Unpickler(file).load()
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"'{path}' is damaged or foreign: {error}") from error
    if not isinstance(metadata, Metadata):
        raise CheckpointError(f"'{path}' holds a {type(metadata).__name__}, no metadata")
    return metadata


def _state_keys(metadata: Metadata) -> dict[str, str]:
    """The names in the model's `state_dict`, with those in the checkpoint.

    What is saved is often `{"model": state_dict, "optimizer": ...}`, whose names are joined by
    dots in the files.
    """
    paths: Mapping[str, Sequence[Any]] = metadata.planner_data or {}
    heads = {path[0] for path in paths.values() if len(path) > 1}
    found = [key for key in STATE_KEYS if key in heads]
    if len(found) == 1:
        return {
            ".".join(map(str, path[1:])): stored
            for stored, path in paths.items()
            if path[0] == found[0]
        }
    return {key: key for key in metadata.state_dict_metadata}


def _stored(
    folder: Path, metadata: Metadata, key: str, held: TensorStorageMetadata
) -> StoredTensor:
    shape, dtype = tuple(held.size), held.properties.dtype
    chunks = [
        _chunk(folder, metadata, key, dtype, tuple(chunk.offsets), tuple(chunk.sizes))
        for chunk in held.chunks
    ]
    inside = all(
        offset >= 0 and offset + size <= whole
        for chunk in chunks
        for offset, size, whole in zip(chunk.offsets, chunk.sizes, shape, strict=True)
    )
    if not inside or sum(math.prod(chunk.sizes) for chunk in chunks) != math.prod(shape):
        raise CheckpointError(
            f"'{folder / METADATA}': the {len(chunks)} chunks of '{key}' do not make up its shape "
            f"{list(shape)}"
        )
    file = chunks[0].file if chunks else folder / METADATA
    return StoredTensor(shape, dtype, file, partial(_read, key, shape, dtype, tuple(chunks)))


def _chunk(
    folder: Path,
    metadata: Metadata,
    key: str,
    dtype: torch.dtype,
    offsets: tuple[int, ...],
    sizes: tuple[int, ...],
) -> _Chunk:
    info = metadata.storage_data[MetadataIndex(key, offsets)]
    if Path(info.relative_path).name != info.relative_path:
        raise CheckpointError(
            f"'{folder / METADATA}' has '{info.relative_path}' for '{key}', which is no file "
            "beside it"
        )
    if getattr(info, "transform_descriptors", None):
        raise CheckpointError(
            f"'{folder / METADATA}': '{key}' is stored through {info.transform_descriptors}; only "
            "what is stored as it is can be read"
        )
    file = existing(folder / info.relative_path)
    if not 0 <= info.offset <= info.offset + info.length <= file.stat().st_size:
        raise CheckpointError(
            f"'{file}' is truncated: '{key}' ends at byte {info.offset + info.length}, the file "
            f"at {file.stat().st_size}"
        )
    chunk = _Chunk(offsets, sizes, file, info.offset, info.length)
    with io.BufferedReader(_Slice(chunk)) as stream:
        check_zip(stream, f"{file}', key '{key}")
    with torch.serialization.skip_data():
        _read_chunk(key, chunk, dtype)
    return chunk


def _read(
    key: str, shape: tuple[int, ...], dtype: torch.dtype, chunks: tuple[_Chunk, ...]
) -> Tensor:
    """The tensor on the host; one that is whole in one chunk is not copied."""
    if len(chunks) == 1:
        return _read_chunk(key, chunks[0], dtype)
    whole = torch.empty(shape, dtype=dtype)
    for chunk in chunks:
        part = whole
        for dimension, (offset, size) in enumerate(zip(chunk.offsets, chunk.sizes, strict=True)):
            part = part.narrow(dimension, offset, size)
        part.copy_(_read_chunk(key, chunk, dtype))
    return whole


def _read_chunk(key: str, chunk: _Chunk, dtype: torch.dtype) -> Tensor:
    try:
        with io.BufferedReader(_Slice(chunk)) as stream:
            part = torch.load(stream, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError) as error:
        raise CheckpointError(f"'{chunk.file}', key '{key}': {error}") from error
    if not isinstance(part, Tensor) or (tuple(part.shape), part.dtype) != (chunk.sizes, dtype):
        raise CheckpointError(f"'{chunk.file}', key '{key}': not the tensor that is announced")
    return part.detach()
