"""From what the user has to a module that runs there: links, CPUs, and what a device cannot do."""

from __future__ import annotations

from math import inf

import pytest
import torch
from torch import nn

from cost_models import DeviceKind, OperatorCall, RooflineCostModel
from partitioner import (
    Cluster,
    Device,
    InfeasibleError,
    Link,
    Pin,
    Plan,
    partition,
    plan,
    virtual_gpus,
)
from partitioner.emit import place
from partitioner.verify import verify

INPUT = torch.linspace(-1, 1, 64).reshape(4, 16)
APART = [Pin("first", "cuda:0"), Pin("second", "cuda:1"), Pin("last", "cuda:0")]


class Residual(nn.Module):
    """A value goes to the other device and comes back; one that stays is used there as well."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = (nn.Linear(16, 16) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.first(x))
        last: torch.Tensor = self.last(hidden + self.second(hidden))
        return last


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(500, 32), nn.Linear(32, 500)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        head: torch.Tensor = self.head(torch.relu(self.embedding(x)))
        return head


WORDS = torch.arange(32).reshape(4, 8)


def two(*links: Link) -> Cluster:
    return Cluster(tuple(Device(f"cuda:{i}", memory="1GiB") for i in range(2)), links)


BROKEN = [
    Link(("cuda:0", "cuda:1"), broken=True),
    Link(source="cuda:0", destination="cuda:1", broken=True),
    Link(source="cuda:1", destination="cuda:0", broken=True),
]


@pytest.mark.parametrize("broken", BROKEN, ids=str)
def test_values_and_gradients_go_round_a_broken_link(broken: Link) -> None:
    made = plan(Residual(), two(broken), INPUT, optimizer="adam", constraints=APART)
    assert verify(Residual(), made, (INPUT,)).passed
    with virtual_gpus(two(broken)) as gpus:
        placed = made.apply(Residual())
        gpus.reset_transfers()
        placed(INPUT.to("cuda:0")).sum().backward()
        assert not {("cuda:0", "cuda:1"), ("cuda:1", "cuda:0")} & {t[:2] for t in gpus.transfers}


@pytest.mark.parametrize("broken", BROKEN, ids=str)
def test_without_the_detour_what_arrives_is_wrong(broken: Link) -> None:
    """The virtual GPUs really do change what crosses a broken link."""
    torch.manual_seed(0)
    model = Residual()
    made = plan(model, two(), INPUT, constraints=APART)
    with virtual_gpus(two(broken)):
        direct = place(model, made._capture(model), made.placement)
        direct(INPUT).sum().backward()
        model(INPUT).sum().backward()
        same = [
            torch.allclose(a.grad.cpu(), b.grad)  # type: ignore[union-attr, arg-type]
            for a, b in zip(direct.parameters(), model.parameters(), strict=True)
        ]
        assert not all(same)


def test_a_model_is_moved_from_its_gpu_round_a_broken_link() -> None:
    made = plan(Residual(), two(BROKEN[0]), INPUT, constraints=APART)
    with virtual_gpus(two(BROKEN[0])):
        model = Residual().to("cuda:0")
        placed = made.apply(model)
        for name, value in model.state_dict().items():
            assert torch.equal(placed.state_dict()[name].cpu(), value.cpu())


def test_partition_makes_the_detour() -> None:
    with virtual_gpus(two(BROKEN[0])):
        model = Residual()
        placed = partition(model, two(BROKEN[0]), INPUT, constraints=APART)
        assert torch.equal(placed(INPUT).cpu(), model(INPUT))


def test_a_pipeline_has_no_neighbours_across_a_broken_link() -> None:
    found = [
        plan(Residual(), two(*links), INPUT, micro_batches=2, objective="throughput")
        for links in ((), (BROKEN[0],))
    ]
    assert [len(made.pipeline.ranks) for made in found if made.pipeline] == [2, 1]
    assert verify(Residual(), found[1], (INPUT,)).passed


def test_the_emitted_source_makes_the_detour() -> None:
    made = plan(Residual(), two(BROKEN[0]), INPUT, constraints=APART)
    model, names = Residual(), {}
    with virtual_gpus(two(BROKEN[0])):
        exec(made.source(), names)
        placed = names["Residual"]()
        placed.load_state_dict(model.state_dict())
        assert torch.equal(placed(INPUT).cpu(), model(INPUT))


def test_staged_transfers_are_dearer_and_said_to_be_staged() -> None:
    direct = plan(Residual(), two(), INPUT, constraints=APART)
    staged = plan(Residual(), two(Link(("cuda:0", "cuda:1"), via="cpu")), INPUT, constraints=APART)
    for one, other in zip(direct.transfers, staged.transfers, strict=True):
        assert other.seconds == pytest.approx(2 * one.seconds)
    assert "over" in str(staged)
    assert "no peer access between 1 pair of devices" in str(staged)
    assert "no peer access" not in str(direct)
    assert verify(Residual(), staged, (INPUT,)).passed


def test_the_reason_for_staging_names_the_kind() -> None:
    cards = plan(Residual(), "2xrtx-4090", INPUT, constraints=APART)
    text = " ".join(str(cards).split())
    assert "rtx-4090 cards copy over the host" in text


def test_a_plan_carries_its_links() -> None:
    links = (
        Link(source="cuda:0", destination="cuda:1", bandwidth=1e9, shared=("nic",)),
        Link(source="cuda:1", destination="cuda:0", via="cpu"),
        Link(("cuda:0", "cpu"), 2e9, 1e-6),
    )
    made = plan(Residual(), two(*links), INPUT, constraints=APART)
    read = Plan.from_json(made.to_json())
    assert read == made
    assert read.cluster.cluster().links == links
    assert '{"between": ["cuda:0", "cpu"], "bandwidth": 2000000000.0, "latency": 1e-06}' in (
        made.to_json()
    )


@pytest.mark.parametrize(
    ("mode", "devices"),
    [
        ("train", "cuda:0=420KiB,cpu=1GiB"),
        ("train", "cpu=1GiB,cuda:0=420KiB"),
        ("inference", "cuda:0=150KiB,cpu=1GiB"),
    ],
)
def test_a_cpu_beside_a_gpu_holds_what_the_gpu_cannot(mode: str, devices: str) -> None:
    made = plan(Words(), devices, WORDS, mode=mode, constraints=[Pin("head", "cuda:0")])
    assert set(made.placement.values()) == {"cpu", "cuda:0"}
    report = verify(Words(), made, (WORDS,))
    assert report.passed
    assert report.on == "virtual GPUs"


class NoEmbeddings:
    """A cost model of GPUs that cannot look up embeddings."""

    def seconds(self, call: OperatorCall, kind: DeviceKind) -> float:
        if kind.type == "cuda" and "embedding" in call.operator:
            return inf
        return RooflineCostModel().seconds(call, kind)


@pytest.mark.parametrize("objective", ["latency", "throughput", "memory"])
def test_nodes_go_where_they_can_run(objective: str) -> None:
    made = plan(
        Words(),
        "cuda:0=1GiB,cpu=1GiB",
        WORDS,
        cost_model=NoEmbeddings(),
        optimizer="adam",
        objective=objective,
        constraints=[Pin("head", "cuda:0")],
    )
    assert made.placement["embedding"] == "cpu"
    assert made.placement["head"] == "cuda:0"
    assert "cuda:0" not in made.costs["embedding"].forward_seconds
    assert Plan.from_json(made.to_json()) == made
    assert verify(Words(), made, (WORDS,)).passed


def test_a_node_that_runs_nowhere_is_named() -> None:
    with pytest.raises(InfeasibleError, match=r"'embedding' \(Embedding\).*'cuda:0', 'cuda:1'"):
        plan(Words(), "2x1GiB", WORDS, cost_model=NoEmbeddings())
