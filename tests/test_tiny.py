"""The whole path on the smallest example: read this first."""

from __future__ import annotations

import copy

import torch

from examples.seqnet import SeqNet
from partitioner import partition, virtual_gpus


def test_seqnet_is_cut_where_a_person_would_cut() -> None:
    torch.manual_seed(0)
    model, images = SeqNet(), torch.randn(8, 1, 28, 28)
    expected = copy.deepcopy(model)(images)
    with virtual_gpus(2, memory="3MiB"):
        placed = partition(model, ["cuda:0", "cuda:1"], images, optimizer="adam")
        output = placed(images)
        assert str(output.device) == "cuda:1"
        assert torch.equal(output.cpu(), expected)
    assert placed.plan.parameters["lin1.weight"] == "cuda:0"
    assert placed.plan.parameters["lin2.weight"] == "cuda:1"
    assert "return self.lin2(x.to('cuda:1'))" in placed.plan.source()
