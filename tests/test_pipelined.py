"""Plans of pipelines: documents, promises about memory, and side-by-side runs."""

from __future__ import annotations

import copy
import functools
import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

from partitioner import (
    Cluster,
    Device,
    InfeasibleError,
    Link,
    Plan,
    PlanError,
    Separate,
    SpecError,
    plan,
    virtual_gpus,
)
from partitioner.capture import captured_of
from partitioner.graph import training_loss, wire_specs
from partitioner.schedule import in_flight, orders
from partitioner.verify import verify
from tests.distributed.models import MICRO_BATCHES, batch_of, model_of

SCHEDULES = [("gpipe", 1), ("1f1b", 1), ("interleaved", 2), ("zero-bubble", 2)]
NAMES = ("cuda:0", "cuda:1")
FAST = (Link(NAMES, bandwidth="1000000GB/s"),)


def planned(
    name: str,
    schedule: str = "1f1b",
    stages_per_rank: int = 1,
    *,
    model: nn.Module | None = None,
    memory: int | str = "1GiB",
    mode: str = "train",
) -> Plan:
    """A plan over links that are fast enough for models this small."""
    args, kwargs = batch_of(name)
    return plan(
        model_of(name) if model is None else model,
        Cluster(tuple(Device(device, memory=memory) for device in NAMES), FAST),
        args,
        example_kwargs=kwargs,
        mode=mode,
        optimizer="adam",
        objective="throughput",
        micro_batches=MICRO_BATCHES,
        schedule=schedule,
        stages_per_rank=stages_per_rank,
    )


known = functools.cache(planned)
"""The same, made once."""


def unet_plan() -> Plan:
    return known("unet", "1f1b", 1)


def buffered(found: Plan) -> dict[str, int]:
    """By device, what a process keeps for micro-batches that are not in flight, by the document."""
    record = found.pipeline
    assert record is not None
    captured = captured_of(found.program)
    flying: dict[int, int] = {}
    for order in orders(
        record.schedule,
        len(record.ranks),
        record.micro_batches,
        stages_per_rank=record.stages_per_rank,
    ):
        flying.update(in_flight(order))
    extra = dict.fromkeys(found.devices, 0)

    def block(nbytes: int) -> int:
        return -(-nbytes // 512) * 512

    stages = found.stages()
    for before, part in pairwise(stages):
        for spec in wire_specs(captured, part)[0]:
            size = block(spec.nbytes)
            here = record.ranks[part.index % len(record.ranks)]
            there = record.ranks[before.index % len(record.ranks)]
            extra[here] += (record.micro_batches - flying[part.index]) * size
            if spec.requires_grad:
                extra[there] += (record.micro_batches - 1) * size
    return extra


@pytest.mark.parametrize(
    ("name", "schedule", "stages_per_rank"),
    [*(("unet", *each) for each in SCHEDULES), ("hf_gpt2_labels", "1f1b", 1)],
)
def test_memory_is_as_promised(name: str, schedule: str, stages_per_rank: int) -> None:
    found = known(name, schedule, stages_per_rank)
    args, kwargs = batch_of(name)
    with virtual_gpus(found.virtual_cluster()) as gpus:
        pipeline = found.pipeline_on(model_of(name), lambda output, _: training_loss(output))
        optimizer = torch.optim.Adam(pipeline.parameters())
        for _ in range(2):
            pipeline.zero_grad()
            pipeline.step(*args, **kwargs)
            optimizer.step()
        measured = {device: gpus[device].peak_nbytes for device in found.devices}
    extra = buffered(found)
    for device, use in found.memory.items():
        assert measured[device] + extra[device] == pytest.approx(use.peak, rel=0.01), device
    assert len(found.pipeline.ranks) == 2


def test_a_plan_survives_its_document() -> None:
    found = unet_plan()
    text = found.to_json()
    again = Plan.from_json(text)
    assert again == found
    assert again.to_json() == text
    assert again.stages() == found.stages()
    assert planned("unet").to_json() == text


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("bubble", 0.0),
        ("micro_batches", 8),
        ("ranks", ["cuda:1", "cuda:0"]),
        ("schedule", "zigzag"),
        ("stages", {}),
        ("ranks", ["cuda:0", "cuda:7"]),
        ("ranks", []),
    ],
)
def test_a_document_that_contradicts_itself_is_refused(key: str, value: object) -> None:
    document = json.loads(unet_plan().to_json())
    assert document["pipeline"][key] != value
    document["pipeline"][key] = value
    with pytest.raises(PlanError):
        Plan.from_json(json.dumps(document))


def test_a_stage_that_reads_from_a_later_one_is_refused() -> None:
    document = json.loads(unet_plan().to_json())
    stages = document["pipeline"]["stages"]
    first = next(iter(stages))
    assert stages[first] == 0
    stages[first] = 1
    with pytest.raises(PlanError):
        Plan.from_json(json.dumps(document))


def test_what_fits_nowhere_is_told_with_its_lack() -> None:
    with pytest.raises(InfeasibleError, match=r"lack .*cuda:0") as caught:
        planned("hf_gpt2_labels", memory="100KiB")
    assert caught.value.shortfall["total"] > 0


def test_memory_limits_move_the_cuts() -> None:
    """A limit just under the peak of the fuller device is kept, by another division."""
    free = unet_plan()
    limit = max(use.peak for use in free.memory.values()) - 4096
    tight = planned("unet", memory=limit)
    assert all(use.peak <= limit for use in tight.memory.values())
    assert tight.step_seconds >= free.step_seconds


def test_too_few_parts_for_the_stages() -> None:
    with pytest.raises(SpecError, match="stages_per_rank=9"):
        planned("seqnet", "interleaved", 9)


@pytest.mark.parametrize(
    ("name", "mode"),
    [("hf_gpt2_labels", "train"), ("unet", "train"), ("tied", "train"), ("unet", "inference")],
)
def test_verify_runs_the_pipeline_next_to_the_whole_model(name: str, mode: str) -> None:
    model = model_of(name)
    found = planned(name, model=model, mode=mode)
    report = verify(model, found, *batch_of(name))
    assert report.on == "virtual GPUs"
    assert report.passed, report
    expected = {"outputs", "gradients", "parameters after two steps"}
    assert {c.what for c in report.comparisons} == (expected if mode == "train" else {"outputs"})
    assert all(c.tensors for c in report.comparisons)
    assert all(report.measured_peak_nbytes[rank] for rank in found.pipeline.ranks)


def test_verify_compares_models_that_drop() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 8), nn.Dropout(0.5))
    batch = torch.randn(8, 8)
    found = plan(
        model,
        Cluster(tuple(Device(device, memory="1GiB") for device in NAMES), FAST),
        batch,
        objective="throughput",
        micro_batches=4,
        constraints=[Separate("0", "2")],
    )
    assert len(found.pipeline.ranks) == 2
    assert verify(model, found, (batch,)).passed


def test_verify_finds_a_pipeline_that_computes_something_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = model_of("unet")
    found = planned("unet", model=model)
    real = Plan.pipeline_on

    def other(self: Plan, model: nn.Module, *rest: object) -> object:
        wrong = copy.deepcopy(model)
        with torch.no_grad():
            next(wrong.parameters()).add_(0.1)
        return real(self, wrong, *rest)

    monkeypatch.setattr(Plan, "pipeline_on", other)
    report = verify(model, found, *batch_of("unet"))
    assert not report.passed
    assert report.comparisons[0].differing


def test_a_plan_can_be_read_and_drawn(tmp_path: Path) -> None:
    found = unet_plan()
    assert "4 micro-batches through 2 stages (1f1b)" in str(found)
    assert found.explain()
    for suffix in ("svg", "html"):
        found.draw(tmp_path / f"plan.{suffix}")
        assert (tmp_path / f"plan.{suffix}").stat().st_size


class Skip(nn.Module):
    """Layers of equal size, the first of which is read again at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = x = self.layers[0](x)
        for layer in self.layers[1:]:
            x = layer(x)
        return x + first


def planned_tight(devices: int, *broken: tuple[str, str]) -> Plan:
    """On devices that have room for their share of the parameters, and little more."""
    names = [f"cuda:{i}" for i in range(devices)]
    memory = 6 * 64 * 65 * 4 * 4 // devices + 60_000
    cluster = Cluster(
        [Device(name, memory=memory) for name in names],
        [Link(pair, broken=True) for pair in broken],
    )
    return plan(
        Skip(), cluster, torch.zeros(8, 64), optimizer="adam", objective="throughput",
        micro_batches=4,
    )  # fmt: skip


def test_values_that_are_handed_on_are_shown_with_each_device_that_sends_them():
    found = planned_tight(3)
    handed = [
        t.tensor for t in found.transfers if (t.source, t.destination) == ("cuda:1", "cuda:2")
    ]
    skipped = [name for name in handed if found.placement[name] == "cuda:0"]
    shown = [line.split() for line in str(found).splitlines()]
    for name in skipped:
        assert [line[1:3] for line in shown if line and line[0] == name] == [
            ["cuda:0", "cuda:1"],
            ["cuda:1", "cuda:2"],
        ]
    assert skipped


def test_neighbours_are_chosen_round_a_broken_link():
    ranks = planned_tight(3, ("cuda:0", "cuda:1")).pipeline.ranks
    assert set(ranks) == {"cuda:0", "cuda:1", "cuda:2"}
    assert ranks[1] == "cuda:2"
    with pytest.raises(InfeasibleError, match="between 'cuda:0' and 'cuda:1' is broken"):
        planned_tight(2, ("cuda:0", "cuda:1"))
