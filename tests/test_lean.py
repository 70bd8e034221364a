"""Leaner forms of a model do what the model does."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from partitioner import SpecError, checkpointed, partition, virtual_gpus
from partitioner.lean import batch_of, call_in_dtype, in_dtype, repeated_blocks, with_batch
from tests.zoo import ZOO

PATTERNS = {
    "hf_llama_no_cache": ("model.layers.*",),
    "hf_gpt2_no_cache": ("transformer.h.*",),
    "transformer_encoder": ("layers.*",),
    "language_model": ("blocks.*",),
    "seqnet": (),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_the_blocks_that_repeat_are_found(name: str) -> None:
    assert repeated_blocks(ZOO[name].build()) == PATTERNS[name]


@pytest.mark.parametrize("name", ["hf_gpt2_no_cache", "language_model"])
def test_a_checkpointed_model_learns_the_same_on_less(name: str) -> None:
    case = ZOO[name]
    model = case.build().train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    lean = checkpointed(model, *repeated_blocks(model))
    assert list(lean.state_dict()) == list(model.state_dict())
    saved: dict[bool, int] = {}
    gradients = {}
    for one in (model, lean):
        kept: list[int] = []

        def keep(tensor: torch.Tensor, kept: list[int] = kept) -> torch.Tensor:
            kept.append(tensor.nbytes)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            output = one(*case.args(), **case.kwargs())
        loss = (output if isinstance(output, torch.Tensor) else output[0]).square().mean()
        model.zero_grad()
        loss.backward()
        gradients[one is lean] = [copy.deepcopy(p.grad) for p in one.parameters()]
        saved[one is lean] = sum(kept)
    assert saved[True] < saved[False]
    for ours, theirs in zip(gradients[True], gradients[False], strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_checkpointed_model_is_placed_like_any_other() -> None:
    case = ZOO["language_model"]
    model = case.build().eval()
    lean = checkpointed(model, "blocks.*").train()
    with virtual_gpus(2, memory="1GiB"):
        placed = partition(lean, 2, case.args(), objective="memory")
        assert len(set(placed.plan.placement.values())) == 2
        placed.eval()
        torch.testing.assert_close(placed(*case.args()).cpu(), model.eval()(*case.args()))


def test_a_pattern_that_matches_nothing_is_told() -> None:
    with pytest.raises(SpecError, match=r"'block\.\*' matches no module.*blocks"):
        checkpointed(ZOO["language_model"].build(), "block.*")


def test_a_cast_model_has_the_sizes_of_the_real_one() -> None:
    model = ZOO["residual_cnn"].build()
    lean, real = in_dtype(model, torch.bfloat16), copy.deepcopy(model).to(torch.bfloat16)
    assert {name: (t.shape, t.dtype) for name, t in lean.state_dict().items()} == {
        name: (t.shape, t.dtype) for name, t in real.state_dict().items()
    }
    assert next(model.parameters()).dtype == torch.float32


def test_inputs_are_cut_and_cast() -> None:
    call = ((torch.empty(8, 3), {"ids": torch.zeros(8, dtype=torch.int64)}), {"scale": 2.0})
    assert batch_of(call) == 8
    (x, rest), kwargs = with_batch(call, 2)
    assert (x.shape, rest["ids"].shape, kwargs) == ((2, 3), (2,), {"scale": 2.0})
    (x, rest), _ = call_in_dtype(call, torch.bfloat16)
    assert (x.dtype, rest["ids"].dtype) == (torch.bfloat16, torch.int64)
    assert batch_of(((torch.empty(8), torch.empty(4)), {})) is None
