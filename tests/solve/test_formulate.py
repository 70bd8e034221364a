"""From a cost graph and what the user declares to tables."""

from __future__ import annotations

from math import inf

import networkx as nx
import pytest

from partitioner.errors import InfeasibleError, SpecError
from partitioner.graph.cost_graph import CostGraph, Holding, NodeCost, TensorCost
from partitioner.solve import Problem, Status, formulate, solve
from partitioner.spec import Cluster, Colocate, Constraint, Contiguous, Device, Link, Pin, Separate

GIB = 2**30


def seqnet(devices: tuple[str, ...] = ("cuda:0", "cuda:1")) -> CostGraph:
    """Two linear layers of 3 GiB each, and a softmax that costs nothing; inference."""
    graph: nx.DiGraph[str] = nx.DiGraph()
    rows = [
        ("x", "", 0.0, 0, 400),
        ("lin1", "lin1", 1e-3, 3 * GIB, 4000),
        ("lin2", "lin2", 2e-3, 3 * GIB, 40),
        ("log_softmax", "", 0.0, 0, 40),
    ]
    holdings = []
    for place, (name, path, seconds, weight, nbytes) in enumerate(rows):
        graph.add_node(
            name,
            cost=NodeCost(name, path, dict.fromkeys(devices, seconds), dict.fromkeys(devices, 0.0)),
            tensor=TensorCost(nbytes),
        )
        if place:
            graph.add_edge(rows[place - 1][0], name)
        if weight:
            holdings.append(Holding((name,), weight, 0, 3, "parameters", f"{path}.weight"))
    return CostGraph(graph, tuple(row[0] for row in rows), devices, tuple(holdings), 4)


def cluster(memory: str = "16GiB") -> Cluster:
    devices = tuple(Device(name, memory=memory) for name in ("cuda:0", "cuda:1"))
    return Cluster(devices, (Link(("cuda:0", "cuda:1"), "1GB/s", "5us"),))


def tables(*constraints: Constraint, memory: str = "16GiB", objective: str = "latency") -> Problem:
    return formulate(seqnet(), cluster(memory), objective, constraints)


def test_tables_say_what_graph_and_cluster_say() -> None:
    problem = tables()
    assert problem.nodes == ("x", "lin1", "lin2", "log_softmax")
    assert problem.forward_seconds[2] == (2e-3, 2e-3)
    assert [(flow.source, flow.targets, flow.nbytes) for flow in problem.flows] == [
        (0, (1,), 400),
        (1, (2,), 4000),
        (2, (3,), 40),
    ]
    assert problem.transfer_seconds(0, 1, 4000) == pytest.approx(5e-6 + 4e-6)
    assert problem.transfer_seconds(0, 1, 0) == problem.transfer_seconds(1, 1, 9) == 0
    assert problem.capacity_nbytes == (16 * GIB, 16 * GIB)


def test_a_device_that_cannot_run_a_node_is_never_chosen() -> None:
    graph = seqnet()
    only = NodeCost("lin1", "lin1", {"cuda:1": 1e-3}, {"cuda:1": 0.0})
    graph.graph.nodes["lin1"]["cost"] = only
    problem = formulate(graph, cluster(), "latency")
    assert problem.forward_seconds[1] == (inf, 1e-3)
    assert solve(problem).assignment["lin1"] == "cuda:1"


def test_one_device_is_enough_when_it_holds_everything() -> None:
    solution = solve(tables())
    assert set(solution.assignment.values()) == {"cuda:0"}
    assert solution.status is Status.OPTIMAL


def test_the_split_falls_between_the_layers_when_one_device_is_too_small() -> None:
    solution = solve(tables(memory="4GiB"))
    assert solution.assignment == {
        "x": "cuda:0",
        "lin1": "cuda:0",
        "lin2": "cuda:1",
        "log_softmax": "cuda:1",
    }
    assert solution.objective == pytest.approx(3e-3 + 9e-6)


def test_constraints_are_part_of_the_problem() -> None:
    assert solve(tables(Pin("lin1", "cuda:1"))).assignment["lin1"] == "cuda:1"
    apart = solve(tables(Separate("lin1", "lin2"))).assignment
    assert apart["lin1"] != apart["lin2"]
    together = solve(tables(Pin("lin1", "cuda:1"), Colocate("lin*"))).assignment
    assert together["lin2"] == "cuda:1"
    assert tables(Contiguous()).contiguous


def test_constraints_that_cannot_be_met_within_the_limits_are_named() -> None:
    pin, together = Pin("lin1", "cuda:1"), Colocate("lin*")
    with pytest.raises(InfeasibleError) as caught:
        solve(tables(pin, together, memory="4GiB"))
    assert caught.value.conflicting == (together,)
    assert "Colocate('lin*')" in str(caught.value)


def test_contradictory_pins_are_bad_input_and_named() -> None:
    with pytest.raises(SpecError, match=r"Pin.*lin1.*cuda:0.*Pin.*lin.*cuda:1"):
        tables(Pin("lin1", "cuda:0"), Pin("lin*", "cuda:1"))


def test_what_is_misspelt_is_bad_input() -> None:
    with pytest.raises(SpecError, match="latency"):
        tables(objective="latancy")
    with pytest.raises(SpecError, match="lin1"):
        tables(Pin("lim1", "cuda:0"))
