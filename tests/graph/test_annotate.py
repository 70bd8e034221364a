"""What the cost graph says of nodes, tensors and edges."""

from __future__ import annotations

import networkx as nx
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from cost_models import (
    CostModelError,
    DeviceKind,
    MeasuredCostModel,
    OperatorCall,
    OperatorRecorder,
    RooflineCostModel,
)
from partitioner.capture import Captured, capture
from partitioner.errors import SpecError
from partitioner.graph import CostGraph, annotate
from partitioner.spec import Cluster
from tests.zoo import ZOO

BATCH = 64
FLOAT = 4


class PerCall:
    """Every operator takes a second on a GPU with much memory, two on another."""

    def seconds(self, call: OperatorCall, kind: DeviceKind) -> float:
        return 1.0 if kind.memory_nbytes > 2**34 else 2.0


class Selecting(nn.Linear):
    """Decides by data of which not even the size is known."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) if x[x > 0].sum() > 1 else x


class Checkpointing(nn.Module):
    """Two checkpointed methods, one of which ends with what its backward needs no result of."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

    def squash(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.first(x) * 2.0)

    def mix(self, x: torch.Tensor, scale: float) -> torch.Tensor:
        return self.second(torch.sigmoid(x)) * scale + 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = checkpoint(self.squash, x, use_reentrant=False)
        return checkpoint(self.mix, y + x, 3.0, use_reentrant=False)


def recorded(model: nn.Module, *args: torch.Tensor, training: bool = True) -> Captured:
    return capture(model.train(training), args, training=training)


def annotated(name: str, *, training: bool = True, optimizer: object = None) -> CostGraph:
    model = ZOO[name].build().train(training)
    captured = capture(model, ZOO[name].args(), ZOO[name].kwargs(), training=training)
    return annotate(
        captured,
        model,
        Cluster.of("cuda:0=32GiB,cuda:1=16GiB"),
        PerCall(),
        training=training,
        optimizer=optimizer,
    )


def test_seqnet_by_hand() -> None:
    graph = annotated("seqnet")
    lin1, lin2 = graph.cost("lin1"), graph.cost("lin2")
    assert lin1.operator == "Linear"
    assert lin1.module_path == "lin1"
    assert lin1.flops == 2 * BATCH * 784 * 200
    assert lin2.flops == 2 * BATCH * 200 * 10
    # lin1's input needs no gradient: one product and the bias; lin2 has two products and the bias
    assert lin1.forward_seconds == {"cuda:0": 1.0, "cuda:1": 2.0}
    assert lin1.backward_seconds == {"cuda:0": 2.0, "cuda:1": 4.0}
    assert lin2.backward_seconds == {"cuda:0": 3.0, "cuda:1": 6.0}
    assert graph.tensor("lin1").nbytes == FLOAT * BATCH * 200
    assert graph.tensor("lin1").gradient_nbytes == FLOAT * BATCH * 200
    inputs = graph.order[0]
    assert graph.cost(inputs).forward_seconds["cuda:0"] == 0.0
    assert graph.tensor(inputs).gradient_nbytes == 0
    assert graph.points == 2 * len(graph.order) + 1


def test_the_loss_is_not_charged_to_the_node_that_made_the_output() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    captured = recorded(model, torch.randn(2, 4))
    graph = annotate(captured, model, Cluster.of("1x16GiB"), PerCall(), training=True)
    assert graph.cost(graph.order[-1]).backward_seconds["cuda:0"] == 2 * 2.0


def test_inference_has_no_backward() -> None:
    graph = annotated("seqnet", training=False, optimizer="adam")
    assert graph.points == len(graph.order)
    for name in graph.order:
        assert set(graph.cost(name).backward_seconds.values()) == {0}
        assert graph.tensor(name).gradient_nbytes == 0
    assert {holding.role for holding in graph.holdings} == {
        "parameters",
        "activations",
        "workspace",
    } - ({"workspace"} - {holding.role for holding in graph.holdings})


def test_the_graph_is_a_dag_in_the_order_of_execution() -> None:
    graph = annotated("hf_gpt2_no_cache")
    position = {name: i for i, name in enumerate(graph.order)}
    assert nx.is_directed_acyclic_graph(graph.graph)
    assert set(graph.graph.nodes) == set(graph.order)
    assert all(position[source] < position[user] for source, user in graph.graph.edges)


def test_backward_products_are_twice_the_forward_ones() -> None:
    flops: dict[str, int] = {}

    class Counting:
        def seconds(self, call: OperatorCall, kind: DeviceKind) -> float:
            return float(call.flops)

    model = ZOO["hf_llama_no_cache"].build()
    captured = capture(model, (), ZOO["hf_llama_no_cache"].kwargs(), training=True)
    graph = annotate(captured, model, Cluster.of("1x16GiB"), Counting(), training=True)
    for name in graph.order:
        cost = graph.cost(name)
        flops[name] = cost.flops
        assert cost.forward_seconds["cuda:0"] == cost.flops
        if cost.operator == "Linear":
            assert cost.backward_seconds["cuda:0"] == 2 * cost.flops
    assert sum(flops.values()) > 0


def test_a_tied_weight_is_a_node_of_its_own_that_takes_no_time() -> None:
    graph = annotated("tied")
    weight = next(name for name in graph.order if graph.cost(name).operator == "state")
    assert graph.cost(weight).forward_seconds["cuda:0"] == 0
    assert graph.tensor(weight).nbytes == FLOAT * 20 * 16
    assert graph.tensor(weight).gradient_nbytes == FLOAT * 20 * 16
    assert len(list(graph.graph.successors(weight))) >= 2


def test_sizes_move_nothing_and_stay_beside_their_tensor() -> None:
    graph = annotated("size_arithmetic")
    sizes = [name for name in graph.order if graph.tensor(name).nbytes == 0]
    assert sizes
    assert all(graph.graph.degree(name) == 0 for name in sizes)
    together = {name for group in graph.colocated for name in group}
    assert set(sizes) <= together


def test_operators_that_bytes_alone_price_badly_are_reported() -> None:
    class Inverse(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.inv(x) + 1

    model = Inverse()
    captured = recorded(model, torch.eye(4), training=False)
    graph = annotate(captured, model, Cluster.of("1x16GiB"), PerCall(), training=False)
    assert graph.unpriced == ("aten.linalg_inv_ex.default",)
    assert annotated("mlp").unpriced == ()
    measured = MeasuredCostModel().measure(model.eval(), "cpu", torch.eye(4))
    cpu = Cluster.of("cpu")
    assert annotate(captured, model, cpu, measured, training=False).unpriced == ()


def test_a_part_that_decides_by_its_data_is_charged_by_bytes_and_reported() -> None:
    model, x = nn.Sequential(nn.Linear(4, 4), Selecting(4, 4)), torch.randn(2, 4)
    cluster = Cluster.of("cuda:0=32GiB,cuda:1=16GiB")
    graph = annotate(recorded(model, x), model, cluster, PerCall(), training=True)
    assert graph.unpriced == ("Selecting",)
    gate = next(name for name in graph.order if graph.cost(name).operator == "Selecting")
    assert graph.cost(gate).forward_seconds["cuda:0"] == 1.0
    assert graph.cost(gate).backward_seconds["cuda:0"] == 1.0
    assert graph.tensor(gate).gradient_nbytes > 0


def test_a_part_that_decides_by_its_data_is_charged_for_one_way_and_holds_all_gradients() -> None:
    graph = annotated("data_dependent_part", optimizer="sgd")
    assert graph.unpriced == ()
    gate = next(name for name in graph.order if graph.cost(name).operator == "Gate")
    assert graph.cost(gate).forward_seconds["cuda:0"] >= 2.0
    gradients = sum(h.nbytes for h in graph.holdings if h.role == "gradients" and gate in h.nodes)
    parameters = sum(h.nbytes for h in graph.holdings if h.role == "parameters" and gate in h.nodes)
    assert gradients == parameters > 0


def test_a_cost_model_that_fails_is_reported_with_the_node() -> None:
    class Blind:
        def seconds(self, call: OperatorCall, kind: DeviceKind) -> float:
            raise CostModelError("no idea")

    model = nn.Sequential(nn.Linear(4, 4))
    captured = recorded(model, torch.randn(2, 4))
    with pytest.raises(CostModelError, match="node '_0': no idea"):
        annotate(captured, model, Cluster.of("1x16GiB"), Blind(), training=True)


def test_an_unknown_optimizer_is_refused_before_any_work() -> None:
    with pytest.raises(SpecError, match="did you mean 'adam'"):
        annotated("seqnet", optimizer="adm")


def test_the_model_is_not_touched_and_may_be_on_meta() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(20_000, 20_000), nn.BatchNorm1d(20_000))
    captured = recorded(model, torch.empty(8, 20_000))
    graph = annotate(
        captured,
        model,
        Cluster.of("2xa100-40gb"),
        RooflineCostModel(),
        training=True,
        optimizer="adam",
    )
    parameters = sum(h.nbytes for h in graph.holdings if h.role == "parameters")
    assert parameters >= FLOAT * 20_000 * 20_000
    assert all(parameter.grad is None and parameter.is_meta for parameter in model.parameters())


def test_the_same_model_gives_the_same_graph_again() -> None:
    first, second = annotated("hf_bert", optimizer="adam"), annotated("hf_bert", optimizer="adam")
    assert first.holdings == second.holdings
    assert dict(first.graph.nodes(data=True)) == dict(second.graph.nodes(data=True))
    assert list(first.graph.edges) == list(second.graph.edges)


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (Checkpointing(), (2, 8)),
        (nn.Sequential(Checkpointing(), nn.Linear(8, 64)), (2, 8)),
        (ZOO["checkpointed"].build().train(), (2, 16)),
        (ZOO["checkpointed_inside"].build().train(), (2, 16)),
    ],
)
def test_what_checkpointing_computes_again_is_in_the_backward(
    model: nn.Module, shape: tuple[int, int]
) -> None:
    """The oracle: the operators that a real step runs."""
    x = torch.zeros(shape)
    graph = annotate(recorded(model, x), model, Cluster.of("cpu=32GiB"), PerCall(), training=True)
    ran: list[OperatorCall] = []
    gradient = torch.ones_like(model(x))
    with OperatorRecorder(ran.append):
        output = model(x)
        forward = len(ran)
        output.backward(gradient)
    costs = [graph.cost(name) for name in graph.order]
    assert sum(cost.forward_seconds["cpu"] for cost in costs) == forward
    assert sum(cost.backward_seconds["cpu"] for cost in costs) == len(ran) - forward
