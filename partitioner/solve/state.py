"""An assignment under change: loads, memory and traffic kept up to date move by move."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, isfinite

import numpy as np

from partitioner.solve.contract import colocation_groups
from partitioner.solve.evaluate import backward_seconds, device_order, forward_seconds, switches
from partitioner.solve.problem import Problem

Matrix = tuple[tuple[float, ...], ...]


class Tables:
    """A problem arranged for quick recounts; shared by every `State` of one search.

    Attributes:
        groups: nodes that move together.
        choices: by group, the devices that all of its nodes may use, ascending.
        neighbours: by group, the groups at the other ends of its flows, ascending.
        interchangeable: classes of devices that can swap names without any change.
        heaviest: groups by their least work, the heaviest first.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        devices = range(len(problem.devices))
        self.groups = colocation_groups(problem)
        self.group_of = [0] * len(problem.nodes)
        for index, group in enumerate(self.groups):
            for node in group:
                self.group_of[node] = index
        self.seconds = [
            tuple(
                a + b
                for a, b in zip(
                    problem.forward_seconds[node], problem.backward_seconds[node], strict=True
                )
            )
            for node in range(len(problem.nodes))
        ]
        self.choices = [
            tuple(
                device
                for device in devices
                if all(
                    device in problem.allowed[node] and isfinite(self.seconds[node][device])
                    for node in group
                )
            )
            for group in self.groups
        ]
        travel = {
            nbytes: tuple(
                tuple(problem.transfer_seconds(a, b, nbytes) for b in devices) for a in devices
            )
            for nbytes in {
                nbytes for flow in problem.flows for nbytes in (flow.nbytes, flow.gradient_nbytes)
            }
        }
        self.forward_travel = [travel[flow.nbytes] for flow in problem.flows]
        self.backward_travel = [travel[flow.gradient_nbytes] for flow in problem.flows]
        self.incoming: list[list[tuple[int, Matrix]]] = [[] for _ in problem.nodes]
        self.gradients: list[list[tuple[int, Matrix]]] = [[] for _ in problem.nodes]
        self.flows_of: list[list[int]] = [[] for _ in problem.nodes]
        for index, flow in enumerate(problem.flows):
            self.flows_of[flow.source].append(index)
            for target in flow.targets:
                self.flows_of[target].append(index)
                self.incoming[target].append((flow.source, self.forward_travel[index]))
                if flow.gradient_nbytes:
                    self.gradients[flow.source].append((target, self.backward_travel[index]))
        self.holds_of: list[list[int]] = [[] for _ in problem.nodes]
        for index, hold in enumerate(problem.holds):
            for node in hold.nodes:
                self.holds_of[node].append(index)
        self.sides_of: list[list[tuple[int, int]]] = [[] for _ in problem.nodes]
        for index, sides in enumerate(problem.separated):
            for side, nodes in enumerate(sides):
                for node in nodes:
                    self.sides_of[node].append((index, side))
        neighbours: list[set[int]] = [set() for _ in self.groups]
        for flow in problem.flows:
            home = self.group_of[flow.source]
            for target in flow.targets:
                neighbours[home].add(self.group_of[target])
                neighbours[self.group_of[target]].add(home)
        self.neighbours = [tuple(sorted(near - {index})) for index, near in enumerate(neighbours)]
        self.trains = any(map(any, problem.backward_seconds)) or any(map(any, self.gradients))
        self.pairs_of: list[list[tuple[int, int]]] = [[] for _ in problem.nodes]
        if problem.contiguous:
            for pair in problem.ordered_pairs():
                self.pairs_of[pair[0]].append(pair)
                self.pairs_of[pair[1]].append(pair)
        self.interchangeable = interchangeable_devices(problem)
        weight = [
            min(
                (sum(self.seconds[node][device] for node in group) for device in choices), default=0
            )
            for group, choices in zip(self.groups, self.choices, strict=True)
        ]
        self.heaviest = sorted(range(len(self.groups)), key=lambda group: (-weight[group], group))

    def canonical(self, placed: Sequence[int], groups: Sequence[int]) -> list[int]:
        """The same assignment with equal devices renamed: the first groups enter them in turn."""
        entered = [placed[self.groups[group][0]] for group in groups]
        return self._renamed(placed, list(dict.fromkeys(entered)))

    def in_order(self, placed: Sequence[int]) -> list[int]:
        """The same assignment with equal devices renamed in the order that flows ask for."""
        return self._renamed(placed, device_order(self.problem, placed) or [])

    def _renamed(self, placed: Sequence[int], turns: Sequence[int]) -> list[int]:
        """Equal devices have their names in turn."""
        rename = list(range(len(self.problem.devices)))
        for devices in self.interchangeable:
            turn = [device for device in turns if device in devices]
            turn += [device for device in devices if device not in turn]
            for device, name in zip(turn, devices, strict=True):
                rename[device] = name
        return [rename[device] for device in placed]


def interchangeable_devices(problem: Problem) -> tuple[tuple[int, ...], ...]:
    """Classes of two and more devices that can swap names without any change."""
    devices = range(len(problem.devices))
    looks = [
        (
            tuple(row[device] for row in problem.forward_seconds),
            tuple(row[device] for row in problem.backward_seconds),
            tuple(device in allowed for allowed in problem.allowed),
            problem.capacity_nbytes[device],
            problem.pays(device),
        )
        for device in devices
    ]

    def equal(a: int, b: int) -> bool:
        swap = list(devices)
        swap[a], swap[b] = b, a
        return (
            looks[a] == looks[b]
            and all(
                table[d][e] == table[swap[d]][swap[e]]
                for table in (problem.latency_seconds, problem.seconds_per_byte)
                for d in devices
                for e in devices
                if d != e
            )
            and _equal_roads(problem, swap)
        )

    classes: list[list[int]] = []
    for device in devices:
        for known in classes:
            if all(equal(device, other) for other in known):
                known.append(device)
                break
        else:
            classes.append([device])
    return tuple(tuple(known) for known in classes if len(known) > 1)


def _equal_roads(problem: Problem, swap: Sequence[int]) -> bool:
    """Whether renaming the devices does no more to the roads than to rename their lanes."""
    there: dict[int, int] = {}
    back: dict[int, int] = {}
    for d, row in enumerate(problem.roads):
        for e, hops in enumerate(row):
            others = problem.roads[swap[d]][swap[e]]
            if len(hops) != len(others):
                return False
            for hop, other in zip(hops, others, strict=True):
                if (hop.latency_seconds, hop.seconds_per_byte, len(hop.lanes)) != (
                    other.latency_seconds,
                    other.seconds_per_byte,
                    len(other.lanes),
                ):
                    return False
                for lane, renamed in zip(hop.lanes, other.lanes, strict=True):
                    if there.setdefault(lane, renamed) != renamed:
                        return False
                    if back.setdefault(renamed, lane) != lane:
                        return False
    return True


class State:
    """Where every node is, with what that costs.

    `move` changes one group; `badness` tells how far from feasible it is, `objective` what it
    costs. Memory is exact at every program point. `moved` bytes cross in `moves` transfers, and
    `switches` nodes are elsewhere than the node before.
    """

    def __init__(self, tables: Tables, placed: Sequence[int]) -> None:
        self.tables = tables
        problem = tables.problem
        size = len(problem.devices)
        self.placed = list(placed)
        self.busy = [0.0] * size
        self.link = [[0.0] * size for _ in range(size)]
        self.lane = [0.0] * len(problem.lanes)
        self.moved = 0
        self.moves = 0
        self.switches = switches(placed)
        self.users = [[0] * size for _ in problem.flows]
        self.holders = [[0] * size for _ in problem.holds]
        self.held = np.zeros((size, problem.points), dtype=np.int64)
        self.order = [[0] * size for _ in range(size)]
        self.together = 0
        self.sides = [([0] * size, [0] * size) for _ in problem.separated]
        for node, device in enumerate(self.placed):
            self.busy[device] += tables.seconds[node][device]
            self._count_sides(node, device, 1)
        for index, flow in enumerate(problem.flows):
            for target in flow.targets:
                self.users[index][self.placed[target]] += 1
            self._count_flow(index, 1)
        for index, hold in enumerate(problem.holds):
            for node in hold.nodes:
                self.holders[index][self.placed[node]] += 1
            for device in range(size):
                if self.holders[index][device]:
                    self.held[device, hold.first : hold.last + 1] += hold.nbytes
        if problem.contiguous:
            for first, second in problem.ordered_pairs():
                self.order[self.placed[first]][self.placed[second]] += 1

    def _count_flow(self, index: int, sign: int) -> None:
        """Add or take away all that a flow costs where it is now."""
        problem = self.tables.problem
        flow = problem.flows[index]
        home = self.placed[flow.source]
        forward = self.tables.forward_travel[index][home]
        backward = self.tables.backward_travel[index]
        crossings = 0
        for device, users in enumerate(self.users[index]):
            if users and device != home:
                crossings += 1
                if problem.roads:
                    self._count_roads(home, device, flow.nbytes, sign * forward[device], sign)
                    there = sign * backward[device][home]
                    self._count_roads(device, home, flow.gradient_nbytes, there, sign)
                else:
                    self.link[home][device] += sign * forward[device]
                    self.link[device][home] += sign * backward[device][home]
                if flow.endpoint_seconds and problem.pays(device):
                    self.busy[device] += sign * flow.endpoint_seconds
        if crossings:
            self.moved += sign * crossings * (flow.nbytes + flow.gradient_nbytes)
            self.moves += sign * crossings * (flow.nbytes > 0)
            if flow.endpoint_seconds and problem.pays(home):
                self.busy[home] += sign * flow.endpoint_seconds

    def _count_roads(
        self, source: int, destination: int, nbytes: int, seconds: float, sign: int
    ) -> None:
        """Add or take away one transfer where pairs of devices share lanes."""
        hops = self.tables.problem.hops(source, destination) if nbytes else ()
        for hop in hops:
            for lane in hop.lanes:
                self.lane[lane] += sign * hop.seconds(nbytes)
        if not hops:
            self.link[source][destination] += seconds

    def _count_sides(self, node: int, device: int, sign: int) -> None:
        """Keep count of the devices on which two separated groups meet."""
        for index, side in self.tables.sides_of[node]:
            here, there = self.sides[index][side], self.sides[index][1 - side]
            here[device] += sign
            if there[device] and here[device] == (1 if sign > 0 else 0):
                self.together += sign

    def move(self, group: int, device: int) -> None:
        """Put all nodes of a group on a device."""
        for node in self.tables.groups[group]:
            self._move_node(node, device)

    def _move_node(self, node: int, device: int) -> None:
        tables = self.tables
        problem = tables.problem
        before = self.placed[node]
        if before == device:
            return
        self._count_sides(node, before, -1)
        self._count_sides(node, device, 1)
        for index in tables.flows_of[node]:
            self._count_flow(index, -1)
        for first, second in tables.pairs_of[node]:
            self.order[self.placed[first]][self.placed[second]] -= 1
        self.busy[before] -= tables.seconds[node][before]
        self.busy[device] += tables.seconds[node][device]
        for near in self.placed[max(0, node - 1) : node] + self.placed[node + 1 : node + 2]:
            self.switches += (near != device) - (near != before)
        self.placed[node] = device
        for index in tables.flows_of[node]:
            if problem.flows[index].source != node:
                users = self.users[index]
                users[before] -= 1
                users[device] += 1
            self._count_flow(index, 1)
        for first, second in tables.pairs_of[node]:
            self.order[self.placed[first]][self.placed[second]] += 1
        for index in tables.holds_of[node]:
            holders, hold = self.holders[index], problem.holds[index]
            holders[before] -= 1
            if not holders[before]:
                self.held[before, hold.first : hold.last + 1] -= hold.nbytes
            if not holders[device]:
                self.held[device, hold.first : hold.last + 1] += hold.nbytes
            holders[device] += 1

    def badness(self) -> tuple[int, int]:
        """Broken rules, and bytes beyond the devices' memory; `(0, 0)` when feasible."""
        excess = 0
        for peak, capacity in zip(
            self.held.max(axis=1).tolist(), self.tables.problem.capacity_nbytes, strict=True
        ):
            if capacity is not None and peak > capacity:
                excess += peak - capacity
        broken = self.together
        if self.tables.problem.contiguous and not self._devices_in_order():
            broken += 1
        return broken, excess

    def objective(self) -> float:
        """As `evaluate` counts it, up to rounding."""
        match self.tables.problem.objective:
            case "latency" if self.tables.problem.roads:
                problem = self.tables.problem
                forward = forward_seconds(problem, self.placed)
                return forward + backward_seconds(problem, self.placed)
            case "latency":
                return self._forward() + (self._backward() if self.tables.trains else 0.0)
            case "throughput":
                return max(max(self.busy), max(map(max, self.link)), *self.lane)
            case _:
                shares = [
                    peak / capacity if capacity else (inf if peak else 0.0)
                    for peak, capacity in zip(
                        self.held.max(axis=1).tolist(),
                        self.tables.problem.capacity_nbytes,
                        strict=True,
                    )
                    if capacity is not None
                ]
                return max(shares, default=0.0)

    def smooth(self) -> float:
        """A guide where `objective` is flat: how uneven the loads are."""
        match self.tables.problem.objective:
            case "latency":
                return 0.0
            case "throughput":
                return sum(
                    load * load for row in (self.busy, *self.link, self.lane) for load in row
                )
            case _:
                return float(
                    sum(
                        (peak / capacity) ** 2
                        for peak, capacity in zip(
                            self.held.max(axis=1).tolist(),
                            self.tables.problem.capacity_nbytes,
                            strict=True,
                        )
                        if capacity
                    )
                )

    def _forward(self) -> float:
        placed, tables = self.placed, self.tables
        free = [0.0] * len(self.busy)
        finish = [0.0] * len(placed)
        for node, device in enumerate(placed):
            start = free[device]
            for source, travel in tables.incoming[node]:
                arrival = finish[source] + travel[placed[source]][device]
                if arrival > start:
                    start = arrival
            finish[node] = free[device] = start + tables.problem.forward_seconds[node][device]
        return max(free)

    def _backward(self) -> float:
        placed, tables = self.placed, self.tables
        free = [0.0] * len(self.busy)
        finish = [0.0] * len(placed)
        for node in range(len(placed) - 1, -1, -1):
            device = placed[node]
            start = free[device]
            for target, travel in tables.gradients[node]:
                arrival = finish[target] + travel[placed[target]][device]
                if arrival > start:
                    start = arrival
            finish[node] = free[device] = start + tables.problem.backward_seconds[node][device]
        return max(free)

    def _devices_in_order(self) -> bool:
        order = self.order
        left = list(range(len(order)))
        while left:
            first = next(
                (
                    device
                    for device in left
                    if not any(order[other][device] for other in left if other != device)
                ),
                None,
            )
            if first is None:
                return False
            left.remove(first)
        return True
