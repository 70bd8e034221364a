from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given, settings
from small_plans import FIRST, SECOND, Made, cost_graph, placed_graphs, unit_cluster

from partitioner.graph.cost_graph import CostGraph, Holding
from partitioner.placement import MemoryUse, all_on_one, memory_use, peak_nbytes
from partitioner.spec import Cluster

# Program points 0, 1: forward of a, b; 2, 3: backward of b, a; 4: the optimizer's step.
GRAPH = cost_graph(
    [Made("a"), Made("b", ("a",))],
    training=True,
    holdings=[
        Holding(("a",), 100, 0, 4, "parameters", "a.weight"),
        Holding(("b",), 10, 0, 4, "parameters", "b.weight"),
        Holding(("a",), 100, 3, 4, "gradients", "a.weight"),
        Holding(("b",), 10, 2, 4, "gradients", "b.weight"),
        Holding(("a", "b"), 40, 0, 2, "activations", "a"),
        Holding(("b",), 7, 2, 2, "workspace", "b"),
    ],
)


def test_a_peak_is_the_fullest_point_not_the_sum() -> None:
    # at 2: 110 parameters, 10 gradient, 40 activations, 7 workspace; at 3 and 4: 220
    assert peak_nbytes(GRAPH, all_on_one(GRAPH, FIRST)) == {FIRST: 220, SECOND: 0}


def test_a_value_with_readers_on_two_devices_is_held_on_both() -> None:
    assert peak_nbytes(GRAPH, {"a": FIRST, "b": SECOND}) == {FIRST: 200, SECOND: 67}


def test_memory_use_tells_the_parts_and_the_limit() -> None:
    use = memory_use(GRAPH, {"a": FIRST, "b": SECOND}, unit_cluster(memory=1000))
    assert use == {
        FIRST: MemoryUse(100, 100, 0, 40, workspace=0, peak=200, limit=1000),
        SECOND: MemoryUse(10, 10, 0, 40, workspace=7, peak=67, limit=1000),
    }


@dataclass(frozen=True)
class Measurement:
    parameters: int
    gradients: int
    optimizer: int
    activations: int
    peak: int


def test_what_was_measured_counts() -> None:
    measured = {
        FIRST: Measurement(512, 512, 1024, 512, 3000),
        SECOND: Measurement(0, 0, 0, 0, 0),
    }
    use = memory_use(GRAPH, all_on_one(GRAPH, FIRST), unit_cluster(memory=None), measured)
    assert use[FIRST] == MemoryUse(512, 512, 1024, 512, workspace=440, peak=3000, limit=None)
    assert use[SECOND] == MemoryUse(0, 0, 0, 0, workspace=0, peak=0, limit=None)


@settings(max_examples=80, deadline=None)
@given(placed_graphs())
def test_a_peak_is_what_a_count_at_every_point_finds(
    case: tuple[CostGraph, Cluster, dict[str, str]],
) -> None:
    graph, _, placement = case
    for device, peak in peak_nbytes(graph, placement).items():
        held = [
            sum(
                h.nbytes
                for h in graph.holdings
                if h.first <= point <= h.last and device in [placement[n] for n in h.nodes]
            )
            for point in range(graph.points)
        ]
        assert peak == max(held)
