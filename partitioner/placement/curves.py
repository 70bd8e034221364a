"""How full each device is in the course of a step, and what fills it at its fullest.

Reckoned from the lifetimes of values, as the solver's rows are. The dry run, whose peak is the
promise, tells no such course: the two may differ.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from partitioner.graph.cost_graph import CostGraph, Holding
from partitioner.placement.memory import LEVELS, STATIC, held_nbytes, holdings_by_device
from partitioner.placement.parts import Held, MemoryCurve, PipelineRecord
from partitioner.placement.pipeline import Pipelined
from partitioner.placement.timeline import timeline
from partitioner.schedule import Kind
from partitioner.spec import Cluster

CHANGES = 400
"""How many changes a curve has at most; of more, the fullest in each stretch of time is kept."""
NAMED = 12
"""How many things are named at the peak before the rest is summed up."""

Level = tuple[int, ...]
"""Bytes by role, in the order of `LEVELS`."""


def memory_curves(
    graph: CostGraph, placement: Mapping[str, str], cluster: Cluster
) -> dict[str, MemoryCurve]:
    """The curve of each device, by name."""
    found = timeline(graph, placement, cluster)
    start: dict[tuple[str, str], float] = {
        (span.what, span.phase): span.start_seconds for span in found.spans if span.kind == "node"
    }
    held = holdings_by_device(graph.holdings, placement)
    count = len(graph.order)
    curves = {}
    for device in graph.devices:
        levels = _levels(held[device], graph.points)
        times: list[float] = []
        now = 0.0
        for point in range(graph.points):
            node, phase = _at(graph.order, point)
            if point == 2 * count:
                now = found.step_seconds
            elif placement[node] == device:
                now = max(now, start.get((node, phase), now))
            times.append(now)
        fullest = max(range(graph.points), key=lambda point: sum(levels[point]), default=0)
        present = Counter[tuple[str, str]]()
        for holding in held[device]:
            if holding.first <= fullest <= holding.last:
                present[holding.what, holding.role] += holding.nbytes
        curves[device] = _curve(zip(times, levels, strict=True), found.step_seconds, present)
    return curves


def pipeline_memory_curves(
    graph: CostGraph, record: PipelineRecord, found: Pipelined
) -> dict[str, MemoryCurve]:
    """The curve of each device under a pipeline's schedule, by name.

    What a stage keeps of a micro-batch is there from the begin of its forward to the end of its
    backward; while it computes, what it needs beyond that as well; in the end, what the optimizer
    needs for its step. Buffers for what stages send each other are left out.
    """
    rank_of = {name: rank for ranks in record.pipelines for rank, name in enumerate(ranks)}
    ranks = {rank_of.get(device) for device in graph.devices}
    by_rank = {rank: _pipeline_curve(graph, record, found, rank) for rank in ranks}
    return {device: by_rank[rank_of.get(device)] for device in graph.devices}


def _pipeline_curve(
    graph: CostGraph, record: PipelineRecord, found: Pipelined, rank: int | None
) -> MemoryCurve:
    """The curve of a rank, or of a device that is none."""
    training = graph.points > len(graph.order)
    last = (Kind.BACKWARD, Kind.BACKWARD_WEIGHT) if training else (Kind.FORWARD,)
    needs = {
        part.index: _Needs(graph, part.nodes)
        for part in found.parts
        if part.index % len(record.ranks) == rank
    }
    static = sum((need.static for need in needs.values()), Counter[tuple[str, str]]())
    base = [sum(n for (_, name), n in static.items() if name == role) for role in LEVELS]
    flying = Counter[int]()
    highest, at_peak = sum(base), Counter[int]()
    steps: list[tuple[float, Level]] = [(0.0, tuple(base))]
    for interval in found.timetable.compute[rank] if rank is not None else ():
        stage, kind = interval.action.stage, interval.action.kind
        flying[stage] += kind == Kind.FORWARD
        working = needs[stage].forward if kind == Kind.FORWARD else needs[stage].backward
        level = _level(base, needs, flying, working)
        steps.append((interval.start, level))
        if sum(level) > highest:
            highest, at_peak = sum(level), flying.copy()
        flying[stage] -= kind in last
        steps.append((interval.end, _level(base, needs, flying, 0)))
    updating = sum((need.updating for need in needs.values()), Counter[tuple[str, str]]())
    level = _level(base, needs, {}, updating.total())
    steps.append((found.timetable.seconds, level))
    if sum(level) > highest:
        static, at_peak = static + updating, Counter()
    for stage, number in at_peak.items():
        what = f"{number} micro-batch{'es' * (number > 1)} in flight in stage {stage}"
        static[what, "activations"] += number * needs[stage].kept
    return _curve(steps, found.timetable.seconds, static)


class _Needs:
    """What one stage needs: always, for each micro-batch in flight, at work, and to update."""

    def __init__(self, graph: CostGraph, nodes: Sequence[str]) -> None:
        own = set(nodes)
        turn = len(graph.order)
        holdings = [h for h in graph.holdings if not own.isdisjoint(h.nodes)]
        passing = [h for h in holdings if h.role not in STATIC and h.first < 2 * turn]
        levels = [sum(level) for level in _levels(passing, graph.points)]
        self.static = Counter[tuple[str, str]]()
        self.updating = Counter[tuple[str, str]]()
        for holding in holdings:
            if holding.role in STATIC:
                self.static[holding.what, holding.role] += holding.nbytes
            elif holding.first >= 2 * turn:
                self.updating[holding.what, holding.role] += holding.nbytes
        self.kept = sum(h.nbytes for h in passing if h.first < turn <= h.last)
        self.forward = max(0, max(levels[:turn], default=0) - self.kept)
        self.backward = max(0, max(levels[turn:], default=0) - self.kept)


def _level(
    base: Sequence[int], needs: Mapping[int, _Needs], flying: Mapping[int, int], working: int
) -> Level:
    kept = sum(needs[stage].kept * number for stage, number in flying.items())
    return (*base[:3], base[3] + kept, base[4] + working)


def _at(order: Sequence[str], point: int) -> tuple[str, str]:
    """The node and phase of a program point; of the optimizer's step, none."""
    count = len(order)
    if point < count:
        return order[point], "forward"
    return (order[2 * count - 1 - point], "backward") if point < 2 * count else ("", "")


def _levels(holdings: Sequence[Holding], points: int) -> list[Level]:
    """Bytes by role at each program point."""
    columns = [held_nbytes((h for h in holdings if h.role == role), points) for role in LEVELS]
    return list(zip(*columns, strict=True))


def _curve(
    steps: Iterable[tuple[float, Level]], end_seconds: float, held: Counter[tuple[str, str]]
) -> MemoryCurve:
    """Steps by time as a curve: of those at one time the fullest, and no more than `CHANGES`."""
    kept: list[tuple[float, Level]] = []
    for step in _fullest(steps, 0.0):
        if not kept or kept[-1][1] != step[1]:
            kept.append(step)
    if len(kept) > CHANGES:
        kept = _fullest(kept, end_seconds / CHANGES)
    named = sorted(
        (Held(what, role, nbytes) for (what, role), nbytes in held.items() if nbytes),
        key=lambda item: (-item.nbytes, item.what, item.role),
    )
    return MemoryCurve(
        seconds=tuple(time for time, _ in kept),
        **{role: tuple(level[i] for _, level in kept) for i, role in enumerate(LEVELS)},
        at_peak=tuple(named[:NAMED]),
        others=len(named[NAMED:]),
        others_nbytes=sum(item.nbytes for item in named[NAMED:]),
    )


def _fullest(
    steps: Iterable[tuple[float, Level]], stretch_seconds: float
) -> list[tuple[float, Level]]:
    """The fullest step of each stretch of time, at the time of the first of them."""
    kept: list[tuple[float, Level]] = []
    for time, level in steps:
        if kept and time - kept[-1][0] <= stretch_seconds:
            if sum(level) > sum(kept[-1][1]):
                kept[-1] = (kept[-1][0], level)
        else:
            kept.append((time, level))
    return kept
