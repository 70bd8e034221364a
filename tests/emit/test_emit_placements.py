"""Any placement of any model keeps its outputs, gradients, buffers and types; no solver here."""

from __future__ import annotations

import functools
import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from partitioner.capture import Captured, capture, holds_tensor
from partitioner.emit import place
from partitioner.virtual import virtual_gpus
from tests.emit.side_by_side import (
    QUICK,
    Outcome,
    assert_same,
    captured,
    scattered,
    step,
)
from tests.zoo import ZOO

placements = st.randoms(use_true_random=False)
few = settings(max_examples=2, deadline=None, derandomize=True, database=None)


@pytest.mark.parametrize("name", QUICK)
@few
@given(source=placements)
def test_any_placement_computes_what_the_original_does(name: str, source: random.Random) -> None:
    compare(name, scattered(captured(name), source))


@pytest.mark.parametrize("name", [name for name in ZOO if name not in QUICK])
def test_a_placement_of_each_other_model_computes_what_the_original_does(name: str) -> None:
    compare(name, scattered(captured(name), random.Random(7)))


@functools.cache
def expected_of(name: str) -> dict[bool, Outcome]:
    """What the original leaves behind, first in training."""
    case = ZOO[name]
    original = case.build()
    return {mode: step(original, case, training=mode) for mode in (True, False)}


def compare(name: str, placement: dict[str, str]) -> None:
    case = ZOO[name]
    copied, expected = case.build(), expected_of(name)
    with virtual_gpus(3):
        placed = place(copied, captured(name), placement)
        for mode in (True, False):
            assert_same(expected[mode], step(placed, case, training=mode))
    assert_untouched(copied, case.build())


def assert_untouched(model: torch.nn.Module, fresh: torch.nn.Module) -> None:
    state = model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in fresh.state_dict().items())


@pytest.mark.parametrize("name", ["language_model", "inception", "tied", "unet"])
@few
@given(source=placements)
def test_a_value_moves_at_most_once_to_each_device(name: str, source: random.Random) -> None:
    case, recording = ZOO[name], captured(name)
    placement = scattered(recording, source)
    with virtual_gpus(3) as gpus, torch.no_grad():
        placed = place(case.build(), recording, placement).train()
        gpus.reset_transfers()
        placed(*case.args(), **case.kwargs())
        moved = [move for move in gpus.transfers if move[0] != "cpu"]
    assert len(moved) <= crossings(recording, placement)


def crossings(recording: Captured, placement: dict[str, str]) -> int:
    """How many pairs there are of a value and a device, not its own, where it is read."""
    pairs: set[tuple[str, str]] = set()
    for node in recording.graph.nodes:
        if node.op == "output":
            continue
        sources: list[Any] = [operand.name for operand in node.all_input_nodes]
        sources += recording.nodes[node.name].shared.values()
        for operand in sources:
            if holds_tensor(recording.nodes[operand].value):
                pairs.add((operand, placement[node.name]))
    return sum(placement[operand] != device for operand, device in pairs)


def test_other_batch_sizes_work_where_the_recording_allows_them() -> None:
    case = ZOO["language_model"]
    original = case.build().eval()
    with virtual_gpus(3):
        recording = captured("language_model")
        placed = place(case.build(), recording, scattered(recording, random.Random(1))).eval()
        for batch in (1, 3, 9):
            found = placed(*case.args(batch=batch)).to("cpu")
            torch.testing.assert_close(found, original(*case.args(batch=batch)))


def test_an_input_that_is_on_a_device_already_is_not_moved_again() -> None:
    case, recording = ZOO["seqnet"], captured("seqnet")
    placement = {name: "cuda:0" if name != "lin2" else "cuda:1" for name in recording.nodes}
    with virtual_gpus(2) as gpus:
        placed = place(case.build(), recording, placement)
        x = case.args()[0].to("cuda:0")
        gpus.reset_transfers()
        placed(x)
        assert [move[:2] for move in gpus.transfers] == [("cuda:0", "cuda:1")]


def test_images_are_taken_where_flat_vectors_were_recorded() -> None:
    model = ZOO["seqnet"].build()
    recording = capture(model, (torch.randn(8, 784),), training=True)
    placement = {name: "cuda:1" if name == "lin2" else "cuda:0" for name in recording.nodes}
    images = ZOO["seqnet"].args()[0]
    with virtual_gpus(2):
        placed = place(model, recording, placement)
        torch.testing.assert_close(placed(images).to("cpu"), model(images))
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            placed(torch.randn(8, 100))
