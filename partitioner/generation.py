"""Memory of `generate`: the key-value cache of a decoder, in the programme's rows and the dry run.

A cache holds the keys and values of every token so far, for each layer on the device of its
attention. A recording of a call that returns its cache tells which node makes them and how many
bytes a token takes. ::

    rows      a cache of all tokens, at every point of the prompt's forward
    dry run   `generate` itself on fake tensors: the prompt, then the last tokens on a full cache

What the loop keeps of one token is there while the next is made, so two are made each time.
"""

from __future__ import annotations

import itertools
import logging
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, fx, nn

from partitioner.capture import (
    Answering,
    Captured,
    Fakes,
    decided_by_positions,
    fake_clone,
    in_mode,
    quiet,
    tensor_specs,
)
from partitioner.dry_run import MeasuredMemory, largest, without_gradients
from partitioner.emit import place
from partitioner.errors import SpecError
from partitioner.graph import CostGraph, Holding
from partitioner.spec import Cluster
from partitioner.virtual import rounded, virtual_gpus

Call = tuple[tuple[Any, ...], dict[str, Any]]
CACHES = ("past_key_values", "cache")
"""What Hugging Face decoders call their cache where they return it."""
TOKENS = 2
"""How many are made at a time in the dry run."""


def generating_call(model: nn.Module, call: Call) -> Call:
    """The example call, such that it returns the cache.

    Raises:
        SpecError: the model has no `generate` with a key-value cache of its own kind.
    """
    config = getattr(model, "config", None)
    if not hasattr(model, "generate") or getattr(config, "is_encoder_decoder", True):
        raise SpecError(
            f"cache_tokens is for Hugging Face decoders; {type(model).__name__} is none: leave it "
            "out, and have example inputs that hold what it keeps between calls"
        )
    args, kwargs = call
    if getattr(config, "use_cache", True):
        return call
    return args, {"use_cache": True, **kwargs}


def with_cache(graph: CostGraph, captured: Captured, tokens: int) -> CostGraph:
    """The costs, with the cache of `tokens` tokens, which is there all the time."""
    holdings = [
        Holding((name,), rounded(nbytes), 0, graph.points - 1, "activations", f"cache at {name}")
        for name, nbytes in _missing(captured, tokens)
    ]
    return replace(graph, holdings=(*graph.holdings, *holdings))


def _missing(captured: Captured, tokens: int) -> Iterator[tuple[str, int]]:
    """By node where a part of the cache is made, its bytes beyond those of the prompt.

    `generate` makes keys and values where the last weights are that they come from.

    Raises:
        SpecError: the call returns no cache.
    """
    output = next(node for node in reversed(captured.graph.nodes) if node.op == "output")
    returned = output.args[0]
    kept: list[fx.Node] = []
    if isinstance(returned, Mapping):
        fx.node.map_arg([returned.get(name) for name in CACHES], kept.append)
    if not kept:
        raise SpecError(
            f"cache_tokens={tokens}, but the example call returns no cache: give example "
            "inputs with use_cache=True"
        )
    for node in dict.fromkeys(kept):
        for spec in tensor_specs(captured.nodes[node.name].value):
            if len(spec.shape) == 4 and spec.shape[-2] < tokens:
                maker = _weighted(node, captured)
                yield maker.name, spec.nbytes * (tokens - spec.shape[-2]) // spec.shape[-2]


def _weighted(node: fx.Node, captured: Captured) -> fx.Node:
    """The nearest node behind a value that has parameters; the node itself where none has."""
    queue = [node]
    for behind in queue:
        names = captured.nodes[behind.name].state
        if any(captured.state[name].role == "parameter" for name in names):
            return behind
        queue += [source for source in behind.all_input_nodes if source not in queue]
    return node


def rehearsed_generation(
    model: nn.Module,
    captured: Captured,
    placement: Mapping[str, str],
    cluster: Cluster,
    tokens: int,
) -> dict[str, MeasuredMemory]:
    """What each device holds while the placed model generates up to `tokens` tokens.

    The larger of a cache that grows and a static one, which takes its room at once.

    Raises:
        SpecError: `generate` fails; the message says how.
    """
    growing = _generated(model, captured, placement, cluster, tokens, static=False)
    static = _generated(model, captured, placement, cluster, tokens, static=True)
    return {name: largest([growing[name], static[name]]) for name in growing}


def _generated(
    model: nn.Module,
    captured: Captured,
    placement: Mapping[str, str],
    cluster: Cluster,
    tokens: int,
    *,
    static: bool,
) -> dict[str, MeasuredMemory]:
    caches: Any = sys.modules["transformers"]
    advice = mock.patch.object(logging.getLogger("transformers.generation.utils"), "disabled", True)
    with quiet(), advice, Fakes() as mode, decided_by_positions(), Answering() as answers:
        fake = in_mode(fake_clone(model, mode), False)
        with virtual_gpus(cluster, limits=False) as gpus:
            placed: Any = place(fake, captured, placement, detours=cluster.detours)
            del fake
            before = {device.name: gpus[device.name].allocated_nbytes for device in cluster.devices}
            ids = _prompt(captured, tokens).to(next(placed.parameters()).device)
            cache = caches.DynamicCache(config=placed.config)
            if static:
                cache = caches.StaticCache(config=placed.config, max_cache_len=tokens - 1)
            try:
                _generate(placed, ids, cache, tokens, answers)
                length = tokens - TOKENS
                if not static and length > ids.shape[-1]:
                    _grow(cache, length - 1)
                    _generate(placed, ids.new_zeros(ids.shape[0], length), cache, tokens, answers)
            except Exception as error:
                raise SpecError(
                    f"cache_tokens={tokens}: {type(model).__name__}.generate cannot be rehearsed: "
                    f"{type(error).__name__}: {error}"
                ) from error
            return without_gradients(gpus, before)


def _prompt(captured: Captured, tokens: int) -> Tensor:
    args, kwargs = captured.example
    arguments = captured.signature.bind(*args, **kwargs).arguments
    ids = arguments.get("input_ids")
    if not isinstance(ids, Tensor):
        raise SpecError("cache_tokens needs example inputs with 'input_ids', the prompt")
    if ids.shape[-1] >= tokens:
        raise SpecError(
            f"cache_tokens={tokens}, but the prompt of the example inputs has {ids.shape[-1]} "
            "tokens already; the cache holds prompt and answer"
        )
    return torch.zeros(ids.shape, dtype=ids.dtype)


def _generate(placed: Any, ids: Tensor, cache: Any, tokens: int, answers: Answering) -> None:
    """Make the next `TOKENS` tokens, or as many as are left to `tokens`.

    Whether all sequences have ended is asked of data, after the criteria: not before the last.
    """
    count = min(TOKENS, tokens - ids.shape[-1])
    left = itertools.count(count - 1, -1)

    def ended(ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        answers.go_on(other=next(left) > 0)
        return ids.new_zeros(ids.shape[0], dtype=torch.bool)

    hook = placed.register_forward_pre_hook(lambda *_: answers.go_on(other=False))
    try:
        placed.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            past_key_values=cache,
            use_cache=True,
            do_sample=False,
            max_new_tokens=count,
            stopping_criteria=[ended],
        )
    finally:
        hook.remove()


def _grow(cache: Any, tokens: int) -> None:
    """Let a growing cache hold as many tokens, or as many as its layers keep at most."""
    for layer in cache.layers:
        count = min(tokens, (getattr(layer, "sliding_window", None) or tokens + 1) - 1)
        for name in ("keys", "values"):
            held = getattr(layer, name)
            setattr(layer, name, held.new_empty(*held.shape[:-2], count, held.shape[-1]))
        if hasattr(layer, "cumulative_length"):
            layer.cumulative_length = tokens
