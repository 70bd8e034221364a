"""What every process of the tests on gloo runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import save_file

from partitioner import PlanError
from partitioner.checkpoint import match, open_checkpoint
from partitioner.distributed import RankPipeline
from tests.distributed.models import (
    assert_equal,
    difference,
    layout_of,
    loss_of,
    model_of,
    recording,
    reference,
    stepped,
)

SCHEDULES = [("gpipe", 1), ("1f1b", 1), ("interleaved", 2), ("zero-bubble", 1), ("zero-bubble", 2)]


def record(names: Iterable[str]) -> None:
    """Record models, for all processes that come of this one."""
    for name in names:
        recording(name)


def train(runs: Mapping[str, Sequence[tuple[str, int]]]) -> None:
    """Train models under schedules, compare with the whole model, print differences."""
    dist.init_process_group("gloo")
    for name, schedules in runs.items():
        expected = reference(name)
        for schedule, stages_per_rank in schedules:
            layout = layout_of(name, schedule, dist.get_world_size(), stages_per_rank)
            if layout is None:
                continue
            pipeline = RankPipeline(model_of(name), layout, "cpu", loss_of)
            found = stepped(name, pipeline)
            assert_equal(expected, found)
            each: list[Any] = [None] * dist.get_world_size()
            own = list(found.state), list(found.gradients), difference(expected, found)
            dist.all_gather_object(each, own)
            states, gradients, differences = zip(*each, strict=True)
            assert set().union(*states) == set(expected.state)
            assert set().union(*gradients) == set(expected.gradients)
            if dist.get_rank() == 0:
                print(f"right: {name} {schedule} {stages_per_rank} {max(differences)}", flush=True)
    dist.destroy_process_group()


def read_own(file: str) -> None:
    """Take the stages' tensors from a file, the model on `meta`; note which are read."""
    dist.init_process_group("gloo")
    layout = layout_of("unet", "gpipe", 2)
    assert layout is not None
    whole = model_of("unet")
    if dist.get_rank() == 0:
        save_file({name: tensor + 1 for name, tensor in whole.state_dict().items()}, file)
    dist.barrier()
    read = []

    def noting(name, reader):
        return lambda: (read.append(name), reader())[1]

    bare = model_of("unet").to("meta")
    data = {n: noting(n, reader) for n, reader in match(bare, open_checkpoint(file)).items()}
    pipeline = RankPipeline(bare, layout, "cpu", loss_of, data=data)
    state = pipeline.state_dict()
    assert 0 < len(state) < len(data)
    assert sorted(read) == sorted(state)
    for name, tensor in state.items():
        torch.testing.assert_close(tensor, whole.state_dict()[name] + 1)
    dist.destroy_process_group()


def differing_replicas() -> None:
    """Two replicas of one rank each, with different plans."""
    dist.init_process_group("gloo")
    own = [dist.new_group([rank]) for rank in range(2)][dist.get_rank()]
    layout = layout_of("unet", "gpipe", 1)
    assert layout is not None
    with pytest.raises(PlanError, match="differ in their plan: replica 0 has one, replica 1 has"):
        RankPipeline(
            model_of("unet"), layout, "cpu", loss_of, own, dist.group.WORLD,
            identity={"plan": ("one", "another")[dist.get_rank()]},
        )  # fmt: skip
    dist.destroy_process_group()
