from __future__ import annotations

import copy
import itertools
import re
from typing import Any

import pytest
import torch
from torch import nn

from examples.seqnet import HandSplitSeqNet, SeqNet
from partitioner import (
    CaptureError,
    Cluster,
    Colocate,
    Contiguous,
    InfeasibleError,
    Pin,
    PlacedModule,
    Plan,
    Separate,
    SpecError,
    partition,
    plan,
    virtual_gpus,
)
from partitioner.verify import verify
from tests.zoo import ZOO

IMAGES = torch.empty(64, 1, 28, 28, device="meta")


def test_one_gpu_is_right_where_all_fits() -> None:
    found = plan(SeqNet(), "2x16GiB", IMAGES, optimizer="adam")
    assert set(found.placement.values()) == {"cuda:0"}
    assert found.certificate.status == "optimal"
    assert found.transfers == ()
    assert "fits on cuda:0" in found.explain()


def test_memory_forces_the_cut_between_the_layers() -> None:
    found = plan(SeqNet(), "2x3MiB", IMAGES, optimizer="adam")
    assert found.parameters["lin1.weight"] == "cuda:0"
    assert found.parameters["lin2.weight"] == "cuda:1"
    assert found.placement["log_softmax"] == "cuda:0"
    assert [(t.source, t.destination, t.nbytes) for t in found.transfers] == [
        ("cuda:0", "cuda:1", 64 * 200 * 4),
        ("cuda:1", "cuda:0", 64 * 200 * 4),
    ]
    assert all(use.peak <= 3 << 20 for use in found.memory.values())


def test_operators_that_bytes_alone_price_reach_the_user() -> None:
    class Inverse(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.inv(x) + 1

    found = plan(Inverse().eval(), "1x1GiB", torch.eye(4))
    assert found.unpriced == ("aten.linalg_inv_ex.default",)
    assert "aten.linalg_inv_ex.default" in found.explain()


def test_the_same_input_gives_the_same_bytes() -> None:
    plans = [
        plan(ZOO["unet"].build(), "2x1GiB", ZOO["unet"].args(), objective="throughput").to_json()
        for _ in range(2)
    ]
    assert plans[0] == plans[1]


def test_a_plan_needs_shapes_alone() -> None:
    with torch.device("meta"):
        model = SeqNet()
    assert plan(model, "2x3MiB", IMAGES, optimizer="adam") == plan(
        SeqNet(), "2x3MiB", IMAGES, optimizer="adam"
    )


def test_inputs_are_inferred_from_the_first_layer() -> None:
    with virtual_gpus(2, memory="16GiB"):
        placed = partition(SeqNet(784, 200, 10), ["cuda:0", "cuda:1"])
        assert placed(torch.randn(3, 1, 28, 28)).shape == (3, 10)


def test_the_original_is_left_alone() -> None:
    model = SeqNet()
    before = copy.deepcopy(model.state_dict())
    with virtual_gpus(2, memory="3MiB"):
        placed = partition(model, ["cuda:0", "cuda:1"], IMAGES, optimizer="adam")
        loss = placed(torch.randn(4, 784)).sum()
        loss.backward()
        torch.optim.Adam(placed.parameters()).step()
    assert isinstance(placed, PlacedModule)
    assert isinstance(placed, SeqNet)
    assert list(placed.state_dict()) == list(before)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_mode_follows_the_model() -> None:
    assert plan(SeqNet().train(), "1x1GiB", IMAGES).mode == "train"
    found = plan(SeqNet().eval(), "1x1GiB", IMAGES)
    assert found.mode == "inference"
    assert found.memory["cuda:0"].gradients == 0
    assert plan(SeqNet().train(), "1x1GiB", IMAGES, mode="inference").mode == "inference"


def test_constraints_are_kept() -> None:
    model = nn.Sequential(*(nn.Linear(16, 16) for _ in range(4)))
    found = plan(
        model,
        "3x1GiB",
        torch.empty(2, 16),
        constraints=[Pin("0", "cuda:2"), Separate("1", "2"), Colocate("2", "3"), Contiguous()],
    )
    where = [found.parameters[f"{i}.weight"] for i in range(4)]
    assert where[0] == "cuda:2"
    assert where[1] != where[2] == where[3]
    assert len(set(where)) == len([a for a, b in itertools.pairwise(where) if a != b]) + 1


def test_a_hand_split_is_planned_like_its_original() -> None:
    with virtual_gpus(2, memory="1GiB"):
        by_hand = HandSplitSeqNet()
        found = plan(by_hand, "2x3MiB", IMAGES, optimizer="adam")
    assert found.parameters == plan(SeqNet(), "2x3MiB", IMAGES, optimizer="adam").parameters


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", None])
def test_promised_peaks_are_the_measured_ones(optimizer: str | None) -> None:
    case = ZOO["transformer_encoder"]
    model = case.build()
    found = plan(model, "2x1GiB", case.args(), optimizer=optimizer, objective="memory")
    report = verify(model, found, case.args(), case.kwargs())
    assert report.passed
    if optimizer is not None:
        assert report.measured_peak_nbytes == report.promised_peak_nbytes


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"devices": []}, SpecError, "no device"),
        ({"devices": ["cuda:0", "cuda:0"], "memory": "1GiB"}, SpecError, "twice"),
        ({"devices": ["cuda:0"]}, SpecError, "memory"),
        ({"devices": ["cuda:0"], "memory": "0GiB"}, SpecError, "memory"),
        ({"devices": ["cuda:0"], "memory": "-1GiB"}, SpecError, "memory"),
        ({"devices": ["cuda:0"], "memory": {"cuda:1": "1GiB"}}, SpecError, "cuda:1"),
        ({"devices": ["gpu7"], "memory": "1GiB"}, SpecError, "gpu7"),
        ({"devices": "2xa101"}, SpecError, "a101"),
        ({"devices": "no/such/cluster.toml"}, SpecError, "cluster.toml"),
        ({"objective": "latancy"}, SpecError, "latency"),
        ({"mode": "training"}, SpecError, "train"),
        ({"optimizer": "adan"}, SpecError, "adam"),
        ({"micro_batches": 4}, SpecError, "micro_batches"),
        ({"constraints": [Pin("lin3", "cuda:0")]}, SpecError, "lin1"),
        ({"constraints": [Pin("lin1", "cuda:5")]}, SpecError, "cuda:5"),
        (
            {"constraints": [Pin("lin1", "cuda:0"), Pin("lin*", "cuda:1")]},
            SpecError,
            "lin",
        ),
        (
            {"constraints": [Colocate("lin1", "lin2"), Separate("lin1", "lin2")]},
            SpecError,
            "lin",
        ),
        ({"example_inputs": torch.empty(4, 783)}, CaptureError, "lin1"),
        ({"example_inputs": (torch.empty(4, 784), torch.empty(3))}, CaptureError, "forward"),
        ({"example_inputs": {"y": torch.empty(4, 784)}}, CaptureError, "argument: 'x'"),
        ({"devices": "2x1MiB", "optimizer": "adam"}, InfeasibleError, "missing"),
    ],
)
def test_bad_input_is_told(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    call = {"devices": "2x1GiB", "example_inputs": IMAGES, **arguments}
    with pytest.raises(error, match=text):
        plan(SeqNet(), call.pop("devices"), call.pop("example_inputs"), **call)


def test_a_model_that_decides_by_its_data_is_one_unit_and_told_with_the_line() -> None:
    class Fickle(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.sum() > 0:
                return x * 2
            return x

    found = plan(Fickle(), "2x1GiB", torch.empty(3), mode="inference")
    assert len(set(found.placement.values())) == 1
    told = " ".join(found.explain().split())
    assert re.search(r"the model \(.*test_compiler.py:\d+: if x.sum\(\) > 0", told)


def test_what_is_no_module_is_told() -> None:
    with pytest.raises(SpecError, match=r"nn\.Module"):
        plan(lambda x: x, "2x1GiB", torch.empty(3))  # type: ignore[arg-type]


def test_infeasible_tells_how_much_and_what_helps() -> None:
    with pytest.raises(InfeasibleError) as caught:
        plan(SeqNet(), "2x2MiB", IMAGES, optimizer="adam")
    assert caught.value.shortfall
    assert caught.value.suggestions
    short = max(caught.value.shortfall.values())
    limit = (2 << 20) + short
    plan(SeqNet(), Cluster.of("cuda:0,cuda:1", memory=limit), IMAGES, optimizer="adam")


def test_progress_tells_each_step() -> None:
    lines: list[str] = []
    plan(SeqNet(), "1x1GiB", IMAGES, progress=lines.append)
    assert "recording" in lines[0]
    assert any("solving" in line for line in lines)


def test_virtual_gpus_give_their_memory_to_bare_names() -> None:
    with virtual_gpus(2, memory="3MiB"):
        found = plan(SeqNet(), ["cuda:0", torch.device("cuda:1")], IMAGES, optimizer="adam")
    assert isinstance(found, Plan)
    assert found.memory["cuda:1"].limit == 3 << 20
    assert found.parameters["lin2.bias"] == "cuda:1"
