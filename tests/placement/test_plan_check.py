from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import msgspec
import pytest
from hypothesis import assume, given, settings
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
    seqnet_plan,
    unit_cluster,
)

from partitioner.errors import SolverError, SpecError
from partitioner.graph.cost_graph import CostGraph, Holding, NodeCost
from partitioner.placement import (
    PlanDocument,
    check,
    check_placement,
    objective_value,
    peak_nbytes,
)
from partitioner.spec import Cluster, Colocate, Constraint, Contiguous, Pin, Separate

CLUSTER = unit_cluster(bandwidth=1e9, latency=1e-6)


def changed(**changes: object) -> PlanDocument:
    return msgspec.structs.replace(seqnet_plan(), **changes)


def certified(**changes: object) -> PlanDocument:
    plan = seqnet_plan()
    return changed(certificate=msgspec.structs.replace(plan.certificate, **changes))


def test_an_honest_plan_passes() -> None:
    check(seqnet_plan(), costs_of(seqnet(), CLUSTER), CLUSTER)


def placed(**homes: str) -> dict[str, str]:
    return {**SEQNET_SPLIT, **homes}


FIRST_MOVE, BACK_MOVE = seqnet_plan().transfers

FAULTS: list[tuple[str, Callable[[], PlanDocument], str]] = [
    (
        "a node is missing",
        lambda: changed(placement=dict([*SEQNET_SPLIT.items()][1:])),
        "'x' is on no",
    ),
    ("a foreign device", lambda: changed(placement=placed(x="cuda:7")), "'x' is on 'cuda:7'"),
    ("a foreign node", lambda: changed(placement=placed(extra=FIRST)), "'extra' is placed"),
    ("another placement", lambda: changed(placement=placed(relu=SECOND)), "'lin1' (1600 bytes)"),
    ("no transfers", lambda: changed(transfers=()), "move of 'relu' (1600 bytes)"),
    ("no backward", lambda: changed(transfers=(FIRST_MOVE,)), "the backward's move of 'relu'"),
    (
        "a transfer twice",
        lambda: changed(transfers=(FIRST_MOVE, FIRST_MOVE, BACK_MOVE)),
        "is there 2 times, 1 too many",
    ),
    (
        "fewer bytes",
        lambda: changed(transfers=(msgspec.structs.replace(FIRST_MOVE, nbytes=5), BACK_MOVE)),
        "move of 'relu' (5 bytes)",
    ),
    (
        "faster than the link",
        lambda: changed(transfers=(msgspec.structs.replace(FIRST_MOVE, seconds=0.0), BACK_MOVE)),
        "moving 'relu' takes",
    ),
    ("a better objective", lambda: certified(objective=17.0, gap=1.0), "the solver claims 17 as"),
    ("a bound above", lambda: certified(bound=99.0, gap=0.0), "nothing is below 99"),
    ("a gap made up", lambda: certified(gap=0.25), "certificate.gap"),
    ("an infinite bound", lambda: certified(bound=float("nan")), "certificate.bound"),
    ("a faster step", lambda: changed(step_seconds=1.0), "step_seconds"),
    ("a faster bottleneck", lambda: changed(bottleneck_seconds=1.0), "bottleneck_seconds"),
    ("a broken pin", lambda: changed(constraints=("pin lin1=cuda:1",)), "'lin1' is on 'cuda:0'"),
    ("a torn pair", lambda: changed(constraints=("colocate lin1,lin2",)), "were to be colocated"),
    ("neighbours", lambda: changed(constraints=("separate lin1,relu",)), "were to be separate"),
]


@pytest.mark.parametrize(("what", "make", "fragment"), FAULTS, ids=[case[0] for case in FAULTS])
def test_a_planted_fault_is_named(
    what: str, make: Callable[[], PlanDocument], fragment: str
) -> None:
    with pytest.raises(SolverError) as error:
        check(make(), costs_of(seqnet(), CLUSTER), CLUSTER)
    assert fragment in str(error.value)


CHAIN = [Made("a"), Made("b", ("a",)), Made("c", ("b",)), Made("d", ("a", "c"))]
ROUND = {"a": FIRST, "b": SECOND, "c": FIRST, "d": FIRST}


@pytest.mark.parametrize(
    ("constraints", "fragment"),
    [
        ([Contiguous()], "circle of devices, cuda:0 → cuda:1 →"),
        ([Pin("b", FIRST)], "'b' is on 'cuda:1', but pinned to 'cuda:0'"),
        ([Colocate("a", "b", "c")], "'a' (on 'cuda:0'), 'b' (on 'cuda:1')"),
        ([Separate("a", "d")], "'a' and 'd' were to be separate, and share 'cuda:0'"),
    ],
)
def test_a_broken_constraint_is_named(constraints: list[Constraint], fragment: str) -> None:
    graph = cost_graph(CHAIN)
    check_placement(graph, unit_cluster(), ROUND)
    with pytest.raises(SolverError) as error:
        check_placement(graph, unit_cluster(), ROUND, constraints)
    assert fragment in str(error.value)


def test_a_way_on_and_not_back_is_contiguous() -> None:
    on = {"a": SECOND, "b": SECOND, "c": FIRST, "d": FIRST}
    check_placement(cost_graph(CHAIN), unit_cluster(), on, [Contiguous()])


def test_constraints_that_make_no_sense_are_the_users_fault() -> None:
    with pytest.raises(SpecError, match="matches nothing"):
        check_placement(cost_graph(CHAIN), unit_cluster(), ROUND, [Pin("zzz", FIRST)])


def test_a_torn_group_is_named() -> None:
    graph = cost_graph(CHAIN, colocated=[("a", "b")])
    with pytest.raises(SolverError, match="must share a device"):
        check_placement(graph, unit_cluster(), ROUND)


def test_a_full_device_is_named_with_what_is_missing() -> None:
    graph = cost_graph(CHAIN, holdings=[Holding(("b",), 120, 1, 2, "parameters", "b")])
    with pytest.raises(SolverError, match=r"'cuda:1' holds 120 bytes .* 20 more than its limit"):
        check_placement(graph, unit_cluster(memory=100), ROUND)


def test_a_device_that_cannot_run_the_node_is_named() -> None:
    graph = cost_graph(CHAIN)
    cost: NodeCost = graph.cost("b")
    graph.graph.nodes["b"]["cost"] = replace(cost, forward_seconds={FIRST: 1.0})
    with pytest.raises(SolverError, match="'b' cannot run on 'cuda:1'"):
        check_placement(graph, unit_cluster(), ROUND)


@pytest.mark.parametrize("objective", ["latency", "throughput", "memory"])
def test_every_objective_can_be_planned(objective: str) -> None:
    plan = plan_of(seqnet(), SEQNET_SPLIT, CLUSTER, objective)
    graph = costs_of(seqnet(), CLUSTER)
    assert plan.certificate.objective == objective_value(graph, CLUSTER, SEQNET_SPLIT, objective)


@settings(max_examples=60, deadline=None)
@given(placed_graphs())
def test_a_limit_just_below_the_peak_is_refused(
    case: tuple[CostGraph, Cluster, dict[str, str]],
) -> None:
    graph, cluster, placement = case
    peaks = peak_nbytes(graph, placement)
    fullest = max(peaks, key=lambda name: peaks[name])
    assume(peaks[fullest] > 1)
    check_placement(graph, unit_cluster(cluster.names, memory=peaks[fullest]), placement)
    with pytest.raises(SolverError, match=f"'{fullest}' holds"):
        check_placement(graph, unit_cluster(cluster.names, memory=peaks[fullest] - 1), placement)
