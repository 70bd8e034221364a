"""What a plan says that more would bring, against what planning with more finds."""

from __future__ import annotations

import re

import msgspec
import pytest
import torch

from examples.seqnet import SeqNet
from partitioner import Cluster, Pin, Plan, plan
from partitioner.spec import with_twins
from tests.zoo import ZOO

IMAGES = torch.empty(64, 1, 28, 28, device="meta")
LEADS = ("Without your constraints", "With memory without limit", "more on", "one more device")


def test_memory_that_limits_is_told_with_what_more_of_it_brings() -> None:
    found = plan(SeqNet(), "2x3MiB", IMAGES, optimizer="adam")
    lines = [line for line in found.outlook if "384 KiB more on cuda:0" in line]
    more = Cluster.of("cuda:0,cuda:1", {"cuda:0": (3 << 20) + 384 * 1024, "cuda:1": "3MiB"})
    larger = plan(SeqNet(), more, IMAGES, optimizer="adam")
    gain = 1 - larger.step_seconds / found.step_seconds
    assert gain > 0.1
    assert f"{100 * gain:.1f}% less" in lines[0]
    assert "48.1 us instead of 71.4 us" in " ".join(found.explain().split())


def test_where_nothing_is_to_be_gained_that_is_proved() -> None:
    text = " ".join(plan(SeqNet(), "2x16GiB", IMAGES, optimizer="adam").explain().split())
    assert "Memory does not limit it: no amount would gain anything; that is proved." in text
    assert "With one more device like cuda:0, nothing is gained; that is proved." in text


@pytest.mark.parametrize("objective", ["latency", "throughput", "memory"])
def test_another_device_brings_what_was_said(objective: str) -> None:
    case = ZOO["transformer_encoder"]
    cluster = Cluster.of("2x100KiB")

    def planned(devices: Cluster) -> Plan:
        return plan(case.build().train(), devices, case.args(), optimizer="adam",
                    objective=objective)  # fmt: skip

    found = planned(cluster)
    (line,) = (line for line in found.outlook if "one more device like cuda:0" in line)
    larger = planned(with_twins(cluster, "cuda:0"))
    gain = 100 * (1 - larger.certificate.objective / found.certificate.objective)
    if "nothing is gained" in line:
        assert gain <= 0.2
        return
    most = re.search(r"(?:at most|no more than) ([\d.]+)%", line)
    least = re.search(r"at least ([\d.]+)%", line) or re.search(r": ([\d.]+)% less", line)
    if most is not None:
        assert gain <= float(most[1]) + 0.2
    if least is not None:
        assert gain >= float(least[1]) - 0.2
    assert most is not None or least is not None


def test_constraints_that_cost_something_are_told() -> None:
    found = plan(
        SeqNet(),
        "2x1GiB",
        IMAGES,
        optimizer="adam",
        constraints=[Pin("lin1", "cuda:0"), Pin("lin2", "cuda:1")],
    )
    free = plan(SeqNet(), "2x1GiB", IMAGES, optimizer="adam")
    gain = 100 * (1 - free.step_seconds / found.step_seconds)
    assert gain > 1
    assert found.outlook[0].startswith("Without your constraints")
    assert f"{gain:.1f}% less" in found.outlook[0]


def test_a_saved_plan_says_the_same_and_an_older_one_nothing() -> None:
    found = plan(SeqNet(), "2x3MiB", IMAGES, optimizer="adam")
    assert Plan.from_json(found.to_json()).explain() == found.explain()
    older = msgspec.json.decode(found.to_json())
    del older["outlook"]
    text = Plan.from_json(msgspec.json.encode(older)).explain()
    assert not any(lead in text for lead in LEADS)


def test_a_large_graph_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("partitioner.outlook.LARGE", 5)
    text = plan(SeqNet(), "2x3MiB", IMAGES, optimizer="adam").explain()
    assert "was not looked up: the graph is large" in text
