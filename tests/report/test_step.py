"""A step's work and sendings: as the plan promises, and in every export."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise

import networkx as nx
import pytest

from partitioner.placement import PipelineRecord, PlanDocument
from partitioner.report import network
from partitioner.report.network import render_graphml
from partitioner.report.step import lanes, merged, step_of
from partitioner.report.trace import render_trace

Make = Callable[..., PlanDocument]
RANKS = ("cuda:0", "cuda:1")
STAGES = {"flatten": 0, "lin1": 0, "log_softmax": 0, "lin2": 1}


@pytest.fixture(params=["one batch", "gpipe", "1f1b"])
def document(plan_of: Make, request: pytest.FixtureRequest) -> PlanDocument:
    if request.param == "one batch":
        return plan_of()
    return plan_of(pipeline=PipelineRecord(request.param, 4, RANKS, STAGES, 0.0))


def test_the_work_of_a_step_is_all_there_is_and_none_overlaps(document: PlanDocument) -> None:
    step = step_of(document)
    times = 1 if document.pipeline is None else document.pipeline.micro_batches
    seconds = sum(
        cost.forward_seconds["cuda:0"] + cost.backward_seconds["cuda:0"]
        for cost in document.costs.values()
    )
    busy = sum(item.end_seconds - item.start_seconds for item in step.work)
    assert busy == pytest.approx(times * seconds)
    for one, other in pairwise(step.work):
        assert one.device != other.device or one.end_seconds <= other.start_seconds + 1e-15
    assert max(item.end_seconds for item in step.work) == pytest.approx(step.seconds)


def test_sendings_lie_between_their_maker_and_who_waits(document: PlanDocument) -> None:
    step = step_of(document)
    times = 1 if document.pipeline is None else document.pipeline.micro_batches
    assert len(step.sendings) == times * len(document.transfers)
    for sending in step.sendings:
        assert sending.made_by is not None
        assert sending.awaited_by is not None
        maker, waiting = step.work[sending.made_by], step.work[sending.awaited_by]
        assert (maker.device, waiting.device) == (sending.source, sending.destination)
        assert maker.end_seconds <= sending.start_seconds + 1e-15
        assert sending.end_seconds <= waiting.start_seconds + 1e-15
        assert sending.nbytes == 51_200


def test_replicas_work_side_by_side_and_sum_up_their_gradients(plan_of: Make) -> None:
    record = PipelineRecord("gpipe", 4, RANKS[:1], dict.fromkeys(STAGES, 0), 0.0, (RANKS[1:],))
    step = step_of(plan_of(split=False, pipeline=record))
    first, second = ([item for item in step.work if item.device == name] for name in RANKS)
    assert len(first) == len(second) == 8
    assert [(i.phase, i.start_seconds) for i in first] == [
        (i.phase, i.start_seconds) for i in second
    ]
    ring = {(s.source, s.destination, s.phase) for s in step.sendings}
    assert ring == {(*RANKS, "all-reduce"), (*reversed(RANKS), "all-reduce")}
    last = max(item.end_seconds for item in step.work)
    assert all(s.start_seconds == last for s in step.sendings)
    assert step.seconds == max(s.end_seconds for s in step.sendings) > last


def test_merged_neighbours_keep_all_work(document: PlanDocument) -> None:
    step = step_of(document)
    for shortest in (0.0, step.seconds / 20, step.seconds):
        groups = list(merged(step.work, shortest))
        assert tuple(item for group in groups for item in group) == step.work
        assert all(len({(item.device, item.phase) for item in group}) == 1 for group in groups)


def test_a_trace_has_every_slice_and_arrows_that_meet_them(document: PlanDocument) -> None:
    step = step_of(document)
    events = json.loads(render_trace(document))["traceEvents"]
    slices: defaultdict[tuple[int, int], list[dict[str, float]]] = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            slices[event["pid"], event["tid"]].append(event)
    assert sum(map(len, slices.values())) == len(step.work) + len(step.sendings)
    for row in slices.values():
        for one, other in pairwise(row):
            assert one["ts"] + one["dur"] <= other["ts"] + 1e-9
    ends = [event for event in events if event["ph"] in "sf"]
    assert sorted(e["id"] for e in ends if e["ph"] == "s") == sorted(
        e["id"] for e in ends if e["ph"] == "f"
    )
    for end in ends:
        row = slices[end["pid"], end["tid"]]
        assert any(s["ts"] - 1e-9 <= end["ts"] <= s["ts"] + s["dur"] + 1e-9 for s in row)
    names = {event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert names == {"cuda:0 (a100-40gb)", "cuda:1 (a100-40gb)"}


def test_tracks_of_a_link_do_not_overlap(document: PlanDocument) -> None:
    step = step_of(document)
    found = lanes(step.sendings)
    assert sorted(i for members in found.values() for i in members) == list(
        range(len(step.sendings))
    )


def test_the_network_has_devices_seconds_and_what_crosses(plan_of: Make) -> None:
    graph = network(plan_of())
    assert list(graph) == ["x", "flatten", "lin1", "log_softmax", "lin2", "output"]
    assert nx.is_directed_acyclic_graph(graph)
    assert graph.nodes["lin2"]["device"] == "cuda:1"
    assert graph.nodes["lin1"]["seconds"] == pytest.approx(16e-6)
    assert "device" not in graph.nodes["output"]
    crossing = [edge for edge in graph.edges if graph.edges[edge]["crosses"]]
    assert crossing == [("log_softmax", "lin2")]
    assert graph.edges[crossing[0]]["nbytes"] == 51_200
    assert graph.graph["step_seconds"] == pytest.approx(60e-6)


def test_graphml_reads_back_as_the_same_graph(plan_of: Make) -> None:
    graph, text = network(plan_of()), render_graphml(plan_of())
    again = nx.parse_graphml(text)
    assert dict(again.nodes(data=True)) == dict(graph.nodes(data=True))
    assert dict(again.edges) == dict(graph.edges)
