"""Random problems for the solver, small enough for brute force."""

from __future__ import annotations

from itertools import product
from math import inf

from hypothesis import strategies as st

from partitioner.solve import Flow, Hold, Hop, Problem
from partitioner.solve.evaluate import Evaluation, count

OBJECTIVES = ("latency", "throughput", "memory")


@st.composite
def problems(
    draw: st.DrawFn,
    *,
    objective: str | None = None,
    most_nodes: int = 6,
    most_devices: int = 3,
    roads: bool | None = None,
) -> Problem:
    """Problems of every kind: unequal devices and links, limits, constraints, both phases.

    `roads`: pairs of devices share links, or stage transfers over a host; `None` leaves it open.

    Costs are about a microsecond or about a second, so that tolerances show.
    """
    nodes = draw(st.integers(1, most_nodes))
    count_devices = draw(st.integers(1, most_devices))
    devices = range(count_devices)
    scale = draw(st.sampled_from([1e-6, 1.0]))
    trains = draw(st.booleans())
    equal = draw(st.booleans())
    objective = objective or draw(st.sampled_from(OBJECTIVES))
    small = st.integers(1, 9).map(lambda ticks: ticks * scale)

    def row() -> tuple[float, ...]:
        if draw(st.integers(0, 6)) == 0:
            return (0.0,) * count_devices
        if equal:
            return (draw(small),) * count_devices
        seconds = [draw(small) for _ in devices]
        if count_devices > 1 and draw(st.integers(0, 9)) == 0:
            seconds[draw(st.sampled_from(devices))] = inf
        return tuple(seconds)

    forward = tuple(row() for _ in range(nodes))
    backward = tuple(
        tuple(2 * seconds if trains and seconds < inf else 0.0 for seconds in seconds_of)
        for seconds_of in forward
    )
    points = 2 * nodes + 1 if trains else nodes
    flows, holds = [], []
    for node in range(nodes):
        later = list(range(node + 1, nodes))
        if later and draw(st.integers(0, 9)):
            readers = draw(st.lists(st.sampled_from(later), min_size=1, max_size=3, unique=True))
            nbytes = draw(st.integers(0, 10))
            flows.append(
                Flow(
                    node,
                    tuple(sorted(readers)),
                    nbytes,
                    nbytes if trains and draw(st.booleans()) else 0,
                    draw(st.sampled_from([0.0, scale])),
                )
            )
            last = 2 * nodes - 1 - node if trains else max(readers)
            holds.append(Hold((node, *sorted(readers)), draw(st.integers(0, 10)), node, last))
        holds.append(Hold((node,), draw(st.integers(0, 10)), 0, points - 1))
        if draw(st.booleans()):
            holds.append(Hold((node,), draw(st.integers(1, 10)), node, node))
    total = sum(hold.nbytes for hold in holds)
    limit = st.integers(total // (count_devices + 1), total + 1)
    if objective == "memory" or draw(st.booleans()):
        capacities: tuple[int | None, ...] = tuple(draw(limit) for _ in devices)
        capacities = capacities[:1] * count_devices if equal else capacities
        if count_devices > 1 and draw(st.integers(0, 4)) == 0:
            capacities = (*capacities[:-1], None)
    else:
        capacities = (None,) * count_devices
    link = scale * draw(st.sampled_from([0.0, 0.5]))
    speed = scale * draw(st.sampled_from([0.1, 0.5]))
    spread = st.just(1.0) if equal else st.sampled_from([0.5, 1.0, 2.0])
    square = {(a, b): draw(spread) for a in devices for b in devices if a != b}
    shared = draw(st.integers(0, 2)) == 0 if roads is None else roads
    hops = draw(hops_between(count_devices, link, speed)) if shared and count_devices > 1 else {}

    def figure(plain: float, a: int, b: int, field: str) -> float:
        if hops.get((a, b)):
            return sum(getattr(hop, field) for hop in hops[a, b])
        return plain * square.get((a, b), 0.0)

    node_pairs = [(a, b) for a in range(nodes) for b in range(a + 1, nodes)]
    some_pairs = st.lists(st.sampled_from(node_pairs), max_size=2) if node_pairs else st.just([])
    few_pairs = st.lists(st.sampled_from(node_pairs), max_size=1) if node_pairs else st.just([])
    return Problem(
        objective=objective,
        nodes=tuple(f"n{node}" for node in range(nodes)),
        devices=tuple(f"d{device}" for device in devices),
        forward_seconds=forward,
        backward_seconds=backward,
        flows=tuple(flows),
        latency_seconds=tuple(
            tuple(figure(link, a, b, "latency_seconds") for b in devices) for a in devices
        ),
        seconds_per_byte=tuple(
            tuple(figure(speed, a, b, "seconds_per_byte") for b in devices) for a in devices
        ),
        lanes=tuple(f"lane {lane}" for lane in range(2 * count_devices)) if hops else (),
        roads=tuple(tuple(hops.get((a, b), ()) for b in devices) for a in devices) if hops else (),
        holds=tuple(holds),
        points=points,
        capacity_nbytes=capacities,
        allowed=tuple(
            (draw(st.sampled_from(devices)),) if draw(st.integers(0, 9)) == 0 else tuple(devices)
            for _ in range(nodes)
        ),
        colocated=tuple(draw(some_pairs if draw(st.booleans()) else few_pairs)),
        separated=tuple(
            ((a, b - 1) if a < b - 1 and draw(st.booleans()) else (a,), (b,))
            for a, b in draw(few_pairs)
        ),
        contiguous=draw(st.integers(0, 3)) == 0,
        pays_endpoint=tuple(draw(st.booleans()) for _ in devices),
    )


@st.composite
def hops_between(
    draw: st.DrawFn, devices: int, latency: float, seconds_per_byte: float
) -> dict[tuple[int, int], tuple[Hop, ...]]:
    """Roads of pairs of devices: all staged over one host, all over one switch, or any mixture."""
    pairs = [(a, b) for a in range(devices) for b in range(devices) if a != b]
    match draw(st.sampled_from(["staged", "switch", "mixture"])):
        case "staged":
            return {
                (a, b): tuple(Hop(latency, seconds_per_byte, (lane,)) for lane in (a, devices + b))
                for a, b in pairs
            }
        case "switch":
            return {pair: (Hop(latency, seconds_per_byte, (0,)),) for pair in pairs}
        case _:
            hop = st.builds(
                lambda factor, lanes: Hop(
                    factor * latency, factor * seconds_per_byte, tuple(sorted(lanes))
                ),
                st.sampled_from([0.5, 1.0, 2.0]),
                st.sets(st.integers(0, 2), min_size=1, max_size=2),
            )
            return {pair: tuple(draw(st.lists(hop, max_size=2))) for pair in pairs}


def brute_force(problem: Problem) -> tuple[list[int], Evaluation] | None:
    """The best assignment of all, ties settled as the solver should; `None` if none is feasible.

    Objectives that differ by rounding alone are a tie.
    """
    found = [
        (count(problem, placed), list(placed))
        for placed in product(range(len(problem.devices)), repeat=len(problem.nodes))
    ]
    found = [(recount, placed) for recount, placed in found if recount.feasible]
    if not found:
        return None
    least = min(recount.objective for recount, _ in found)
    best, placed = min(
        (pair for pair in found if pair[0].objective <= least * (1 + 1e-12)),
        key=lambda pair: (pair[0].moved_nbytes, pair[0].moves, pair[1]),
    )
    return placed, best
