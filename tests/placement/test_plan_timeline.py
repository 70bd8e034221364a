from __future__ import annotations

from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_plans import FIRST, SECOND, Made, cost_graph, placed_graphs, unit_cluster

from partitioner.graph.cost_graph import CostGraph
from partitioner.placement import (
    Span,
    all_on_one,
    bottleneck_seconds,
    step_seconds,
    timeline,
    transfers,
)
from partitioner.solve import evaluate, formulate
from partitioner.spec import Cluster, Device, Link

# a (1 s) ── b (2 s) on the other device: a's 3 bytes take 3 s and a latency of 0.5 s.
CHAIN = cost_graph(
    [Made("a", nbytes=3, gradient=2, backward=4.0), Made("b", ("a",), 2.0, backward=5.0)],
    training=True,
)
APART = {"a": FIRST, "b": SECOND}


def test_a_chain_on_one_device_is_a_sum() -> None:
    step = timeline(CHAIN, all_on_one(CHAIN, FIRST), unit_cluster())
    assert (step.forward_seconds, step.backward_seconds, step.step_seconds) == (3.0, 9.0, 12.0)
    assert bottleneck_seconds(CHAIN, all_on_one(CHAIN, FIRST), unit_cluster()) == 12.0


def test_a_chain_on_two_devices_waits_for_its_transfers() -> None:
    cluster = unit_cluster(latency=0.5)
    assert timeline(CHAIN, APART, cluster).spans == (
        Span("node", FIRST, "a", "forward", 0.0, 1.0),
        Span("transfer", "cuda:0 → cuda:1", "a", "forward", 1.0, 4.5),
        Span("node", SECOND, "b", "forward", 4.5, 6.5),
        Span("node", SECOND, "b", "backward", 6.5, 11.5),
        Span("transfer", "cuda:1 → cuda:0", "a", "backward", 11.5, 14.0),
        Span("node", FIRST, "a", "backward", 14.0, 18.0),
    )
    assert step_seconds(CHAIN, APART, cluster) == 18.0
    assert bottleneck_seconds(CHAIN, APART, cluster) == 7.0  # b's 2 + 5


def test_a_slow_link_is_the_bottleneck() -> None:
    assert bottleneck_seconds(CHAIN, APART, unit_cluster(bandwidth=0.1)) == 30.0


def test_a_gradient_that_does_not_flow_holds_nothing_up() -> None:
    graph = cost_graph(
        [Made("a", nbytes=3, backward=4.0), Made("b", ("a",), 2.0, backward=5.0)], training=True
    )
    step = timeline(graph, APART, unit_cluster())
    assert step.backward_seconds == 5.0
    assert [span.what for span in step.spans if span.phase == "backward"] == ["b", "a"]


def test_two_branches_overlap() -> None:
    #      ╭─ left (3 s, other device) ─╮
    # root ┤                            ├ join        each value takes 1 s to cross
    #      ╰─ right (4 s, same device) ─╯
    graph = cost_graph(
        [
            Made("root", forward=1.0, backward=1.0, gradient=1),
            Made("left", ("root",), 3.0, 3.0, gradient=1),
            Made("right", ("root",), 4.0, 4.0, gradient=1),
            Made("join", ("left", "right"), 1.0, 1.0),
        ],
        training=True,
    )
    placement = {"root": FIRST, "left": SECOND, "right": FIRST, "join": FIRST}
    step = timeline(graph, placement, unit_cluster())
    starts = {(s.what, s.phase): s.start_seconds for s in step.spans if s.kind == "node"}
    assert starts["left", "forward"] == 2.0  # 1 + 1, while right runs from 1 to 5
    assert starts["right", "forward"] == 1.0
    assert starts["join", "forward"] == 6.0  # left ends at 5 and takes 1 to arrive
    assert step.forward_seconds == 7.0
    # Backward from 7: join to 8; right 8 to 12; left's gradient arrives at 9, left runs to 12 and
    # its gradient is back at 13; root runs from 13.
    assert starts["root", "backward"] == 13.0
    assert step.backward_seconds == 7.0
    # The device has 1 + 4 + 1 forward and as much backward; left's 6 overlap with it.
    assert bottleneck_seconds(graph, placement, unit_cluster()) == 12.0


def test_one_move_serves_all_readers_on_a_device() -> None:
    graph = cost_graph(
        [
            Made("a", nbytes=5, gradient=5),
            Made("b", ("a",)),
            Made("c", ("a",)),
            Made("d", ("a",)),
        ],
        ("cuda:0", "cuda:1", "cuda:2"),
        training=True,
    )
    placement = {"a": "cuda:1", "b": "cuda:0", "c": "cuda:0", "d": "cuda:2"}
    moves = [
        (t.phase, t.source, t.destination)
        for t in transfers(graph, placement, unit_cluster(("cuda:0", "cuda:1", "cuda:2")))
    ]
    assert moves == [
        ("forward", "cuda:1", "cuda:0"),
        ("forward", "cuda:1", "cuda:2"),
        ("backward", "cuda:2", "cuda:1"),
        ("backward", "cuda:0", "cuda:1"),
    ]


def test_a_gradient_leaves_a_device_when_its_last_reader_is_done() -> None:
    graph = cost_graph(
        [
            Made("a", nbytes=1, gradient=1, backward=1.0),
            Made("b", ("a",), backward=2.0),
            Made("c", ("a",), backward=3.0),
        ],
        training=True,
    )
    step = timeline(graph, {"a": FIRST, "b": SECOND, "c": SECOND}, unit_cluster())
    sent = [s for s in step.spans if s.kind == "transfer" and s.phase == "backward"]
    assert [(s.start_seconds - step.forward_seconds) for s in sent] == [5.0]  # c's 3, then b's 2


def test_values_without_bytes_do_not_travel() -> None:
    graph = cost_graph([Made("size", nbytes=0), Made("b", ("size",))])
    cluster = unit_cluster(latency=100.0)
    placement = {"size": FIRST, "b": SECOND}
    assert transfers(graph, placement, cluster) == ()
    assert step_seconds(graph, placement, cluster) == 2.0


@settings(max_examples=80, deadline=None)
@given(placed_graphs())
def test_a_step_is_no_shorter_than_its_work_and_no_longer_than_everything_in_a_row(
    case: tuple[CostGraph, Cluster, dict[str, str]],
) -> None:
    graph, cluster, placement = case
    step = timeline(graph, placement, cluster)
    work = sum(s.end_seconds - s.start_seconds for s in step.spans if s.kind == "node")
    moves = sum(transfer.seconds for transfer in transfers(graph, placement, cluster))
    busiest = max(
        sum(s.end_seconds - s.start_seconds for s in step.spans if s.lane == device)
        for device in graph.devices
    )
    assert busiest <= step.step_seconds <= work + moves
    assert busiest <= bottleneck_seconds(graph, placement, cluster)


@settings(max_examples=80, deadline=None)
@given(placed_graphs())
def test_nothing_overlaps_on_a_device_and_nothing_runs_before_its_inputs(
    case: tuple[CostGraph, Cluster, dict[str, str]],
) -> None:
    graph, cluster, placement = case
    step = timeline(graph, placement, cluster)
    for device in graph.devices:
        spans = [s for s in step.spans if s.lane == device]
        assert all(a.end_seconds <= b.start_seconds for a, b in pairwise(spans))
    end = {s.what: s.end_seconds for s in step.spans if (s.kind, s.phase) == ("node", "forward")}
    for span in step.spans:
        if (span.kind, span.phase) == ("node", "forward"):
            for source in graph.graph.predecessors(span.what):
                travel = cluster.transfer_seconds(
                    placement[source], span.lane, graph.tensor(source).nbytes
                )
                assert span.start_seconds >= end[source] + travel


@settings(max_examples=60, deadline=None)
@given(placed_graphs())
def test_the_transfers_of_the_timeline_are_those_of_the_plan(
    case: tuple[CostGraph, Cluster, dict[str, str]],
) -> None:
    graph, cluster, placement = case
    shown = {
        (s.what, s.lane, s.phase)
        for s in timeline(graph, placement, cluster).spans
        if s.kind == "transfer"
    }
    listed = [
        (t.tensor, f"{t.source} → {t.destination}", t.phase)
        for t in transfers(graph, placement, cluster)
    ]
    assert shown == set(listed)
    assert len(listed) == len(set(listed))


THREE = (FIRST, SECOND, "cuda:2")
# a (1 s) makes 2 bytes, which b on cuda:1 and c on cuda:2 read; a byte takes a second on any hop.
FAN = cost_graph(
    [
        Made("a", nbytes=2, gradient=1),
        Made("b", ("a",), 1.0, backward=1.0),
        Made("c", ("a",), 1.0, backward=1.0),
    ],
    THREE,
    training=True,
)
SPREAD = dict(zip(("a", "b", "c"), THREE, strict=True))


def transfer_spans(cluster: Cluster) -> list[tuple[str, str, float, float]]:
    return [
        (span.phase, span.lane, span.start_seconds, span.end_seconds)
        for span in timeline(FAN, SPREAD, cluster).spans
        if span.kind == "transfer"
    ]


def three(*links: Link) -> Cluster:
    return Cluster(tuple(Device(name, memory=10**9) for name in THREE), links)


def test_links_of_their_own_do_not_wait() -> None:
    assert transfer_spans(unit_cluster(THREE))[:2] == [
        ("forward", "cuda:0 → cuda:1", 1.0, 3.0),
        ("forward", "cuda:0 → cuda:2", 1.0, 3.0),
    ]


def test_transfers_on_a_shared_link_queue_by_their_first_reader() -> None:
    switch = three(
        *(Link(pair, 1.0, shared="switch") for pair in ((FIRST, SECOND), (FIRST, "cuda:2")))
    )
    assert transfer_spans(switch) == [
        ("forward", "cuda:0 → cuda:1", 1.0, 3.0),
        ("forward", "cuda:0 → cuda:2", 3.0, 5.0),
        ("backward", "cuda:2 → cuda:0", 7.0, 8.0),
        ("backward", "cuda:1 → cuda:0", 8.0, 9.0),
    ]
    assert bottleneck_seconds(FAN, SPREAD, switch) == 6.0  # all that crosses the switch


def test_staged_transfers_wait_for_the_links_to_the_host() -> None:
    staged = three(
        *(Link((name, "cpu"), 1.0) for name in THREE),
        Link((FIRST, SECOND), via="cpu"),
        Link((FIRST, "cuda:2"), via="cpu"),
    )
    assert transfer_spans(staged)[:4] == [
        ("forward", "cuda:0 → cpu", 1.0, 3.0),
        ("forward", "cpu → cuda:1", 3.0, 5.0),
        ("forward", "cuda:0 → cpu", 3.0, 5.0),
        ("forward", "cpu → cuda:2", 5.0, 7.0),
    ]
    assert [t.seconds for t in transfers(FAN, SPREAD, staged)] == [4.0, 4.0, 2.0, 2.0]
    assert bottleneck_seconds(FAN, SPREAD, staged) == 4.0  # twice cuda:0 → cpu


@given(placed_graphs(), st.data())
@settings(max_examples=60, deadline=None)
def test_the_solver_counts_shared_and_staged_links_alike(
    made: tuple[CostGraph, Cluster, dict[str, str]], data: st.DataObject
) -> None:
    graph, cluster, placement = made
    links = []
    for pair in combinations(graph.devices, 2):
        shared = data.draw(st.lists(st.sampled_from(["nic 0", "nic 1"]), max_size=2, unique=True))
        form = data.draw(st.sampled_from(["both", "there", "two", "via", "broken"]))
        if form in ("via", "broken"):
            links.append(Link(pair, **{form: "cpu" if form == "via" else True}))  # type: ignore[arg-type]
        elif form == "both":
            links.append(Link(pair, 2.0, 0.5, shared=tuple(shared)))
        else:
            for place, (source, destination) in enumerate(
                (pair, pair[::-1])[: 1 + (form == "two")]
            ):
                links.append(
                    Link(
                        source=source,
                        destination=destination,
                        bandwidth=1.0 + place,
                        shared=tuple(shared),
                    )
                )
    links += [Link((name, "cpu"), 1.0 + place) for place, name in enumerate(graph.devices)]
    linked = Cluster(cluster.devices, tuple(links))
    for objective, worth in (("latency", step_seconds), ("throughput", bottleneck_seconds)):
        counted = evaluate(formulate(graph, linked, objective), placement).objective
        assert counted == pytest.approx(worth(graph, placement, linked), rel=1e-12)
