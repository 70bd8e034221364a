"""Checkpoints of a training run, through `torch.distributed.checkpoint`.

All is saved under the names of the whole model: `model.h.0.weight`, `optimizer.h.0.weight.exp_avg`,
`options.h.0.weight.lr`. So any division of the model into stages reads what another one wrote, and
`plan.apply(model, checkpoint=...)` reads the model alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any
from warnings import catch_warnings, filterwarnings

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.optim import Optimizer

from partitioner.distributed.share import Share

_WHOLE = ".metadata"
"""The file that is written last."""


def save_checkpoint(
    folder: str | os.PathLike[str], steps: int, pipeline: Share, optimizer: Optimizer
) -> Path:
    """Save parameters, buffers and optimizer state; every process must do this.

    Args:
        folder: of all checkpoints, seen by all processes.
        steps: that were done.
        pipeline: of this process.
        optimizer: of parameters of this pipeline.

    Returns:
        The folder of this checkpoint. One that is only half written is never read.
    """
    path = Path(folder, f"step-{steps:08d}")
    names = pipeline.canonical_names()
    state: dict[str, dict[str, Any]] = {"model": dict(pipeline.state_dict())}
    state["optimizer"] = {names[p]: dict(held) for p, held in optimizer.state.items()}
    state["options"] = {
        names[parameter]: {what: value for what, value in group.items() if what != "params"}
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    with _one_process_is_fine():
        save(state, checkpoint_id=path)
    return path


def resume_checkpoint(folder: str | os.PathLike[str], pipeline: Share, optimizer: Optimizer) -> int:
    """Take the last whole checkpoint, of this or another number of stages; all processes must.

    Returns:
        The number of steps that were done; 0 where there is no checkpoint.
    """
    last = [max((p.parent for p in Path(folder).glob(f"step-*/{_WHOLE}")), default=None)]
    if dist.is_initialized():
        dist.broadcast_object_list(last)  # all take the same one
    path = last[0]
    if path is None:
        return 0
    names = pipeline.canonical_names()
    state = _empty(path, pipeline, {names[p] for g in optimizer.param_groups for p in g["params"]})
    with _one_process_is_fine():
        load(state, checkpoint_id=path)
    pipeline.load_state_dict(state["model"])
    packed = optimizer.state_dict()
    for group, found in zip(optimizer.param_groups, packed["param_groups"], strict=True):
        for parameter, number in zip(group["params"], found["params"], strict=True):
            found.update(state["options"].get(names[parameter], {}))
            if names[parameter] in state["optimizer"]:
                packed["state"][number] = deepcopy(state["optimizer"][names[parameter]])
    optimizer.load_state_dict(packed)
    return int(path.name.removeprefix("step-"))


@contextmanager
def _one_process_is_fine() -> Iterator[None]:
    with catch_warnings():
        filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        yield


def _empty(path: Path, pipeline: Share, names: set[str]) -> dict[str, dict[str, Any]]:
    """What this process reads: its tensors of the model, and what was saved of its optimizer."""
    state: dict[str, dict[str, Any]] = {
        "model": {n: torch.empty_like(t, device="cpu") for n, t in pipeline.state_dict().items()},
        "optimizer": {},
        "options": {},
    }
    metadata = FileSystemReader(path).read_metadata()
    paths: Mapping[str, tuple[str, ...]] = metadata.planner_data
    for key, (kind, *rest) in paths.items():
        if kind != "model" and rest[0] in names:
            name, what = rest
            stored = metadata.state_dict_metadata[key]
            state[kind].setdefault(name, {})[what] = (
                torch.empty(stored.size, dtype=stored.properties.dtype)
                if isinstance(stored, TensorStorageMetadata)
                else None
            )
    return state
