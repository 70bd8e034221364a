"""Two counts, written apart from each other, of what a placement is worth."""

from __future__ import annotations

from math import isclose

from hypothesis import given, settings
from hypothesis import strategies as st
from small_plans import placed_graphs

from partitioner.graph.cost_graph import CostGraph
from partitioner.placement import objective_value, peak_nbytes, transfers
from partitioner.solve.evaluate import evaluate
from partitioner.solve.formulate import formulate
from partitioner.spec import OBJECTIVES, Cluster


@settings(max_examples=100, deadline=None)
@given(placed_graphs(), st.sampled_from(OBJECTIVES))
def test_the_solver_and_the_plan_count_the_same(
    case: tuple[CostGraph, Cluster, dict[str, str]], objective: str
) -> None:
    graph, cluster, placement = case
    counted = evaluate(formulate(graph, cluster, objective), placement)
    assert isclose(counted.objective, objective_value(graph, cluster, placement, objective))
    assert counted.peak_nbytes == tuple(peak_nbytes(graph, placement).values())
    moves = transfers(graph, placement, cluster)
    assert counted.moved_nbytes == sum(transfer.nbytes for transfer in moves)
    assert counted.moves == sum(transfer.phase == "forward" for transfer in moves)
