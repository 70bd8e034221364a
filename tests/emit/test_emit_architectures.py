"""Architectures of Hugging Face transformers, scattered over devices, compute what they did."""

from __future__ import annotations

import random

import pytest

from partitioner.capture import capture
from partitioner.emit import place
from partitioner.virtual import virtual_gpus
from tests.architectures import ARCHITECTURES
from tests.emit.side_by_side import assert_same, scattered, step

SOME = ("BLOOM", "Gemma 2", "Mixtral", "DeBERTa-v2", "T5", "Swin v2", "Wav2Vec2", "LLaVA", "Mamba")


@pytest.mark.parametrize("name", SOME)
def test_a_scattered_architecture_computes_what_the_original_does(name: str) -> None:
    case = ARCHITECTURES[name]
    original, copied = case.build(), case.build()
    expected = {mode: step(original, case, training=mode) for mode in (True, False)}
    recording = capture(copied, case.args(), case.kwargs(), training=True)
    placement = scattered(recording, random.Random(7))
    with virtual_gpus(3):
        placed = place(copied, recording, placement)
        for mode in (True, False):
            assert_same(expected[mode], step(placed, case, training=mode))
