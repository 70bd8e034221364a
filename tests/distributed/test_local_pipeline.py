"""Pipelines in one process against the whole model, on virtual GPUs."""

import pytest
import torch
from torch import nn

from partitioner import PlanError, SpecError, virtual_gpus
from partitioner.capture import capture
from partitioner.distributed import LocalPipeline, PipelineLayout, first_micro_batch
from partitioner.graph import stage_units
from tests.distributed.models import (
    MICRO_BATCHES,
    STEPS,
    assert_equal,
    batch_of,
    layout_of,
    loss_of,
    model_of,
    reference,
    stepped,
)
from tests.emit.side_by_side import leaves

SCHEDULES = [("gpipe", 1), ("1f1b", 1), ("interleaved", 2), ("zero-bubble", 1), ("zero-bubble", 2)]
EVERY = ("unet", "hf_gpt2_labels")
"""Models that are tried under every schedule; the others under two."""
OTHERS = ("residual_cnn", "hf_bert_labels", "hf_llama_no_cache", "tied", "called_twice",
          "counter", "checkpointed", "autocast", "size_arithmetic", "mixed_inputs")  # fmt: skip
CASES = [
    *((name, SCHEDULES) for name in EVERY),
    *((name, [SCHEDULES[1], SCHEDULES[2 + place % 3]]) for place, name in enumerate(OTHERS)),
]


@pytest.mark.parametrize(("name", "schedules"), CASES, ids=[name for name, _ in CASES])
def test_pipelines_train_as_the_whole_model_does(name, schedules):
    expected = reference(name)
    tried = 0
    for schedule, stages_per_rank in schedules:
        layout = layout_of(name, schedule, 2, stages_per_rank)
        if layout is None:
            continue
        with virtual_gpus(2, memory="1GiB") as gpus:
            pipeline = LocalPipeline(model_of(name), layout, ["cuda:0", "cuda:1"], loss_of)
            found = stepped(name, pipeline)
        assert len(found.losses) == STEPS
        assert_equal(expected, found)
        assert set(found.state) == set(expected.state)
        assert {(source, target) for source, target, _ in gpus.transfers} >= {
            ("cuda:0", "cuda:1"),
            ("cuda:1", "cuda:0"),
        }
        assert len(pipeline.executed) >= 2 * MICRO_BATCHES * len(layout.parts)
        tried += 1
    assert tried


def test_actions_are_asked_for_in_the_order_of_every_rank():
    layout = layout_of("unet", "1f1b", 2)
    pipeline = LocalPipeline(model_of("unet"), layout, ["cpu", "cpu"], loss_of)
    args, kwargs = batch_of("unet")
    pipeline.step(*args, **kwargs)
    for rank, order in enumerate(layout.orders):
        assert tuple(a for a in pipeline.executed if a.stage % 2 == rank) == order


def test_what_the_model_returns_comes_back_for_the_whole_batch():
    name = "dataclass_output"
    layout = layout_of(name, "gpipe", 2)
    pipeline = LocalPipeline(model_of(name).eval(), layout, ["cpu", "cpu"], loss_of)
    args, kwargs = batch_of(name)
    expected = model_of(name)(*args, **kwargs)
    found = pipeline.step(*args, **kwargs)
    assert type(found) is type(expected)
    for left, right in zip(leaves(expected), leaves(found), strict=True):
        torch.testing.assert_close(left.detach(), right)


def test_what_nothing_reads_is_in_the_state_all_the_same():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model.register_parameter("unread", nn.Parameter(torch.ones(3)))
    model.register_buffer("spare", torch.ones(2))
    captured = capture(model, (torch.zeros(2, 4),), {}, training=True)
    stage_of = {node: i for i, unit in enumerate(stage_units(captured)) for node in unit}
    layout = PipelineLayout.of(captured, stage_of, "gpipe", 2)
    pipeline = LocalPipeline(model, layout, ["cpu"] * layout.ranks)
    assert pipeline.state_dict().keys() == model.state_dict().keys()


def test_a_batch_of_another_size_is_refused():
    layout = layout_of("seqnet", "gpipe", 2)
    pipeline = LocalPipeline(model_of("seqnet"), layout, ["cpu", "cpu"], loss_of)
    with pytest.raises(PlanError, match=r"takes \[8, 1, 28, 28\]"):
        pipeline.step(torch.zeros(6, 1, 28, 28))


def test_a_batch_that_cannot_be_divided_is_refused():
    with pytest.raises(SpecError, match="take a batch of 8"):
        first_micro_batch((torch.zeros(10, 3),), {}, 4)


def test_what_has_no_batch_is_the_same_in_every_micro_batch():
    args, kwargs = first_micro_batch((torch.zeros(8, 3),), {"positions": torch.zeros(1, 3)}, 4)
    assert args[0].shape == (2, 3)
    assert kwargs["positions"].shape == (1, 3)
