"""How full devices are in the course of a step: against peaks and curves counted otherwise."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from small_plans import (
    FIRST,
    SECOND,
    SEQNET_SPLIT,
    Made,
    cost_graph,
    costs_of,
    placed_graphs,
    seqnet,
    unit_cluster,
)

from partitioner.graph.cost_graph import CostGraph, Holding
from partitioner.placement import (
    Held,
    MemoryCurve,
    PipelineRecord,
    memory_curves,
    peak_nbytes,
    pipelined,
)
from partitioner.placement.curves import CHANGES, pipeline_memory_curves
from partitioner.placement.memory import LEVELS
from partitioner.spec import Cluster

# Program points 0, 1: forward of a, b; 2, 3: backward of b, a; 4: the optimizer's step.
GRAPH = cost_graph(
    [Made("a", backward=2.0, gradient=1), Made("b", ("a",), backward=3.0)],
    training=True,
    holdings=[
        Holding(("a",), 100, 0, 4, "parameters", "a.weight"),
        Holding(("b",), 10, 0, 4, "parameters", "b.weight"),
        Holding(("a",), 90, 3, 4, "gradients", "a.weight"),
        Holding(("b",), 9, 2, 4, "gradients", "b.weight"),
        Holding(("a", "b"), 40, 0, 2, "activations", "a"),
        Holding(("b",), 7, 2, 2, "workspace", "b"),
    ],
)


def totals(curve: MemoryCurve) -> list[int]:
    return [sum(levels) for levels in zip(*(getattr(curve, r) for r in LEVELS), strict=True)]


def test_a_curve_follows_the_nodes_of_its_device() -> None:
    # a runs 0-1 and moves until 2, b runs 2-3 and back 3-6, and after a second a's backward 7-9
    curves = memory_curves(GRAPH, {"a": FIRST, "b": SECOND}, unit_cluster())
    assert curves[FIRST].seconds == (0.0, 7.0)
    assert totals(curves[FIRST]) == [140, 190]
    assert curves[FIRST].at_peak == (
        Held("a.weight", "parameters", 100),
        Held("a.weight", "gradients", 90),
    )
    assert curves[SECOND].seconds == (0.0, 3.0, 9.0)
    assert totals(curves[SECOND]) == [50, 66, 19]


@settings(max_examples=30, deadline=None)
@given(placed_graphs())
def test_the_top_of_a_curve_is_the_peak_and_its_things_sum_up_to_it(
    case: tuple[CostGraph, Cluster, dict[str, str]],
) -> None:
    graph, cluster, placement = case
    curves = memory_curves(graph, placement, cluster)
    for device, peak in peak_nbytes(graph, placement).items():
        curve = curves[device]
        assert max(totals(curve)) == peak
        assert sum(held.nbytes for held in curve.at_peak) + curve.others_nbytes == peak
        assert list(curve.seconds) == sorted(set(curve.seconds))


def test_the_step_of_the_optimizer_may_be_the_fullest_moment_of_a_pipeline() -> None:
    graph = costs_of(seqnet(), unit_cluster())
    last = 2 * len(graph.order)
    update = Holding(("lin2",), 5000, last, last, "workspace", "optimizer step of lin2.weight")
    graph = replace(graph, holdings=(*graph.holdings, update))
    stages = {node: ("cuda:0", "cuda:1").index(home) for node, home in SEQNET_SPLIT.items()}
    record = PipelineRecord("gpipe", 2, (FIRST, SECOND), stages, 0.0)
    found = pipelined(seqnet(), graph, unit_cluster(), record)
    curve = pipeline_memory_curves(graph, record, found)[SECOND]
    assert curve.workspace == (0, 5000)
    assert curve.seconds == (0.0, found.timetable.seconds)
    assert Held("optimizer step of lin2.weight", "workspace", 5000) in curve.at_peak


@pytest.mark.parametrize(
    ("schedule", "flying"), [("gpipe", {FIRST: 4, SECOND: 4}), ("1f1b", {FIRST: 2, SECOND: 1})]
)
def test_a_pipeline_holds_what_is_in_flight(schedule: str, flying: dict[str, int]) -> None:
    cluster = unit_cluster()
    graph = costs_of(seqnet(), cluster)
    turn = len(graph.order)
    kept = [
        Holding((node,), 1000, i, 2 * turn - 1 - i, "activations", node)
        for i, node in enumerate(graph.order)
        if node in ("lin1", "lin2")
    ]
    graph = replace(graph, holdings=(*graph.holdings, *kept))
    stages = {node: ("cuda:0", "cuda:1").index(home) for node, home in SEQNET_SPLIT.items()}
    record = PipelineRecord(schedule, 4, (FIRST, SECOND), stages, 0.0)
    found = pipelined(seqnet(), graph, cluster, record)
    for device, curve in pipeline_memory_curves(graph, record, found).items():
        weights = sum(
            h.nbytes
            for h in graph.holdings
            if h.role == "parameters" and SEQNET_SPLIT[h.nodes[0]] == device
        )
        assert max(totals(curve)) == weights + 1000 * flying[device]
        assert sum(held.nbytes for held in curve.at_peak) == max(totals(curve))
        assert totals(curve)[-1] == weights
        named = [held.what for held in curve.at_peak if held.role == "activations"]
        assert [what.startswith(f"{flying[device]} micro-batch") for what in named] == [True]


def test_a_long_curve_is_thinned_and_keeps_its_top() -> None:
    count = 3 * CHANGES
    nodes = [Made(f"n{i}", (f"n{i - 1}",) if i else ()) for i in range(count)]
    holdings = [Holding((f"n{i}",), i % 97 + 1, i, i, "workspace", f"n{i}") for i in range(count)]
    graph = cost_graph(nodes, holdings=holdings)
    placement = dict.fromkeys(graph.order, FIRST)
    curve = memory_curves(graph, placement, unit_cluster())[FIRST]
    assert len(curve.seconds) <= CHANGES + 1
    assert max(totals(curve)) == 97
