"""Device maps: plans in the form of Hugging Face's libraries, and theirs compared with plans."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from torch import nn

import partitioner
from partitioner import Pin, Plan, PlanError, virtual_gpus
from partitioner.capture import capture
from partitioner.cli import cli
from partitioner.device_maps import DeviceMap

SEQNET = "examples.seqnet:model"
SPLIT = {"lin1": 0, "lin2": "cuda:1"}
"""What `examples.seqnet:HandSplitSeqNet` does, as a device map."""


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture(scope="module")
def llama() -> tuple[nn.Module, dict[str, torch.Tensor], Plan]:
    """A tiny Llama with random weights, its input, and a plan that splits it twice."""
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=16, use_cache=False,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).eval()
    inputs = {"input_ids": torch.arange(8).view(1, 8)}
    apart = [Pin("model.layers.0", "cuda:0"), Pin("model.layers.1", "cuda:1")]
    return model, inputs, partitioner.plan(model, "2x1GiB", inputs, constraints=apart)


def check_runs(model: nn.Module, plan: Plan, inputs: dict[str, torch.Tensor], want: object) -> None:
    """Every parameter is where the plan says, and the outputs are those of the original."""
    for name, parameter in model.named_parameters():
        assert str(parameter.device) == plan.parameters[name], name
    with torch.no_grad():
        logits = model(**inputs).logits
    assert torch.equal(logits.cpu(), want)


def test_accelerate_dispatches_as_planned(
    llama: tuple[nn.Module, dict[str, torch.Tensor], Plan],
) -> None:
    accelerate = pytest.importorskip("accelerate")
    model, inputs, plan = llama
    with torch.no_grad():
        want = model(**inputs).logits
    assert len(set(plan.device_map().values())) == 2
    with virtual_gpus(2, memory="8GiB"):
        placed = accelerate.dispatch_model(copy.deepcopy(model), device_map=plan.device_map())
        check_runs(placed, plan, inputs, want)


def test_transformers_loads_as_planned(
    llama: tuple[nn.Module, dict[str, torch.Tensor], Plan],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, inputs, plan = llama
    with torch.no_grad():
        want = model(**inputs).logits
    model.save_pretrained(tmp_path)  # type: ignore[operator]
    monkeypatch.setenv("HF_DEACTIVATE_ASYNC_LOAD", "1")  # virtual GPUs are those of one thread
    with virtual_gpus(2, memory="8GiB"):
        loaded = type(model).from_pretrained(tmp_path, device_map=plan.device_map())  # type: ignore[attr-defined]
        check_runs(loaded, plan, inputs, want)


def test_a_map_and_a_hand_split_that_do_the_same_cost_the_same(tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    path.write_text(json.dumps(SPLIT))
    result = run("compare", SEQNET, path, "examples.seqnet:HandSplitSeqNet", "--devices", "2x1GiB")
    assert result.exit_code == 0, result.stderr
    rows = [words(line).split(" ", 1) for line in result.stdout.splitlines() if "1.000" in line]
    names, figures = zip(*rows, strict=True)
    assert len(set(figures)) == 1, figures
    assert len(names) == 2


def test_a_plan_is_compared_with_what_accelerate_makes_of_a_limit() -> None:
    pytest.importorskip("accelerate")
    result = run("compare", SEQNET, "inputs_for_cli:one_device", "--devices", "2x1GiB",
                 "--max-memory", "cuda:0=300KB,cuda:1=1GiB")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    peaks = {
        name: re.split(r"\s{2,}", line.strip())[-2:]
        for line in result.stdout.splitlines()
        for name in ("accelerate", "inputs_for_cli:one_device")
        if line.startswith(name)
    }
    assert peaks["accelerate"] == peaks["inputs_for_cli:one_device"][::-1], result.stdout


def test_nodes_run_in_the_module_that_is_named() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    recording = capture(model, (torch.ones(2, 4),), training=False)
    found = DeviceMap.of({"0": "cpu", "1": 1, "2": torch.device("cuda:0")}).placement(recording)
    calls = {str(n.target): found[n.name] for n in recording.graph.nodes if n.op == "call_module"}
    assert calls == {"0": "cpu", "1": "cuda:1", "2": "cuda:0"}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"lin1": 0, "lin2": "disk"}, "leaves 'lin2' on 'disk'"),
        ({"lin1": 0, "lin3": 0}, "no 'lin3'; did you mean 'lin"),
        ({"lin1": 0}, "no entry places the parameter 'lin2.weight'"),
        ({"": 7}, "'cuda:7', which is not among the devices"),
        ({"lin1": 0, "lin2": "gpu"}, "no device 'gpu'"),
    ],
)
def test_a_bad_map_is_told(content: object, told: str, tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    path.write_text(json.dumps(content))
    result = run("compare", SEQNET, path, "--devices", "2x1GiB")
    assert (result.exit_code, result.stdout) == (2, "")
    assert told in words(result.stderr)


def test_what_is_no_map_is_told() -> None:
    for content in ({}, ["cuda:0"], {"lin1": 1.5}, {"lin1": True}):
        with pytest.raises(PlanError, match="device"):
            DeviceMap.of(content)
