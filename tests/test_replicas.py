"""Several equal pipelines that train together: which number, what it takes, what is promised."""

from __future__ import annotations

import functools
import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn

import partitioner.pipelined
from partitioner import Cluster, Device, Pin, Plan, PlanError, SpecError, plan
from partitioner.distributed import training_script
from partitioner.spec import Network, Node
from tests.test_pipelined import planned as planned_on_two

MICRO_BATCHES = 4
LAYERS = 4
NODES, EACH = 2, 2


def cluster_of(memory: str = "1GiB", network: str = "50GB/s") -> Cluster:
    """Two nodes of two devices."""
    names = [f"cuda:{i}" for i in range(NODES * EACH)]
    nodes = tuple(Node(tuple(names[i : i + EACH]), "450GB/s") for i in range(0, len(names), EACH))
    devices = tuple(Device(name, memory=memory) for name in names)
    return Cluster(devices, (), Network(nodes, network))


def planned(replicas: object, cluster: Cluster | None = None, **more: object) -> Plan:
    model = nn.Sequential(*(nn.Linear(512, 512) for _ in range(LAYERS)))
    batch = torch.empty(1024 * MICRO_BATCHES, 512, device="meta")
    return plan(
        model, cluster or cluster_of(), batch, optimizer="adamw", objective="throughput",
        micro_batches=MICRO_BATCHES, replicas=replicas, **more,
    )  # fmt: skip


@functools.cache
def over(network: str, replicas: object) -> Plan:
    return planned(replicas, cluster_of(network=network))


def two() -> Plan:
    return over("50GB/s", 2)


@functools.cache
def one_node() -> Plan:
    """One pipeline on the first node alone."""
    node = Node(("cuda:0", "cuda:1"), "450GB/s")
    return planned(1, Cluster(cluster_of().devices[:EACH], (), Network((node,), "50GB/s")))


def seconds_per_batch(found: Plan) -> float:
    return found.step_seconds / len(found.pipeline.pipelines)


@pytest.mark.parametrize("network", ["50GB/s", "50MB/s"])
def test_auto_is_the_best_of_all_numbers(network: str) -> None:
    """One device each where the network is fast; where it is slow, sums over it cost too much."""
    best = min((over(network, count) for count in (4, 2, 1)), key=seconds_per_batch)
    found = over(network, "auto")
    assert seconds_per_batch(found) == pytest.approx(seconds_per_batch(best))
    assert len(found.pipeline.pipelines) == (4 if network == "50GB/s" else 1)


def test_memory_decides_how_many_there_can_be() -> None:
    limit = over("50GB/s", 4).memory["cuda:0"].peak - 1
    found = planned("auto", cluster_of(f"{limit}B"))
    assert len(found.pipeline.pipelines) < 4
    assert "4 of 1 devices: nothing fits" in found.explain()


def test_each_replica_is_a_pipeline_inside_a_node() -> None:
    found = two()
    assert found.pipeline.pipelines == (("cuda:0", "cuda:1"), ("cuda:2", "cuda:3"))
    alone = one_node()
    assert found.pipeline.stages == alone.pipeline.stages
    assert found.transfers == alone.transfers
    for devices in found.pipeline.pipelines:
        for name, first in zip(devices, alone.pipeline.ranks, strict=True):
            assert found.memory[name] == alone.memory[first]


def test_a_step_ends_with_the_sums() -> None:
    """Ranks that finish earlier begin to sum earlier; the first one finishes last."""
    found = two()
    alone = one_node()
    sums = [each.seconds for each in found.pipeline.all_reduce]
    assert found.step_seconds >= alone.step_seconds + sums[0]
    assert found.step_seconds <= alone.step_seconds + max(sums)
    assert found.pipeline.bubble == alone.pipeline.bubble


def test_links_carry_values_gradients_and_sums() -> None:
    found = two()
    wanted: Counter[tuple[str, str]] = Counter()
    for devices in found.pipeline.pipelines:
        to = dict(zip(found.pipeline.ranks, devices, strict=True))
        for move in found.transfers:
            wanted[to[move.source], to[move.destination]] += MICRO_BATCHES * move.nbytes
    weights = Counter()
    for state in found.model.state:
        weights[found.parameters[state.names[0]]] += state.tensor.nbytes
    assert [each.nbytes for each in found.pipeline.all_reduce] == list(weights.values())
    for one, other in zip(*found.pipeline.pipelines, strict=True):
        for pair in ((one, other), (other, one)):
            wanted[pair] += weights[one]  # of two, each sends half in both of two rounds
    assert {(t.source, t.destination): t.nbytes for t in found.pipeline.traffic} == wanted


def test_it_survives_its_document_and_is_shown() -> None:
    found = two()
    text = found.to_json()
    assert Plan.from_json(text) == found
    assert planned(2).to_json() == text
    assert "in each of 2 replicas" in str(found)
    assert "2 replicas take a batch each" in found.explain()
    assert "cuda:0 and 1 more" in str(found)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("replicas", [["cuda:2", "cuda:1"]]),
        ("replicas", [["cuda:2"]]),
        ("replicas", [["cuda:3", "cuda:7"]]),
        ("all_reduce", []),
        ("traffic", []),
    ],
)
def test_a_document_that_contradicts_itself_is_refused(key: str, value: object) -> None:
    document = json.loads(two().to_json())
    assert document["pipeline"][key] != value
    document["pipeline"][key] = value
    with pytest.raises(PlanError, match="pipeline"):
        Plan.from_json(json.dumps(document))


def test_the_script_trains_as_many() -> None:
    found = two()
    script = training_script(
        found.pipeline, found.inputs, Path("plan.json"), "a:b", len(found.pipeline.pipelines)
    )
    assert "REPLICAS, RANKS = 2, 2" in script


@pytest.mark.parametrize(
    ("replicas", "more", "message"),
    [
        (3, {}, "4 devices cannot be so many equal pipelines; take 1, 2, 4 or 'auto'"),
        (0, {}, "give a number of at least 1, or 'auto'"),
        (2, {"mode": "inference"}, "several pipelines train together"),
        (2, {"constraints": [Pin("0", "cuda:2")]}, "pinned to 'cuda:2', which the first"),
    ],
)
def test_what_makes_no_sense_is_told(
    replicas: object, more: dict[str, object], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        planned(replicas, **more)


def test_unequal_devices_are_no_replicas() -> None:
    devices = (*cluster_of().devices[:3], Device("cuda:3", memory="2GiB"))
    cluster = Cluster(devices, (), cluster_of().network)
    with pytest.raises(SpecError, match="'cuda:3' is not as 'cuda:1' is"):
        planned(2, cluster)
    assert planned("auto", cluster).pipeline.replicas == ()


def test_reckoned_memory_is_near_to_the_rehearsed(monkeypatch: pytest.MonkeyPatch) -> None:
    rehearsed = planned_on_two("unet")
    monkeypatch.setattr(partitioner.pipelined, "MOST_REHEARSED", 0)
    found = planned_on_two("unet")
    assert (found.rehearsal, rehearsed.rehearsal) == ("none", "sizes")
    assert found.pipeline == rehearsed.pipeline
    for device, use in rehearsed.memory.items():
        assert use.peak <= found.memory[device].peak <= 1.15 * use.peak
        assert use.parameters == found.memory[device].parameters
        assert use.optimizer == found.memory[device].optimizer
