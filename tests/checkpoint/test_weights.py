"""What a model gets from a checkpoint: types, ties, renamed keys, computed buffers, its bytes."""

from __future__ import annotations

from collections.abc import Callable, Collection
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import Tensor, nn

from partitioner import CheckpointError, Plan, plan, virtual_gpus
from partitioner.capture import capture
from partitioner.checkpoint import match, open_checkpoint
from partitioner.emit import place
from tests.checkpoint.test_formats import (
    Save,
    on_meta,
    planned,
    save_distributed,
    save_pt,
    save_sharded_safetensors,
)
from tests.zoo import ZOO


class Deep(nn.Sequential):
    """Eight layers of 256 KiB."""

    def __init__(self) -> None:
        super().__init__(*(nn.Linear(256, 256, bias=False) for _ in range(8)))


def peak_nbytes(run: Callable[[], Any], files: Collection[Path]) -> int:
    """The most that the host had allocated during a call, as the profiler saw it.

    It reports a file that is mapped as one block of the file's size, which is no allocation.
    """
    mapped = {file.stat().st_size for file in files}
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        kept = run()
    assert kept is not None
    assert profile.profiler is not None
    results: Any = profile.profiler.kineto_results
    events = [event for event in results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    sizes = (event.nbytes() for event in events if abs(event.nbytes()) not in mapped)
    return max(accumulate(sizes))


@pytest.mark.parametrize("save", [save_sharded_safetensors, save_pt, save_distributed])
def test_the_host_holds_one_tensor_beside_what_is_placed(save: Save, tmp_path: Path) -> None:
    path = save(Deep(), tmp_path)
    with torch.device("meta"):
        model = Deep()
    recording = capture(model, (torch.zeros(1, 256),), training=False)
    placement = dict.fromkeys(recording.nodes, "cpu")
    largest = 256 * 256 * 4

    def load() -> nn.Module:
        readers = match(model, open_checkpoint(path))
        return place(model, recording, placement, data=readers)

    peak = peak_nbytes(load, files=[file for file in tmp_path.rglob("*") if file.is_file()])
    assert 8 * largest <= peak <= 8 * largest + 1.5 * largest


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_data_is_converted_to_the_models_type(dtype: torch.dtype, tmp_path: Path) -> None:
    model = ZOO["seqnet"].build()
    state = {key: tensor.to(dtype) for key, tensor in model.state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    expected = ZOO["seqnet"].build()
    expected.load_state_dict(state)
    with virtual_gpus("2x1GiB"):
        placed = planned("seqnet").apply(on_meta("seqnet"), checkpoint=tmp_path)
        for name, parameter in placed.named_parameters():
            assert parameter.dtype == torch.float32
            assert torch.equal(parameter.to("cpu"), expected.get_parameter(name))


def test_ties_are_kept_whichever_name_was_saved(tmp_path: Path) -> None:
    model = ZOO["language_model"].build()
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    for left_out in ("wte.weight", "head.weight"):
        saved = {key: tensor for key, tensor in state.items() if key != left_out}
        save_file(saved, tmp_path / "model.safetensors")
        with virtual_gpus("2x1GiB"):
            placed = planned("language_model").apply(on_meta("language_model"), checkpoint=tmp_path)
            tied = placed.get_parameter("head.weight")
            assert tied is placed.get_parameter("wte.weight")
            assert torch.equal(tied.to("cpu"), state["wte.weight"])


def test_keys_that_the_model_renames_arrive(tmp_path: Path) -> None:
    """Weight norm's hook takes the keys of its older form."""

    def build() -> nn.Module:
        torch.manual_seed(1)
        return nn.Sequential(
            nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 2)
        )

    model = build()
    state = model.state_dict()
    old = {
        key.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): tensor * 2
        for key, tensor in state.items()
    }
    save_file(old, tmp_path / "model.safetensors")
    readers = match(build(), open_checkpoint(tmp_path))
    assert set(readers) == set(state)
    assert all(torch.equal(readers[key](), state[key] * 2) for key in state)


def test_an_older_batch_norm_without_its_counter_is_taken(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    state = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    save_file(state, tmp_path / "model.safetensors")
    readers = match(model, open_checkpoint(tmp_path))
    assert set(readers) == set(state)


class Rotated(nn.Module):
    """Has a buffer that no checkpoint holds."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("angles", torch.arange(4.0) / 7, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * self.angles


class Resettable(Rotated):
    """Can compute it again."""

    def reset_parameters(self) -> None:
        self.angles = torch.arange(4.0) / 7


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_buffer_that_is_not_saved_is_computed_by_the_models_code(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    model = Resettable().to(dtype)
    save_model(model, str(tmp_path / "model.safetensors"))
    with torch.device("meta"):
        bare = Resettable().to(dtype)
    x = torch.randn(2, 4, dtype=dtype)
    placed = plan(bare, ["cpu"], x, memory="1GiB").apply(bare, checkpoint=tmp_path)
    assert torch.equal(placed(x), model(x))


def test_a_buffer_that_nobody_can_compute_is_named(tmp_path: Path) -> None:
    save_model(Rotated(), str(tmp_path / "model.safetensors"))
    with torch.device("meta"):
        bare = Rotated()
    with pytest.raises(CheckpointError, match=r"no data for 'angles'.*reset_parameters"):
        match(bare, open_checkpoint(tmp_path))
    with torch.device("meta"):
        bare = Rotated()
    bare.angles = torch.arange(4.0) / 7
    assert set(match(bare, open_checkpoint(tmp_path))) == {"linear.weight", "linear.bias"}


def llama(prefix: str = "") -> tuple[Any, Callable[[], Any]]:
    """A small Llama with random weights, and the same on `meta`; the bare model has a prefix."""
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel

    config = LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=32,
        tie_word_embeddings=False,
        use_cache=False,
    )

    def bare() -> Any:
        with torch.device("meta"):
            return (LlamaModel if prefix else LlamaForCausalLM)(config).eval()

    torch.manual_seed(3)
    return LlamaForCausalLM(config).eval(), bare


def llama_plan(model: Any) -> Plan:
    ids = torch.zeros(2, 8, dtype=torch.long)
    return plan(model, "2x1GiB", {"input_ids": ids}, objective="memory", time_limit=20)


def test_a_llama_goes_from_its_files_to_its_devices(tmp_path: Path) -> None:
    model, bare = llama()
    model.save_pretrained(tmp_path, max_shard_size="5KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    ids = torch.randint(64, (2, 12))
    with virtual_gpus("2x1GiB"):
        placed = llama_plan(bare()).apply(bare(), checkpoint=tmp_path)
        logits = placed(input_ids=ids).logits.to("cpu")
        assert len({str(p.device) for p in placed.parameters()}) == 2
    assert torch.equal(logits, model(ids).logits)


def test_the_bare_model_takes_the_checkpoint_of_one_with_a_head(tmp_path: Path) -> None:
    model, bare = llama("model.")
    model.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r'Unexpected key.*"lm_head.weight"'):
        match(bare(), open_checkpoint(tmp_path))
    readers = match(bare(), open_checkpoint(tmp_path), strict=False)
    assert torch.equal(readers["norm.weight"](), model.model.norm.weight)
    assert torch.equal(readers["rotary_emb.inv_freq"](), model.model.rotary_emb.inv_freq)
