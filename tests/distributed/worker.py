"""What every process of the tests on gloo runs: `torchrun ... worker.py NAME,NAME...`."""

from __future__ import annotations

import sys
import warnings

import torch
import torch.distributed as dist

from partitioner.distributed import RankPipeline
from tests.distributed.models import assert_equal, layout_of, loss_of, model_of, reference, stepped

SCHEDULES = [("gpipe", 1), ("1f1b", 1), ("interleaved", 2), ("zero-bubble", 1), ("zero-bubble", 2)]


def main(names: list[str]) -> None:
    """Train each model under every schedule, and compare with the whole model."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    for name in names:
        expected = reference(name)
        for schedule, stages_per_rank in SCHEDULES:
            layout = layout_of(name, schedule, dist.get_world_size(), stages_per_rank)
            if layout is None:
                continue
            pipeline = RankPipeline(model_of(name), layout, "cpu", loss_of)
            losses = stepped(name, pipeline)
            assert_equal(expected, losses, pipeline.state_dict())
            keys: list[list[str]] = [[]] * dist.get_world_size()
            dist.all_gather_object(keys, list(pipeline.state_dict()))
            assert set().union(*keys) == set(expected[1])
            if dist.get_rank() == 0:
                print(f"right: {name} {schedule} {stages_per_rank}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(sys.argv[1].split(","))
