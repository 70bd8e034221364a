"""What a plan promises for `generate` against what generating takes on virtual GPUs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from cost_models import RooflineCostModel
from partitioner import Cluster, Plan, plan, virtual_gpus
from partitioner.capture import capture
from partitioner.errors import SpecError
from partitioner.generation import with_cache
from partitioner.graph import annotate
from tests.architectures import ARCHITECTURES
from tests.zoo import SeqNet

PROMPT = torch.tensor([[5, 9, 3, 7], [8, 4, 6, 10]])
TOKENS = 40


def planned(model: nn.Module, devices: str = "2x64MiB", **options: Any) -> Plan:
    call = {"input_ids": PROMPT}
    return plan(model, devices, call, mode="inference", objective="memory", **options)


def measured_peaks(found: Plan, model: nn.Module, cache: str) -> dict[str, int]:
    """Of one forward, and of generating with a cache of some kind."""
    count = TOKENS - PROMPT.shape[1]
    with virtual_gpus(found.virtual_cluster()) as gpus:
        placed: Any = found.apply(model)
        prompt = PROMPT.to(placed.device)
        with torch.no_grad():
            placed(input_ids=PROMPT)
        made = placed.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            cache_implementation=cache,
            max_new_tokens=count,
            min_new_tokens=count,
        )
        assert made.shape == (2, TOKENS)
        return {name: gpus[name].peak_nbytes for name in found.devices}


def test_the_cache_is_in_the_promise() -> None:
    model = ARCHITECTURES["GPT-2"].build().eval()
    found = planned(model, cache_tokens=TOKENS)
    runs = [measured_peaks(found, model, cache) for cache in ("dynamic", "static")]
    for device, use in found.memory.items():
        measured = max(run[device] for run in runs)
        assert measured <= use.peak <= 1.02 * measured
    cache_nbytes = 2 * 2 * PROMPT.shape[0] * TOKENS * model.config.n_embd * 4
    assert sum(use.activations for use in found.memory.values()) > cache_nbytes
    assert "40 tokens" in found.explain()
    assert Plan.from_json(found.to_json()).cache_tokens == TOKENS


def test_the_rows_have_each_layers_cache_where_its_attention_is() -> None:
    model = ARCHITECTURES["GPT-2"].build().eval()
    captured = capture(model, (), {"input_ids": PROMPT}, training=False)
    cluster = Cluster.of("2x64MiB")
    graph = annotate(captured, model, cluster, RooflineCostModel(), training=False)
    added: dict[str, int] = {}
    for holding in with_cache(graph, captured, TOKENS).holdings[len(graph.holdings) :]:
        assert (holding.first, holding.last) == (0, graph.points - 1)
        (node,) = holding.nodes
        added[node] = added.get(node, 0) + holding.nbytes
    batch, length = PROMPT.shape
    layer_nbytes = 2 * batch * (TOKENS - length) * model.config.n_embd * 4
    assert added == {f"transformer_h_{layer}_attn_c_attn": layer_nbytes for layer in (0, 1)}


def test_what_cannot_generate_is_refused() -> None:
    model = ARCHITECTURES["GPT-2"].build()
    with pytest.raises(SpecError, match="is for `generate`"):
        plan(model, "2x64MiB", {"input_ids": PROMPT}, mode="train", cache_tokens=TOKENS)
    with pytest.raises(SpecError, match="4 tokens already"):
        planned(model, cache_tokens=4)
    with pytest.raises(SpecError, match="2 or more"):
        planned(model, cache_tokens=1)
    with pytest.raises(SpecError, match="SeqNet is none"):
        plan(SeqNet(), "2x64MiB", torch.zeros(2, 784), mode="inference", cache_tokens=8)
    call = {"input_ids": PROMPT, "use_cache": False}
    with pytest.raises(SpecError, match="returns no cache"):
        plan(model, "2x64MiB", call, mode="inference", cache_tokens=8)
