"""Small cost graphs, placements and plans, by hand and at random."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import networkx as nx
import torch
from hypothesis import strategies as st
from torch import nn

from partitioner.capture import Captured, capture
from partitioner.graph.cost_graph import CostGraph, Holding, NodeCost, TensorCost
from partitioner.placement import PlanDocument, build_plan, by_hand
from partitioner.spec import Cluster, Constraint, Device, Link

FIRST, SECOND = "cuda:0", "cuda:1"


@dataclass(frozen=True)
class Made:
    """One node of a cost graph to be: seconds are the same on every device."""

    name: str
    inputs: tuple[str, ...] = ()
    forward: float = 1.0
    backward: float = 0.0
    nbytes: int = 1
    gradient: int = 0
    module: str = ""


def cost_graph(
    nodes: Sequence[Made],
    devices: Sequence[str] = (FIRST, SECOND),
    *,
    holdings: Sequence[Holding] = (),
    colocated: Sequence[tuple[str, ...]] = (),
    training: bool = False,
) -> CostGraph:
    graph: nx.DiGraph[str] = nx.DiGraph()
    for node in nodes:
        graph.add_node(
            node.name,
            cost=NodeCost(
                operator=node.name.title(),
                module_path=node.module,
                forward_seconds=dict.fromkeys(devices, node.forward),
                backward_seconds=dict.fromkeys(devices, node.backward),
            ),
            tensor=TensorCost(node.nbytes, node.gradient),
        )
        graph.add_edges_from((source, node.name) for source in node.inputs)
    return CostGraph(
        graph=graph,
        order=tuple(node.name for node in nodes),
        devices=tuple(devices),
        holdings=tuple(holdings),
        points=2 * len(nodes) + 1 if training else len(nodes),
        colocated=tuple(colocated),
    )


def unit_cluster(
    names: Sequence[str] = (FIRST, SECOND),
    *,
    memory: int | None = 10**9,
    latency: float = 0.0,
    bandwidth: float = 1.0,
) -> Cluster:
    """By default a byte takes one second from any device to any other."""
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    return Cluster(
        tuple(Device(name, memory=memory) for name in names),
        tuple(Link(pair, bandwidth, latency) for pair in pairs),
    )


class SeqNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin1 = nn.Linear(784, 100)
        self.lin2 = nn.Linear(100, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.lin1(x.view(-1, 784)))
        return torch.log_softmax(self.lin2(x), dim=1)


@functools.cache
def seqnet() -> Captured:
    return capture(SeqNet(), (torch.zeros(4, 1, 28, 28),), {}, training=True)


def costs_of(captured: Captured, cluster: Cluster) -> CostGraph:
    """A cost graph with made-up costs: a second a node, and the true bytes of values and state."""
    nodes = []
    names = [node for node in captured.graph.nodes if node.op != "output"]
    for node in names:
        info = captured.nodes[node.name]
        nbytes = info.value.nbytes
        gradient = nbytes if info.value.requires_grad else 0
        inputs = tuple(source.name for source in node.all_input_nodes)
        nodes.append(Made(node.name, inputs, 1.0, 2.0, nbytes, gradient, info.module_path))
    last = 2 * len(names)
    holdings = [
        Holding((node,), captured.state[name].tensor.nbytes, 0, last, "parameters", name)
        for node, info in captured.nodes.items()
        for name in info.state
    ]
    return cost_graph(nodes, cluster.names, holdings=holdings, training=True)


def plan_of(
    captured: Captured,
    placement: Mapping[str, str],
    cluster: Cluster,
    objective: str = "latency",
    constraints: Sequence[Constraint] = (),
) -> PlanDocument:
    graph = costs_of(captured, cluster)
    return build_plan(
        captured,
        graph,
        cluster,
        by_hand(graph, cluster, placement, objective),
        objective=objective,
        mode="train",
        optimizer="adam",
        constraints=constraints,
    )


SEQNET_SPLIT = {
    "x": FIRST,
    "view": FIRST,
    "lin1": FIRST,
    "relu": FIRST,
    "lin2": SECOND,
    "log_softmax": SECOND,
}


@functools.cache
def seqnet_plan() -> PlanDocument:
    return plan_of(seqnet(), SEQNET_SPLIT, unit_cluster(bandwidth=1e9, latency=1e-6))


@st.composite
def placed_graphs(draw: st.DrawFn) -> tuple[CostGraph, Cluster, dict[str, str]]:
    """A random training graph of up to 7 nodes on up to 3 devices, and a random placement."""
    devices = [f"cuda:{i}" for i in range(draw(st.integers(1, 3)))]
    nodes: list[Made] = []
    for i in range(draw(st.integers(1, 7))):
        earlier = [node.name for node in nodes]
        inputs = draw(st.lists(st.sampled_from(earlier), max_size=3, unique=True)) if i else []
        nbytes = draw(st.integers(0, 5))
        nodes.append(
            Made(
                f"n{i}",
                tuple(inputs),
                float(draw(st.integers(0, 4))),
                float(draw(st.integers(0, 4))),
                nbytes,
                draw(st.sampled_from([0, nbytes])),
            )
        )
    points = 2 * len(nodes) + 1
    holdings = []
    for i in range(draw(st.integers(0, 6))):
        span = sorted(draw(st.tuples(st.integers(0, points - 1), st.integers(0, points - 1))))
        names = draw(st.lists(st.sampled_from([n.name for n in nodes]), min_size=1, unique=True))
        role = draw(st.sampled_from(["parameters", "activations", "gradients"]))
        nbytes = draw(st.integers(1, 9))
        holdings.append(Holding(tuple(names), nbytes, span[0], span[1], role, f"h{i}"))
    graph = cost_graph(nodes, devices, holdings=holdings, training=True)
    cluster = unit_cluster(devices, latency=float(draw(st.integers(0, 2))))
    placement = {node.name: draw(st.sampled_from(devices)) for node in nodes}
    return graph, cluster, placement
