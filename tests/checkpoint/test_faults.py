"""What is wrong with a checkpoint is said before anything is placed."""

from __future__ import annotations

import json
import os
import pickle
import struct
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as distributed_checkpoint
from safetensors.torch import save_file
from torch import Tensor

from partitioner import CheckpointError, virtual_gpus
from partitioner.checkpoint import match, open_checkpoint
from tests.checkpoint.test_formats import (
    FORMATS,
    Save,
    on_meta,
    planned,
    save_distributed,
    save_pt,
    save_safetensors,
    save_sharded_safetensors,
)
from tests.zoo import ZOO


def refused(path: Path, name: str = "seqnet") -> str:
    """The error that applying a checkpoint raises, with nothing placed by then."""
    with virtual_gpus("2x1GiB") as gpus:
        with pytest.raises(CheckpointError) as error:
            planned(name).apply(on_meta(name), checkpoint=path)
        assert all(gpu.peak_nbytes == 0 for gpu in gpus.values())
    return str(error.value)


def weights_file(path: Path) -> Path:
    """The largest file of a checkpoint: the one with weights."""
    files = [path] if path.is_file() and path.suffix != ".json" else list(path.parent.iterdir())
    files = list(path.iterdir()) if path.is_dir() else files
    return max(files, key=lambda file: file.stat().st_size)


@pytest.mark.parametrize("save", FORMATS, ids=lambda save: save.__name__)
@pytest.mark.parametrize("kept", [0, 7, 0.5, -1])
def test_a_truncated_file_is_named(save: Save, kept: float, tmp_path: Path) -> None:
    path = save(ZOO["seqnet"].build(), tmp_path)
    file = weights_file(path)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    with pytest.raises(CheckpointError) as error:
        open_checkpoint(path)
    assert file.name in str(error.value)


def test_nothing_is_placed_from_a_damaged_file(tmp_path: Path) -> None:
    path = save_sharded_safetensors(ZOO["seqnet"].build(), tmp_path)
    last = sorted(tmp_path.glob("*.safetensors"))[-1]
    last.write_bytes(last.read_bytes()[:-4])
    assert last.name in refused(path)


@pytest.mark.parametrize("save", [save_pt, save_distributed])
def test_a_changed_byte_is_found_by_the_checksum(save: Save, tmp_path: Path) -> None:
    model = ZOO["seqnet"].build()
    path = save(model, tmp_path)
    file = weights_file(path)
    content = bytearray(file.read_bytes())
    data = model.get_parameter("lin1.weight").detach().numpy().tobytes()
    content[content.index(data) + 100] ^= 1
    file.write_bytes(content)
    assert "CRC" in refused(path)
    assert file.name in refused(path)


def test_a_file_without_checksums_is_taken(tmp_path: Path) -> None:
    model = ZOO["seqnet"].build()
    written = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        path = save_pt(model, tmp_path)
    finally:
        torch.serialization.set_crc32_options(written)
    readers = match(on_meta("seqnet"), open_checkpoint(path))
    assert torch.equal(readers["lin1.weight"](), model.get_parameter("lin1.weight"))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"lin1.weight": "gone.safetensors"}, "gone.safetensors': there is no such file"),
        ({"lin1.weight": "../model.safetensors"}, "no file beside it"),
        ({"lin1.weight": 3}, "'lin1.weight'"),
        ({"lin1.weight": "model-1.safetensors"}, "'lin1.weight' is in 'model-1.safetensors'"),
    ],
)
def test_a_wrong_index_is_told(change: dict[str, Any], told: str, tmp_path: Path) -> None:
    path = save_sharded_safetensors(ZOO["seqnet"].build(), tmp_path)
    index = json.loads(path.read_text())
    index["weight_map"] |= change
    path.write_text(json.dumps(index))
    assert told in refused(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"weight_map": []}'])
def test_a_damaged_index_is_told(text: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    assert "model.safetensors.index.json" in refused(tmp_path)


def test_a_header_that_lies_is_told(tmp_path: Path) -> None:
    path = save_safetensors(ZOO["seqnet"].build(), tmp_path)
    content = path.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + size])
    header["lin1.weight"]["shape"] = [784, 201]
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + size :])
    assert path.name in refused(path)


class Intruder:
    """Leaves a file behind if it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    state = {**ZOO["seqnet"].build().state_dict(), "lin3": Intruder(trace)}
    torch.save(state, tmp_path / "model.pt")
    assert "weights_only" in refused(tmp_path / "model.pt")
    assert not trace.exists()


def test_nothing_in_distributed_metadata_is_executed(tmp_path: Path) -> None:
    path = save_distributed(ZOO["seqnet"].build(), tmp_path / "saved")
    trace = tmp_path / "trace"
    (path / ".metadata").write_bytes(pickle.dumps(Intruder(trace)))
    assert "mkdir', which is not executed" in refused(path)
    assert not trace.exists()


def test_entries_of_a_distributed_checkpoint_that_would_be_executed_stay_out(
    tmp_path: Path,
) -> None:
    trace, model = tmp_path / "trace", ZOO["seqnet"].build()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        distributed_checkpoint.save(
            {"model": model.state_dict(), "other": Intruder(trace)}, checkpoint_id=tmp_path / "run"
        )
    match(on_meta("seqnet"), open_checkpoint(tmp_path / "run"))
    assert not trace.exists()


def test_the_old_format_is_refused_with_the_way_out(tmp_path: Path) -> None:
    state = ZOO["seqnet"].build().state_dict()
    torch.save(state, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    assert "torch.save(torch.load(path), path)" in refused(tmp_path / "old.bin")


@pytest.mark.parametrize("held", [torch.ones(3), {"a": 1}, {"weights": {"x": torch.ones(1)}}])
def test_a_file_without_a_state_dict_is_told(held: Any, tmp_path: Path) -> None:
    torch.save(held, tmp_path / "model.pt")
    assert "state_dict is needed" in refused(tmp_path / "model.pt")


def test_a_path_that_is_not_there_is_told(tmp_path: Path) -> None:
    assert "there is no such file" in refused(tmp_path / "model.safetensors")
    assert "name the file itself" in refused(tmp_path)


CHANGES: dict[str, dict[str, Tensor | None]] = {
    "missing": {"lin1.weight": None},
    "unexpected": {"lin9.weight": torch.ones(2)},
    "shape": {"lin1.weight": torch.ones(3, 4)},
    "all": {"lin1.weight": None, "lin9.weight": torch.ones(2), "lin2.bias": torch.ones(3)},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_keys_that_do_not_fit_are_reported_as_pytorch_reports_them(
    change: dict[str, Tensor | None], tmp_path: Path
) -> None:
    model = ZOO["seqnet"].build()
    state: dict[str, Any] = {**model.state_dict(), **change}
    state = {key: tensor for key, tensor in state.items() if tensor is not None}
    with pytest.raises(RuntimeError) as expected:
        model.load_state_dict(state)
    save_file(state, tmp_path / "model.safetensors")
    assert str(expected.value) in refused(tmp_path)


def test_names_that_differ_by_a_prefix_are_told(tmp_path: Path) -> None:
    model = ZOO["seqnet"].build()
    save_file(
        {f"module.{k}": v for k, v in model.state_dict().items()}, tmp_path / "model.safetensors"
    )
    assert "The checkpoint has 'module.' before the names" in refused(tmp_path)


def test_without_strict_what_is_missing_is_the_models(tmp_path: Path) -> None:
    model, other = ZOO["seqnet"].build(), ZOO["seqnet"].build()
    with torch.no_grad():
        other.get_parameter("lin1.bias").fill_(3)
        other.get_parameter("lin2.bias").fill_(4)
    state = {"lin1.bias": other.get_parameter("lin1.bias").detach(), "more": torch.ones(1)}
    save_file(state, tmp_path / "model.safetensors")
    with virtual_gpus("2x1GiB"):
        placed = planned("seqnet").apply(model, checkpoint=tmp_path, strict=False)
    assert torch.equal(placed.get_parameter("lin1.bias"), other.get_parameter("lin1.bias"))
    assert torch.equal(placed.get_parameter("lin2.bias"), model.get_parameter("lin2.bias"))
    with pytest.raises(CheckpointError, match=r"no data for 'lin1.weight'"):
        match(on_meta("seqnet"), open_checkpoint(tmp_path), strict=False)
