"""The judge of every solver: what an assignment costs, recounted in plain Python.

Nodes run in the problem's order on their device, one at a time. Transfers do not occupy devices;
on a lane they follow each other in the order of the nodes that make them and, for one node, of the
nodes that read them, in the backward the other way round; elsewhere they do not wait. `count` works
on device indices, `evaluate` on names.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import inf, isfinite

from partitioner.solve.problem import Flow, Problem


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What one assignment is worth.

    Attributes:
        objective: in the problem's own sense: seconds, or the fullest device's share of its memory.
        peak_nbytes: by device, in the problem's order.
        moved_nbytes: that cross between devices in one step, both phases together.
        moves: how many transfers the forward makes.
        violations: every broken limit and constraint, in words.
    """

    objective: float
    peak_nbytes: tuple[int, ...]
    moved_nbytes: int
    moves: int
    violations: tuple[str, ...]

    @property
    def feasible(self) -> bool:
        """Whether nothing is broken."""
        return not self.violations


def evaluate(problem: Problem, assignment: Mapping[str, str]) -> Evaluation:
    """Recount an assignment of node names to device names.

    Raises:
        KeyError: a node has no device, or one that the problem does not have.
    """
    index = {name: device for device, name in enumerate(problem.devices)}
    return count(problem, [index[assignment[node]] for node in problem.nodes])


def count(problem: Problem, placed: Sequence[int]) -> Evaluation:
    """Recount an assignment given as one device index for each node."""
    moved, moves = traffic(problem, placed)
    peaks = peak_nbytes(problem, placed)
    return Evaluation(
        objective=_objective(problem, placed, peaks),
        peak_nbytes=peaks,
        moved_nbytes=moved,
        moves=moves,
        violations=tuple(_violations(problem, placed, peaks)),
    )


def crossed(flow: Flow, placed: Sequence[int]) -> list[int]:
    """The devices that a flow crosses to, ascending."""
    return sorted({placed[target] for target in flow.targets} - {placed[flow.source]})


def receivers(flow: Flow, placed: Sequence[int]) -> list[int]:
    """The same devices, by their first reader: the order in which transfers leave."""
    found = dict.fromkeys(placed[target] for target in flow.targets)
    found.pop(placed[flow.source], None)
    return list(found)


class Lanes:
    """Until when each lane is taken in one phase."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._free = [0.0] * len(problem.lanes)

    def send(self, ready: float, source: int, destination: int, nbytes: int) -> float:
        """When a transfer arrives that can begin at `ready` and follows all those before."""
        hops = self._problem.hops(source, destination)
        if not hops or not nbytes:
            return ready + self._problem.transfer_seconds(source, destination, nbytes)
        for hop in hops:
            begin = max([ready, *(self._free[lane] for lane in hop.lanes)])
            ready = begin + hop.seconds(nbytes)
            for lane in hop.lanes:
                self._free[lane] = ready
        return ready


def traffic(problem: Problem, placed: Sequence[int]) -> tuple[int, int]:
    """Bytes that cross in a step, and how many transfers the forward makes."""
    moved = moves = 0
    for flow in problem.flows:
        away = len(crossed(flow, placed))
        moved += away * (flow.nbytes + flow.gradient_nbytes)
        moves += away * (flow.nbytes > 0)
    return moved, moves


def switches(placed: Sequence[int]) -> int:
    """How often, from node to node in their order, the device is another one."""
    return sum(one != other for one, other in pairwise(placed))


def peak_nbytes(problem: Problem, placed: Sequence[int]) -> tuple[int, ...]:
    """Most bytes held at one point, by device."""
    changes = [[0] * (problem.points + 1) for _ in problem.devices]
    for hold in problem.holds:
        for device in {placed[node] for node in hold.nodes}:
            changes[device][hold.first] += hold.nbytes
            changes[device][hold.last + 1] -= hold.nbytes
    return tuple(max(accumulate(change)) for change in changes)


def everything_nbytes(problem: Problem, among: Collection[int] | None = None) -> int:
    """Bytes of the fullest point when every hold counts once, wherever it is.

    `among` leaves out the holds that none of these nodes has a part in.
    """
    change = [0] * (problem.points + 1)
    for hold in problem.holds:
        if among is None or any(node in among for node in hold.nodes):
            change[hold.first] += hold.nbytes
            change[hold.last + 1] -= hold.nbytes
    return max(accumulate(change))


def forward_seconds(problem: Problem, placed: Sequence[int]) -> float:
    """Makespan of the forward."""
    free = [0.0] * len(problem.devices)
    arrived = [0.0] * len(problem.nodes)
    outgoing = _by_source(problem)
    lanes = Lanes(problem)
    for node, device in enumerate(placed):
        finish = max(free[device], arrived[node]) + problem.forward_seconds[node][device]
        free[device] = finish
        for flow in outgoing[node]:
            there = {device: finish}
            for away in receivers(flow, placed):
                there[away] = lanes.send(finish, device, away, flow.nbytes)
            for target in flow.targets:
                arrived[target] = max(arrived[target], there[placed[target]])
    return max(free)


def backward_seconds(problem: Problem, placed: Sequence[int]) -> float:
    """Makespan of the backward: the same in reversed order, along the flows with gradients."""
    free = [0.0] * len(problem.devices)
    finish = [0.0] * len(problem.nodes)
    outgoing = _by_source(problem)
    lanes = Lanes(problem)
    for node in reversed(range(len(problem.nodes))):
        device = placed[node]
        start = free[device]
        for flow in reversed(outgoing[node]):
            if flow.gradient_nbytes:
                ready: dict[int, float] = {device: 0.0}
                for target in flow.targets:
                    ready[placed[target]] = max(ready.get(placed[target], 0.0), finish[target])
                start = max(start, ready[device])
                for away in reversed(receivers(flow, placed)):
                    arrival = lanes.send(ready[away], away, device, flow.gradient_nbytes)
                    start = max(start, arrival)
        finish[node] = free[device] = start + problem.backward_seconds[node][device]
    return max(free)


def loads(problem: Problem, placed: Sequence[int]) -> tuple[list[float], list[float]]:
    """Seconds that each device, and each directed link and lane, is busy in one step."""
    devices = range(len(problem.devices))
    busy = [0.0 for _ in devices]
    links = [0.0 for _ in devices for _ in devices]
    lanes = [0.0 for _ in problem.lanes]

    def carry(source: int, destination: int, nbytes: int) -> None:
        hops = problem.hops(source, destination) if nbytes else ()
        for hop in hops:
            for lane in hop.lanes:
                lanes[lane] += hop.seconds(nbytes)
        if not hops:
            seconds = problem.transfer_seconds(source, destination, nbytes)
            links[source * len(devices) + destination] += seconds

    for node, device in enumerate(placed):
        busy[device] += problem.forward_seconds[node][device]
        busy[device] += problem.backward_seconds[node][device]
    for flow in problem.flows:
        home = placed[flow.source]
        away = crossed(flow, placed)
        for device in [home, *away] if away else []:
            busy[device] += flow.endpoint_seconds * problem.pays(device)
        for device in away:
            carry(home, device, flow.nbytes)
            carry(device, home, flow.gradient_nbytes)
    return busy, [*links, *lanes]


def fullness(problem: Problem, peaks: Sequence[int]) -> float:
    """The fullest device's peak over its capacity."""
    shares = [
        peak / capacity if capacity else (inf if peak else 0.0)
        for peak, capacity in zip(peaks, problem.capacity_nbytes, strict=True)
        if capacity is not None
    ]
    return max(shares, default=0.0)


def _objective(problem: Problem, placed: Sequence[int], peaks: Sequence[int]) -> float:
    match problem.objective:
        case "latency":
            return forward_seconds(problem, placed) + backward_seconds(problem, placed)
        case "throughput":
            busy, links = loads(problem, placed)
            return max(*busy, *links)
        case "memory":
            return fullness(problem, peaks)
        case unknown:
            raise ValueError(f"no objective {unknown!r}: latency, throughput or memory")


def _by_source(problem: Problem) -> list[list[Flow]]:
    outgoing: list[list[Flow]] = [[] for _ in problem.nodes]
    for flow in problem.flows:
        outgoing[flow.source].append(flow)
    return outgoing


def _violations(problem: Problem, placed: Sequence[int], peaks: Sequence[int]) -> Iterator[str]:
    names, devices = problem.nodes, problem.devices
    for node, device in enumerate(placed):
        if not isfinite(
            problem.forward_seconds[node][device] + problem.backward_seconds[node][device]
        ):
            yield f"{names[node]!r} cannot run on {devices[device]!r}"
        elif device not in problem.allowed[node]:
            yield f"{names[node]!r} may not be placed on {devices[device]!r}"
    for device, (peak, capacity) in enumerate(zip(peaks, problem.capacity_nbytes, strict=True)):
        if capacity is not None and peak > capacity:
            yield f"{devices[device]!r} needs {peak} bytes and has {capacity}"
    for group in problem.colocated:
        if len({placed[node] for node in group}) > 1:
            yield f"{names[group[0]]!r} and its colocated nodes are on different devices"
    for one, other in problem.separated:
        at = {placed[node]: node for node in one}
        clash = next((node for node in other if placed[node] in at), None)
        if clash is not None:
            first = at[placed[clash]]
            yield f"{names[first]!r} and {names[clash]!r} share {devices[placed[clash]]!r}"
    if problem.contiguous and not ordered(problem, placed):
        yield "flows go back and forth between devices, so that these cannot be ordered"


def ordered(problem: Problem, placed: Sequence[int]) -> bool:
    """Whether the devices can be ordered so that no flow goes back."""
    return device_order(problem, placed) is not None


def device_order(problem: Problem, placed: Sequence[int]) -> list[int] | None:
    """The devices in an order in which no flow goes back; `None` if there is none."""
    after: list[set[int]] = [set() for _ in problem.devices]
    for first, second in problem.ordered_pairs():
        if placed[first] != placed[second]:
            after[placed[first]].add(placed[second])
    waiting = [sum(device in later for later in after) for device in range(len(after))]
    ready = [device for device, count in enumerate(waiting) if count == 0]
    order = []
    while ready:
        order.append(ready.pop())
        for device in after[order[-1]]:
            waiting[device] -= 1
            if waiting[device] == 0:
                ready.append(device)
    return order if len(order) == len(after) else None
