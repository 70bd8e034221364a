"""`open_checkpoint`: which format it is, and which files belong to it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from partitioner.checkpoint.pickled import pickled_entries
from partitioner.checkpoint.safetensors_file import safetensors_tensors
from partitioner.checkpoint.stored import METADATA, Checkpoint, StoredTensor, existing
from partitioner.errors import CheckpointError

_Entries = tuple[dict[str, StoredTensor], dict[str, Any]]

_INDEX = ".index.json"
_IN_A_FOLDER = (
    f"model.safetensors{_INDEX}",
    "model.safetensors",
    f"pytorch_model.bin{_INDEX}",
    "pytorch_model.bin",
    METADATA,
)
"""What names a checkpoint in a folder; the first that is there is taken."""


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read the headers of a checkpoint, and check them against the files.

    Args:
        path: a `.safetensors` file; a file of `torch.save`, whatever its suffix; the
            `.index.json` of a sharded one; or a folder that holds one of these under the names
            that Hugging Face gives them, or what `torch.distributed.checkpoint` saved.

    Raises:
        CheckpointError: a file is missing, truncated, damaged or of another format; the message
            names the file, and the key where one is to blame.
    """
    whole = Path(path)
    tensors, others = _entries(whole)
    return Checkpoint(whole, tensors, others)


def _entries(path: Path) -> _Entries:
    if path.is_dir():
        return _entries_of_folder(path)
    existing(path)
    if path.name == METADATA:
        from partitioner.checkpoint.distributed import distributed_entries  # takes seconds

        return distributed_entries(path.parent)
    if path.name.endswith(_INDEX):
        return _entries_of_index(path)
    if path.suffix == ".safetensors":
        return safetensors_tensors(path), {}
    return pickled_entries(path)


def _entries_of_folder(folder: Path) -> _Entries:
    for name in _IN_A_FOLDER:
        if (folder / name).is_file():
            return _entries(folder / name)
    alone = sorted(folder.glob(f"*{_INDEX}")) or sorted(folder.glob("*.safetensors"))
    if len(alone) == 1:
        return _entries(alone[0])
    there = ", ".join(f"'{entry.name}'" for entry in sorted(folder.iterdir())[:6]) or "nothing"
    raise CheckpointError(
        f"the folder '{folder}' has no {', '.join(map(repr, _IN_A_FOLDER[:-1]))} or "
        f"'{METADATA}', only {there}; name the file itself"
    )


def _entries_of_index(path: Path) -> _Entries:
    """The tensors of several files, as an index divides them."""
    files = _weight_map(path)
    shards: dict[str, _Entries] = {}
    tensors: dict[str, StoredTensor] = {}
    others: dict[str, Any] = {}
    for key, name in files.items():
        if name not in shards:
            read: Callable[[Path], _Entries] = _entries
            shards[name] = read(path.parent / name)
        found, plain = shards[name]
        if key in found:
            tensors[key] = found[key]
        elif key in plain:
            others[key] = plain[key]
        else:
            raise CheckpointError(f"'{path}' says that '{key}' is in '{name}', which lacks it")
    return tensors, others


def _weight_map(path: Path) -> dict[str, str]:
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read the index '{path}': {error}") from error
    files = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(files, dict) or not files:
        raise CheckpointError(f"the index '{path}' has no 'weight_map' of keys to files")
    for key, name in files.items():
        if not isinstance(name, str) or Path(name).name != name or name.endswith(_INDEX):
            raise CheckpointError(
                f"the index '{path}' has {name!r} for '{key}', which is no file beside it"
            )
    return files
