"""`generate` of a placed decoder gives the original's tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from partitioner.capture import capture
from partitioner.emit import place
from partitioner.errors import PlanError
from partitioner.virtual import virtual_gpus
from tests.architectures import ARCHITECTURES
from tests.emit.side_by_side import DEVICES, together

PROMPT = torch.tensor([[5, 9, 3, 7], [8, 4, 6, 10]])


@pytest.mark.parametrize("cache", ["dynamic", "static"])
@pytest.mark.parametrize("name", ["GPT-2", "Llama", "Gemma 2"])
def test_a_split_decoder_generates_the_same_tokens(name: str, cache: str) -> None:
    case = ARCHITECTURES[name]
    model = case.build().eval()
    options: dict[str, Any] = {"do_sample": False, "max_new_tokens": 6, "min_new_tokens": 6}
    options |= {"cache_implementation": cache, "attention_mask": torch.ones_like(PROMPT)}
    expected = model.generate(PROMPT, **options)
    recording = capture(model, case.args(), case.kwargs(), training=False)
    half = len(recording.nodes) // 2
    placement = {node: DEVICES[i >= half] for i, node in enumerate(recording.nodes)}
    with virtual_gpus(2) as gpus:
        placed = place(model, recording, together(recording, placement))
        gpus.reset_transfers()
        found = placed.generate(PROMPT.to("cuda:0"), **options).to("cpu")
        crossed = {(source, destination) for source, destination, _ in gpus.transfers}
        assert ("cuda:0", "cuda:1") in crossed
        assert torch.equal(found, expected)
        with pytest.raises(PlanError, match="differs from the one"):
            placed(PROMPT.to("cuda:0"), use_cache=False)
