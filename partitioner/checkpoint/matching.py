"""`match`: which tensor of a checkpoint is which of the model's, decided as PyTorch decides.

The model's own `load_state_dict` runs on `meta`, with the checkpoint's tensors as their headers
describe them: its hooks rename, its errors report, and which tensor it put where is what counts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from partitioner.capture.clone import NamedTensor, clone, named_tensors
from partitioner.checkpoint.initialise import initialised
from partitioner.checkpoint.stored import Checkpoint, StoredTensor
from partitioner.errors import CheckpointError
from partitioner.virtual import suspended

Readers = Mapping[str, Callable[[], Tensor]]


def match(model: nn.Module, checkpoint: Checkpoint, *, strict: bool = True) -> Readers:
    """Where the data of the model's tensors is read, by canonical name.

    Tied tensors need one of their names in the checkpoint. What no `state_dict` has and the model
    has on `meta` (buffers that are not persistent) is computed by the model's own code.

    Args:
        model: may be on `meta`; it is not modified.
        checkpoint: opened.
        strict: as of `load_state_dict`: no key may be missing or unexpected.

    Raises:
        CheckpointError: keys are missing or unexpected, shapes differ, or a tensor would be left
            without data; the message is PyTorch's, and names them all.
    """
    with suspended():
        held = named_tensors(model)
        twin = clone(model, lambda tensor, _: _on_meta(tensor))
        stored = _loaded(twin, checkpoint, strict=strict)
        names = {name: each.names[0] for each in held for name in each.names}
        readers: dict[str, Callable[[], Tensor]] = {}
        for name, tensor in twin.state_dict(keep_vars=True).items():
            if isinstance(tensor, Tensor) and _identity(tensor) in stored:
                readers[names[name]] = partial(_read, stored[_identity(tensor)])
        bare = [each for each in held if each.tensor.is_meta and each.names[0] not in readers]
        readers |= initialised(model, [each for each in bare if not _is_saved(each, twin)])
        left = [each.names[0] for each in bare if each.names[0] not in readers]
        if left:
            raise CheckpointError(_without_data(left, checkpoint))
        return readers


def _on_meta(tensor: Tensor) -> Tensor:
    with torch.no_grad():
        bare = torch.empty_like(tensor, device="meta")
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(bare, requires_grad=tensor.requires_grad)
    return bare


def _loaded(
    twin: nn.Module, checkpoint: Checkpoint, *, strict: bool
) -> dict[int, tuple[str, StoredTensor]]:
    """Let the twin take the checkpoint's headers: what is stored, by identity of what it took."""
    wanted = twin.state_dict().keys()
    state: dict[str, Any] = dict(checkpoint.others)
    by_identity: dict[int, tuple[str, StoredTensor]] = {}
    for key, stored in checkpoint.tensors.items():
        header = torch.empty(stored.shape, dtype=stored.dtype, device="meta")
        by_identity[_identity(header)] = (key, stored)
        state[_called(key, wanted, getattr(twin, "base_model_prefix", ""))] = header
    for each in named_tensors(twin):
        known = next((state[name] for name in each.names if name in state), None)
        if known is not None and _is_saved(each, twin):
            state |= {name: known for name in each.names if name not in state}
    try:
        twin.load_state_dict(state, strict=strict, assign=True)
    except RuntimeError as error:
        hint = _prefix_hint(list(wanted), list(checkpoint.tensors))
        raise CheckpointError(f"'{checkpoint.path}': {error}{hint}") from error
    return by_identity


def _identity(tensor: Tensor) -> int:
    """Of the storage: a parameter that was made of a tensor shares it."""
    identity: int = tensor.untyped_storage()._cdata
    return identity


def _is_saved(held: NamedTensor, model: nn.Module) -> bool:
    """Whether a tensor is in the model's `state_dict`."""
    for name in held.names:
        path, _, attribute = name.rpartition(".")
        if held.role == "parameter":
            return True
        if held.role == "buffer":
            owner = model.get_submodule(path)
            if attribute not in owner._non_persistent_buffers_set:
                return True
    return False


def _read(stored: tuple[str, StoredTensor]) -> Tensor:
    key, tensor = stored
    with suspended():
        try:
            return tensor.read()
        except OSError as error:
            raise CheckpointError(f"'{tensor.file}', key '{key}': {error}") from error


def _called(key: str, wanted: Collection[str], prefix: str) -> str:
    """The model's name of what the checkpoint calls `key`.

    A Hugging Face model with a head holds the bare model under a prefix; checkpoints of the one
    serve the other.
    """
    if prefix and key not in wanted:
        for name in (f"{prefix}.{key}", key.removeprefix(f"{prefix}.")):
            if name in wanted:
                return name
    return key


def _prefix_hint(wanted: list[str], found: list[str]) -> str:
    """Says so where all the names differ by what stands before them."""
    for names, others, verb in ((wanted, found, "has"), (found, wanted, "lacks")):
        for other in others:
            prefix = other.removesuffix(names[0]) if names else ""
            if prefix and prefix != other and all(f"{prefix}{name}" in others for name in names):
                return f"\nThe checkpoint {verb} '{prefix}' before the names of the model."
    return ""


def _without_data(names: list[str], checkpoint: Checkpoint) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:6])
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return (
        f"'{checkpoint.path}' has no data for {shown}{more}, and neither has the model, which is "
        "on 'meta'; give the module that owns it a `reset_parameters()` that computes it, or build "
        "the model with that part on the CPU"
    )
