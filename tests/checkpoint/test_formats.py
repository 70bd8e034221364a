"""Every format of checkpoints gives the placed module the same weights."""

from __future__ import annotations

import functools
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as distributed_checkpoint
from safetensors.torch import save_file, save_model
from torch import Tensor, nn

from partitioner import Plan, plan, virtual_gpus
from tests.zoo import ZOO

Save = Callable[[nn.Module, Path], Path]


def halves(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    names = list(state)
    first = names[: len(names) // 2]
    return {n: state[n] for n in first}, {n: state[n] for n in names if n not in first}


def save_sharded(
    model: nn.Module, folder: Path, name: str, save: Callable[[dict[str, Tensor], Path], Any]
) -> Path:
    parts = halves({k: v.clone() for k, v in model.state_dict().items()})
    files = {}
    for number, part in enumerate(parts):
        file = name.replace(".", f"-{number}.")
        save(part, folder / file)
        files |= dict.fromkeys(part, file)
    index = folder / f"{name}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return index


def save_safetensors(model: nn.Module, folder: Path) -> Path:
    save_model(model, str(folder / "weights.safetensors"))
    return folder / "weights.safetensors"


def save_sharded_safetensors(model: nn.Module, folder: Path) -> Path:
    return save_sharded(model, folder, "model.safetensors", save_file)


def save_sharded_safetensors_folder(model: nn.Module, folder: Path) -> Path:
    return save_sharded_safetensors(model, folder).parent


def save_pt(model: nn.Module, folder: Path) -> Path:
    torch.save(model.state_dict(), folder / "model.pt")
    return folder / "model.pt"


def save_training_run(model: nn.Module, folder: Path) -> Path:
    torch.save({"epoch": 3, "state_dict": model.state_dict()}, folder / "last.ckpt")
    return folder / "last.ckpt"


def save_sharded_bin(model: nn.Module, folder: Path) -> Path:
    return save_sharded(model, folder, "pytorch_model.bin", torch.save).parent


def save_distributed(model: nn.Module, folder: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        distributed_checkpoint.save(model.state_dict(), checkpoint_id=folder)
    return folder


def save_distributed_run(model: nn.Module, folder: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = {"model": model.state_dict(), "epoch": 3}
        distributed_checkpoint.save(state, checkpoint_id=folder)
    return folder


FORMATS: tuple[Save, ...] = (
    save_safetensors,
    save_sharded_safetensors,
    save_sharded_safetensors_folder,
    save_pt,
    save_training_run,
    save_sharded_bin,
    save_distributed,
    save_distributed_run,
)


@functools.cache
def planned(name: str) -> Plan:
    case = ZOO[name]
    return plan(
        case.build(),
        "2x1GiB",
        case.args(),
        example_kwargs=case.kwargs(),
        objective="memory",
        time_limit=20,
    )


def on_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return ZOO[name].build()


@pytest.mark.parametrize("save", FORMATS, ids=lambda save: save.__name__)
@pytest.mark.parametrize("name", ["residual_cnn", "language_model"])
def test_a_model_on_meta_gets_its_weights(name: str, save: Save, tmp_path: Path) -> None:
    torch.manual_seed(7)
    saved = ZOO[name].build()
    with torch.no_grad():
        for tensor in (*saved.parameters(), *saved.buffers()):
            tensor.copy_(torch.rand(tensor.shape) * 9)
    path = save(saved, tmp_path)
    with virtual_gpus("2x1GiB"):
        placed = planned(name).apply(on_meta(name), checkpoint=path)
        homes = {name: str(tensor.device) for name, tensor in placed.state_dict().items()}
        assert homes == {key: planned(name).parameters[key] for key in homes}
        assert set(homes.values()) == {"cuda:0", "cuda:1"}
        found = {key: tensor.to("cpu") for key, tensor in placed.state_dict().items()}
    for key, tensor in saved.state_dict().items():
        assert torch.equal(found[key], tensor), key
