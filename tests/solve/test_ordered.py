"""Ordered splits, and published problems."""

from __future__ import annotations

import json
from dataclasses import replace
from math import inf
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from benchmarks.placement import Workload, main, throughput_problem
from benchmarks.published_latency import Pieces
from partitioner.solve import Flow, Hold, Problem, evaluate, solve
from partitioner.solve.contract import contract
from partitioner.solve.effort import Effort
from partitioner.solve.evaluate import count
from partitioner.solve.ideals import best_ordered_split
from partitioner.solve.intervals import Costs, splits
from partitioner.solve.neighbourhoods import shared_out_anew
from partitioner.solve.state import Tables
from tests.strategies import brute_force


@st.composite
def pipelines(draw: st.DrawFn, most_nodes: int = 6) -> Problem:
    """Two accelerators that pay at their border and one CPU that does not; devices in an order."""
    nodes = draw(st.integers(2, most_nodes))
    ticks = st.integers(0, 6)
    flows = []
    for node in range(nodes - 1):
        later = st.sampled_from(range(node + 1, nodes))
        readers = draw(st.lists(later, max_size=3, unique=True))
        if readers:
            price = float(draw(ticks))
            flows.append(Flow(node, tuple(sorted(readers)), 1, 0, price))
    free = ((0.0,) * 3,) * 3
    return Problem(
        objective="throughput",
        nodes=tuple(f"n{node}" for node in range(nodes)),
        devices=("acc0", "acc1", "cpu0"),
        forward_seconds=tuple(
            (float(fast), float(fast), float(fast * 3 + 1))
            for fast in (draw(ticks) for _ in range(nodes))
        ),
        backward_seconds=((0.0,) * 3,) * nodes,
        flows=tuple(flows),
        latency_seconds=free,
        seconds_per_byte=free,
        holds=tuple(Hold((node,), draw(ticks), 0, 0) for node in range(nodes)),
        points=1,
        capacity_nbytes=(draw(st.integers(6, 30)),) * 2 + (None,),
        allowed=((0, 1, 2),) * nodes,
        contiguous=True,
        pays_endpoint=(True, True, False),
    )


@settings(max_examples=30, deadline=None)
@given(pipelines())
def test_ideals_find_the_best_ordered_split(problem: Problem) -> None:
    best = brute_force(problem)
    smaller, contraction = contract(problem)
    found = best_ordered_split(Tables(smaller), inf, Effort(1e9))
    assert found is not None
    assert best is not None
    assert found.placed is not None
    if found.exact:
        assert found.value == pytest.approx(best[1].objective)
    recount = count(problem, contraction.expand(found.placed))
    assert recount.feasible
    assert recount.objective == pytest.approx(found.value)


@settings(max_examples=30, deadline=None)
@given(pipelines(), st.data())
def test_intervals_cost_what_a_recount_finds(problem: Problem, data: st.DataObject) -> None:
    tables = Tables(problem)
    costs = Costs(tables, range(len(problem.nodes)))
    first = data.draw(st.integers(0, costs.size - 1))
    last = data.draw(st.integers(first + 1, costs.size))
    device = data.draw(st.sampled_from([0, 1]))
    placed = [device if first <= node < last else 2 for node in range(costs.size)]
    seconds, excess = costs.cost(device)
    peak = count(problem, placed).peak_nbytes[device]
    assert excess[first, last] == max(0, peak - problem.capacity_nbytes[device])  # type: ignore[operator]
    alone = replace(problem, pays_endpoint=(True, True, False))
    busy = evaluate(
        replace(alone, forward_seconds=tuple((a, b, 0.0) for a, b, _ in alone.forward_seconds)),
        dict(zip(problem.nodes, [problem.devices[d] for d in placed], strict=True)),
    )
    assert seconds[first, last] == pytest.approx(busy.objective)


@settings(max_examples=15, deadline=None)
@given(pipelines(most_nodes=7))
def test_sharing_out_anew_never_makes_it_worse(problem: Problem) -> None:
    for placed in splits(Tables(problem)):
        before = count(problem, placed)
        assume(before.feasible)
        after = count(problem, shared_out_anew(problem, placed, 0.0, deadline=None, seed=0))
        assert after.feasible
        assert after.objective <= before.objective
        return


WORKLOAD = {
    "maxSizePerFPGA": 10.0,
    "maxFPGAs": 2,
    "maxCPUs": 1,
    "nodes": [
        {"id": 7, "supportedOnFpga": 1, "cpuLatency": 90, "fpgaLatency": 9, "size": 4.0,
         "colorClass": 1},
        {"id": 3, "supportedOnFpga": 0, "cpuLatency": 1, "fpgaLatency": 5, "size": 1.0},
        {"id": 9, "supportedOnFpga": 1, "cpuLatency": 80, "fpgaLatency": 8, "size": 6.0},
        {"id": 8, "supportedOnFpga": 1, "cpuLatency": 70, "fpgaLatency": 1, "size": 1.0,
         "isBackwardNode": 1, "colorClass": 1},
    ],
    "edges": [
        {"sourceId": 7, "destId": 9, "cost": 2.0},
        {"sourceId": 3, "destId": 7, "cost": 0.5},
        {"sourceId": 9, "destId": 8, "cost": 1.0},
    ],
}  # fmt: skip


def workload(folder: Path) -> Path:
    path = folder / "tiny.json"
    path.write_text(json.dumps(WORKLOAD))
    return path


@pytest.mark.parametrize("contiguous", [True, False])
def test_published_problem_by_hand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], contiguous: bool
) -> None:
    """7 and 8 on one accelerator, 9 on the other: 0.5 + 9 + 1 + 2 + 1 = 13.5."""
    flags = ["--contiguous"] if contiguous else []
    assert main([str(workload(tmp_path)), "--out", str(tmp_path / "out"), *flags]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["workload"] == "tiny"
    assert row["objective"] == pytest.approx(13.5)
    assert row["status"] == "optimal"
    assignment = json.loads((tmp_path / "out" / "tiny.json").read_text())["assignment"]
    assert assignment["3"] == "cpu0"
    assert assignment["7"] == assignment["8"] != assignment["9"]


def test_only_forward_edges_are_ordered(tmp_path: Path) -> None:
    problem = throughput_problem(Workload.read(workload(tmp_path)), contiguous=True)
    names = [(problem.nodes[a], problem.nodes[b]) for a, b in problem.ordered_pairs()]
    assert sorted(names) == [("3", "7"), ("7", "9")]
    assert solve(problem).objective == pytest.approx(13.5)


def test_latency_by_hand(tmp_path: Path) -> None:
    """The CPU takes 1; then 0.5 + 9 + 2, 2 + 8 + 1 on the other accelerator, and 1 + 1 back."""
    problem = throughput_problem(Workload.read(workload(tmp_path)), contiguous=False)
    device = {"3": 2, "7": 0, "8": 0, "9": 1}
    placed = [device[node] for node in problem.nodes]
    pieces = Pieces(problem)
    assert pieces.latency(placed) == pytest.approx(1 + 0.5 + 9 + 2 + 2 + 8 + 1 + 1 + 1)
    assert pieces.bound() <= pieces.latency(placed)
