from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import given, settings
from small_plans import (
    FIRST,
    SECOND,
    SEQNET_SPLIT,
    Made,
    cost_graph,
    costs_of,
    placed_graphs,
    plan_of,
    seqnet,
    unit_cluster,
)
from torch import nn

from partitioner.capture import Captured, capture
from partitioner.errors import PlanError
from partitioner.graph.cost_graph import CostGraph, Holding
from partitioner.placement import (
    all_on_one,
    by_hand,
    check_placement,
    equal_counts,
    infer_placement,
    next_fit,
    state_placement,
)
from partitioner.solve.problem import Status
from partitioner.spec import Cluster

SPLIT_STATE = {
    "lin1.weight": FIRST,
    "lin1.bias": FIRST,
    "lin2.weight": SECOND,
    "lin2.bias": SECOND,
}


class Branches(nn.Module):
    """Two towers, a mask made out of nothing, and a tied weight."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(8, 8)
        self.right = nn.Linear(8, 8)
        self.head = nn.Linear(8, 8)
        self.head.weight = self.left.weight
        self.unused = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        mask = torch.ones(8) * 2.0
        left, right = self.left(x), torch.tanh(self.right(y))
        return self.head(torch.relu(left)) + right * mask


@functools.cache
def branches() -> Captured:
    return capture(Branches(), (torch.zeros(3, 8), torch.zeros(3, 8)), {}, training=True)


def test_a_hand_split_is_read_off_its_parameters() -> None:
    assert infer_placement(seqnet(), SPLIT_STATE) == SEQNET_SPLIT


def test_inputs_and_factories_are_where_they_are_first_used() -> None:
    captured = branches()
    homes = {name: SECOND if "right" in name else FIRST for name in captured.state}
    placement = infer_placement(captured, homes)
    assert (placement["x"], placement["y"]) == (FIRST, SECOND)
    assert placement["right"] == placement["tanh"] == placement["ones"] == SECOND
    assert list(placement) == [n.name for n in captured.graph.nodes if n.op != "output"]


def test_any_name_of_a_tied_tensor_will_do() -> None:
    captured = branches()
    by_other_name = {spec.names[-1]: FIRST for spec in captured.state.values()}
    assert set(infer_placement(captured, by_other_name).values()) == {FIRST}


def test_constants_of_which_nothing_is_said_go_with_their_user() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
            self.scale = torch.linspace(0.5, 1.5, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(x)) * self.scale

    captured = capture(Scaled(), (torch.zeros(2, 4),), {}, training=True)
    homes = {n: SECOND if "second" in n else FIRST for n in Scaled().state_dict()}
    placement = infer_placement(captured, homes)
    assert (placement["scale"], placement["first"]) == (SECOND, FIRST)


def test_what_must_be_together_follows_state() -> None:
    placement = infer_placement(seqnet(), SPLIT_STATE, [("x", "relu"), ("relu", "lin2")])
    assert placement["x"] == placement["relu"] == placement["lin2"] == SECOND
    assert placement["lin1"] == FIRST


def test_state_whose_device_is_not_known_is_named() -> None:
    with pytest.raises(PlanError, match=r"'lin2\.weight' is not known; did you mean 'lin1\."):
        infer_placement(seqnet(), {"lin1.weight": FIRST, "lin1.bias": FIRST})


def test_state_lives_where_its_node_runs_and_unused_state_with_the_first_node() -> None:
    homes = state_placement(seqnet(), SEQNET_SPLIT)
    assert homes == SPLIT_STATE
    captured = branches()
    on_second = dict.fromkeys(captured.nodes, SECOND)
    assert set(state_placement(captured, on_second).values()) == {SECOND}
    assert "unused.weight" in state_placement(captured, on_second)


def test_the_plan_lists_every_name_of_a_parameter() -> None:
    captured = branches()
    placement = infer_placement(captured, dict.fromkeys(captured.state, SECOND))
    plan = plan_of(captured, placement, unit_cluster())
    assert set(plan.parameters) == set(Branches().state_dict())


def test_a_hand_made_solution_claims_no_bound() -> None:
    graph, cluster = costs_of(seqnet(), unit_cluster()), unit_cluster()
    solution = by_hand(graph, cluster, SEQNET_SPLIT, "latency")
    assert (solution.status, solution.bound, solution.gap) == (Status.FEASIBLE, 0.0, 1.0)


FOUR = [Made("a"), Made("b", ("a",)), Made("c", ("b",)), Made("d", ("c",))]


def test_equal_counts_cut_the_order_in_runs() -> None:
    graph = cost_graph(FOUR)
    assert equal_counts(graph) == {"a": FIRST, "b": FIRST, "c": SECOND, "d": SECOND}
    torn = cost_graph(FOUR, colocated=[("d", "c"), ("b", "d")])
    assert equal_counts(torn) == dict.fromkeys("abcd", FIRST)


def test_next_fit_goes_on_when_a_device_is_full_and_never_back() -> None:
    holdings = [
        Holding((name,), nbytes, 0, 3, "parameters", name)
        for name, nbytes in [("a", 60), ("b", 60), ("c", 20), ("d", 90)]
    ]
    graph = cost_graph(FOUR, holdings=holdings)
    placement = next_fit(graph, unit_cluster(memory=100))
    assert placement == {"a": FIRST, "b": SECOND, "c": SECOND, "d": SECOND}


@settings(max_examples=40, deadline=None)
@given(placed_graphs())
def test_baselines_are_placements(case: tuple[CostGraph, Cluster, dict[str, str]]) -> None:
    graph, cluster, _ = case
    for placement in (
        all_on_one(graph, graph.devices[0]),
        equal_counts(graph),
        next_fit(graph, cluster),
    ):
        check_placement(graph, cluster, placement)
