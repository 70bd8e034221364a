"""The solver against all assignments: `python -m benchmarks.brute_force --count N [--seed S]`.

Random problems of up to 10 nodes and 3 devices, of every objective and constraint (the strategy of
the tests). Each must have the least objective of all assignments, among equals the fewest bytes
moved and then the fewest moves, a bound that holds, and the status that it deserves; where nothing
is feasible, the solver must say so. The enumeration shares no code with the solver. Prints one JSON
object for each difference, and one for all: `{"problems", "equal", "seconds"}`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations

import hypothesis
import numpy as np
from numpy.typing import NDArray

from partitioner.errors import InfeasibleError, PartitionerError
from partitioner.solve import Flow, Problem, Status, evaluate, solve
from tests.strategies import problems

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Places = NDArray[np.int8]

TOLERANCE = 1e-7
"""Relative; what rounding leaves."""


@dataclass(frozen=True, slots=True)
class Best:
    """The best of all assignments: objective, then bytes moved, then moves."""

    objective: float
    moved_nbytes: int
    moves: int


def best_of_all(problem: Problem) -> Best | None:
    """The best of all assignments, `None` when none is feasible; every row is one assignment."""
    size, devices = len(problem.nodes), len(problem.devices)
    choices = [
        [
            device
            for device in problem.allowed[node]
            if np.isfinite(problem.forward_seconds[node][device])
            and np.isfinite(problem.backward_seconds[node][device])
        ]
        for node in range(size)
    ]
    placed = np.stack(np.meshgrid(*choices, indexing="ij"), -1).reshape(-1, size).astype(np.int8)
    for group in problem.colocated:
        placed = placed[(placed[:, list(group)] == placed[:, [group[0]]]).all(axis=1)]
    for one, other in problem.separated:
        for a in one:
            for b in other:
                placed = placed[placed[:, a] != placed[:, b]]
    if problem.contiguous:
        placed = placed[_in_some_order(problem, placed)]
    peaks = np.stack([_peak(problem, placed, device) for device in range(devices)], axis=1)
    limits = [np.inf if limit is None else limit for limit in problem.capacity_nbytes]
    fits = (peaks <= np.array(limits)).all(axis=1)
    placed, peaks = placed[fits], peaks[fits]
    if not len(placed):
        return None
    match problem.objective:
        case "latency":
            value = _forward(problem, placed) + _backward(problem, placed)
        case "throughput":
            value = _largest_load(problem, placed)
        case _:
            value = np.zeros(len(placed))
            for device, limit in enumerate(problem.capacity_nbytes):
                if limit is not None:
                    share = peaks[:, device] / limit if limit else 0.0 * value
                    value = np.maximum(value, share)
    moved, moves = np.zeros(len(placed), np.int64), np.zeros(len(placed), np.int64)
    for flow in problem.flows:
        for device in range(devices):
            crosses = _crosses(placed, flow.source, flow.targets, device)
            moved += crosses * (flow.nbytes + flow.gradient_nbytes)
            moves += crosses * (flow.nbytes > 0)
    least = float(value.min())
    best = value <= least * (1 + TOLERANCE)
    traffic = min(zip(moved[best].tolist(), moves[best].tolist(), strict=True))
    return Best(least, *traffic)


def _crosses(placed: Places, source: int, targets: Sequence[int], device: int) -> NDArray[np.bool_]:
    """Whether a flow crosses to a device."""
    reads: NDArray[np.bool_] = (placed[:, list(targets)] == device).any(axis=1)
    elsewhere: NDArray[np.bool_] = placed[:, source] != device
    return reads & elsewhere


def _in_some_order(problem: Problem, placed: Places) -> NDArray[np.bool_]:
    """Whether the devices have an order that no watched pair goes against."""
    found = np.zeros(len(placed), dtype=bool)
    for order in permutations(range(len(problem.devices))):
        rank = np.array(order)[placed]
        holds = np.ones(len(placed), dtype=bool)
        for first, second in problem.ordered_pairs():
            holds &= rank[:, first] <= rank[:, second]
        found |= holds
    return found


def _peak(problem: Problem, placed: Places, device: int) -> Integers:
    held = np.zeros((len(placed), problem.points), dtype=np.int64)
    for hold in problem.holds:
        here = (placed[:, list(hold.nodes)] == device).any(axis=1)
        held[here, hold.first : hold.last + 1] += hold.nbytes
    peak: Integers = held.max(axis=1)
    return peak


class _Lanes:
    """By assignment, until when each lane is taken in one phase."""

    def __init__(self, problem: Problem, count: int) -> None:
        self.problem = problem
        self.free = np.zeros((count, len(problem.lanes)))

    def send(self, rows: Integers, ready: Floats, ends: tuple[int, int], nbytes: int) -> Floats:
        """When what could leave at `ready` arrives, in some of the assignments."""
        hops = self.problem.hops(*ends)
        if not nbytes or not hops:
            return ready + self.problem.transfer_seconds(*ends, nbytes)
        for hop in hops:
            for lane in hop.lanes:
                ready = np.maximum(ready, self.free[rows, lane])
            ready = ready + hop.latency_seconds + nbytes * hop.seconds_per_byte
            for lane in hop.lanes:
                self.free[rows, lane] = ready
        return ready


def _first_readers(
    placed: Places, flow: Flow, devices: int
) -> Iterator[tuple[tuple[int, int], Integers]]:
    """By reader and pair of devices, the assignments in which it is the first on its device."""
    for place, target in enumerate(flow.targets):
        first = (placed[:, list(flow.targets[:place])] != placed[:, [target]]).all(axis=1)
        for pair in permutations(range(devices), 2):
            here = (placed[:, flow.source] == pair[0]) & (placed[:, target] == pair[1])
            yield pair, np.flatnonzero(first & here)


def _forward(problem: Problem, placed: Places) -> Floats:
    rows = np.arange(len(placed))
    free = np.zeros((len(placed), len(problem.devices)))
    ready = np.zeros((len(placed), len(problem.nodes)))
    lanes = _Lanes(problem, len(placed))
    for node in range(len(problem.nodes)):
        here = placed[:, node]
        end = np.maximum(free[rows, here], ready[:, node])
        end = end + np.array(problem.forward_seconds[node])[here]
        free[rows, here] = end
        for flow in problem.flows:
            if flow.source == node:
                there = np.zeros_like(free)
                there[rows, here] = end
                for pair, some in _first_readers(placed, flow, len(problem.devices)):
                    there[some, pair[1]] = lanes.send(some, end[some], pair, flow.nbytes)
                for target in flow.targets:
                    arrival = there[rows, placed[:, target]]
                    ready[:, target] = np.maximum(ready[:, target], arrival)
    last: Floats = free.max(axis=1)
    return last


def _backward(problem: Problem, placed: Places) -> Floats:
    rows = np.arange(len(placed))
    free = np.zeros((len(placed), len(problem.devices)))
    finish = np.zeros((len(placed), len(problem.nodes)))
    lanes = _Lanes(problem, len(placed))
    for node in reversed(range(len(problem.nodes))):
        here = placed[:, node]
        start = free[rows, here]
        for flow in reversed(problem.flows):
            if flow.source == node and flow.gradient_nbytes:
                made = np.zeros_like(free)
                for target in flow.targets:
                    there = placed[:, target]
                    made[rows, there] = np.maximum(made[rows, there], finish[:, target])
                start = np.maximum(start, made[rows, here])
                transfers = [*_first_readers(placed, flow, len(problem.devices))]
                for (home, away), some in reversed(transfers):
                    ready = made[some, away]
                    arrival = lanes.send(some, ready, (away, home), flow.gradient_nbytes)
                    start[some] = np.maximum(start[some], arrival)
        finish[:, node] = start + np.array(problem.backward_seconds[node])[here]
        free[rows, here] = finish[:, node]
    last: Floats = free.max(axis=1)
    return last


def _largest_load(problem: Problem, placed: Places) -> Floats:
    rows = np.arange(len(placed))
    devices = range(len(problem.devices))
    busy = np.zeros((len(placed), len(devices)))
    link = np.zeros((len(placed), len(devices), len(devices)))
    lane = np.zeros((len(placed), len(problem.lanes) + 1))

    def carry(some: NDArray[np.bool_], ends: tuple[int, int], nbytes: int) -> None:
        hops = problem.hops(*ends) if nbytes else ()
        for hop in hops:
            for index in hop.lanes:
                lane[some, index] += hop.latency_seconds + nbytes * hop.seconds_per_byte
        if not hops:
            link[some, ends[0], ends[1]] += problem.transfer_seconds(*ends, nbytes)

    for node in range(len(problem.nodes)):
        here = placed[:, node]
        seconds = np.add(problem.forward_seconds[node], problem.backward_seconds[node])
        busy[rows, here] += seconds[here]
    for flow in problem.flows:
        home = placed[:, flow.source]
        leaves = np.zeros(len(placed), dtype=bool)
        for device in devices:
            crosses = _crosses(placed, flow.source, flow.targets, device)
            leaves |= crosses
            for source in devices:
                carry(crosses & (home == source), (source, device), flow.nbytes)
                carry(crosses & (home == source), (device, source), flow.gradient_nbytes)
            busy[:, device] += crosses * flow.endpoint_seconds * problem.pays(device)
        pays = np.array([problem.pays(device) for device in devices])
        busy[rows, home] += leaves * flow.endpoint_seconds * pays[home]
    largest: Floats = np.maximum(busy.max(axis=1), link.max(axis=(1, 2)))
    return np.maximum(largest, lane.max(axis=1))


def difference(problem: Problem) -> str | None:
    """What the solver gets wrong; `None` when nothing."""
    best = best_of_all(problem)
    try:
        solution = solve(problem)
    except InfeasibleError:
        return None if best is None else f"infeasible, but {best} is feasible"
    except PartitionerError as error:
        return f"{type(error).__name__}: {error}; best {best}"
    if best is None:
        return f"nothing is feasible, the solver has {solution.objective}"
    recount = evaluate(problem, solution.assignment)
    if not recount.feasible:
        return f"breaks {recount.violations}"
    if abs(solution.objective - best.objective) > TOLERANCE * best.objective:
        return f"{solution.objective} instead of {best.objective}"
    if solution.bound > best.objective * (1 + TOLERANCE):
        return f"a bound of {solution.bound}, but {best.objective} is feasible"
    if solution.status is not Status.OPTIMAL:
        return f"not proven: {solution.bound} to {solution.objective}"
    if (recount.moved_nbytes, recount.moves) != (best.moved_nbytes, best.moves):
        return f"{recount.moved_nbytes} bytes in {recount.moves} moves, best {best}"
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.brute_force", description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="problems")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="25 problems only")
    given = parser.parse_args(arguments)
    count = 25 if given.smoke else given.count
    total = differences = 0
    started = time.perf_counter()

    @hypothesis.seed(given.seed)
    @hypothesis.settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(problems(most_nodes=10))
    def check(problem: Problem) -> None:
        nonlocal total, differences
        total += 1
        found = difference(problem)
        if found is not None:
            differences += 1
            print(json.dumps({"difference": found, "problem": repr(problem)}), flush=True)
        elif total % 500 == 0:
            print(f"{total} problems, {differences} differences", file=sys.stderr, flush=True)

    check()
    print(
        json.dumps(
            {
                "problems": total,
                "equal": total - differences,
                "seconds": round(time.perf_counter() - started, 1),
            }
        )
    )
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
