r"""The integer programme, as PuLP writes it and HiGHS (or CBC) solves it.

Groups `g` of nodes that move together, devices `d, e`, flows `f` with source `s` and targets `t`,
holds `h`, program points `p`. `x[g,d] = 1` puts group `g` on device `d`. All seconds are divided by
the largest one, so that the solver's tolerances mean the same for microseconds and for seconds.

    minimise  L                                                                  -> Programme

    every group on exactly one device
        sum_d x[g,d] = 1                                                -> add_one_device_each
    separated sets A, B of groups (u as below)
        u[A,d] + u[B,d] <= 1                                            -> add_separation
    devices in an order `o[d,e]` that no watched pair g, h goes against; among interchangeable
    ones (`d` and those after it, `e` and those before it) it is that of their names
        sum_{d' >= d} x[g,d'] + sum_{e' <= e} x[h,e'] <= 1 + o[d,e]     -> add_order
        o[d,e] + o[e,d] = 1,   o[d,e] + o[e,c] - o[d,c] <= 1
    interchangeable devices are entered in turn by the heaviest groups
        x[g_i, d_j] = 0  for  j > i                                     -> add_symmetry_breaking
    a flow crosses to a device that has a target of it and not its source
        y[f,e] >= x[t,e] - x[s,e]                                       -> add_crossings
    memory: a hold is on each device that has one of its nodes
        u[h,d] >= x[g,d]  for g in h                                    -> add_memory
        sum_{h at p} nbytes[h] u[h,d] <= capacity[d]       (memory: <= capacity[d] L)
    throughput: no device and no link is busy for longer than L
        sum_g seconds[g,d] x[g,d] + sum_f endpoint[f] (y[f,d] + v[f,d]) <= L
                                                                        -> add_device_loads
        v[f,d] >= x[s,d] - x[t,d]
        sum_f travel[f,d,e] z[f,d,e] + travel'[f,d,e] z[f,e,d] <= L     -> add_link_loads
        z[f,d,e] >= y[f,e] + x[s,d] - 1,   sum_d z[f,d,e] >= y[f,e]
        and for a lane the same over all hops that take it                -> add_lane_loads
    latency: in each phase, nodes start when their inputs are there and their device is free
        end[i] >= end[s] + seconds[i] + travel[s,i]                     -> add_phase
        travel[s,i] = sum_{d,e} travel[d,e] w[s,i,d,e]                  -> add_travel
            sum_e w[s,i,d,e] = x[s,d],   sum_d w[s,i,d,e] = x[i,e]
            (equal links:  travel * sum_e w[s,i,e],   w[s,i,e] >= x[i,e] - x[s,e])
        free[d,i] >= free[d,i-1] + seconds[i,d] x[i,d]
        end[i] >= free[d,i-1] + seconds[i] - M (1 - x[i,d])
        free[d,i] >= end[i] - M' (1 - x[i,d])
        L >= forward + backward,   phase >= end[i] + tail[i],   phase >= free[d,last]
      on lanes, transfers queue in the order of the nodes                 -> add_queue
        a[f,t,d,e] = 1  where t is the first target of f on e, and s on d
        hop >= its start + seconds - M (1 - a)   (and its start from free[lane])
        free'[lane] >= free[lane] + seconds a,   free'[lane] >= hop - M (1 - a)

`M` and `M'` come from the best plan known: no plan that is better runs for longer. The rows of
memory enter when a plan breaks them, the fullest points first.

Ties: with `L` held at its best value, the same rows with another aim.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from math import inf, isfinite
from types import FrameType
from typing import Any

import pulp

from partitioner.errors import SolverError
from partitioner.solve.bounds import earliest
from partitioner.solve.evaluate import peak_nbytes
from partitioner.solve.state import Matrix, Tables

highspy: Any
try:
    import highspy
except ImportError:  # CBC comes with PuLP
    highspy = None

GAP = 1e-9
"""Absolute and relative, on costs divided by the largest one."""
TOLERANCES = (1e-8, 1e-9, 1e-6)
"""Of rows and integrality. HiGHS at times reports a fault, or that nothing is feasible although a
plan is known, with one of them and not with another (presolve compares slacks with tolerances);
where it does so with all of them, `L` is left without a limit."""
SILENT_SECONDS, LATE_SECONDS = 60.0, 5.0
"""Of this process's CPU time: HiGHS 1.16 may go round for ever in its presolve, deaf to limits. A
run that has not asked for so long whether to stop, or for the second when its time is up, is left
to itself, as a fault."""
LISTEN_SECONDS = 0.5
"""After which a run is looked at again."""
FIRST_POINTS = 24
"""So many of the fullest program points have their memory rows from the start."""
ROUNDING = 1e-7
"""Relative slack of the limits on `L`: more than the tolerance of its rows."""


class Aim(Enum):
    """What to minimise."""

    OBJECTIVE = "objective"
    MOVED = "bytes moved, the objective held at its best"
    MOVES = "transfers, objective and bytes held at their best"
    EXCESS = "bytes beyond the devices' memory"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the solver came back with.

    Attributes:
        placed: the best assignment it found, by node; `None` without one.
        bound: of the aim, in the problem's units; `inf` when it proved that nothing is feasible.
        complete: it ended by itself rather than at a limit.
        solver: name and version.
    """

    placed: tuple[int, ...] | None
    bound: float
    complete: bool
    solver: str


@dataclass(frozen=True, slots=True)
class Limits:
    """When to stop.

    Attributes:
        deadline: in `time.monotonic()` seconds, or `None`.
        effort: how often the solver may come up for air; the same for the same problem on any
            machine, unlike seconds. `None` is without limit.
        until: in `time.monotonic()` seconds: it may go on for so long when its effort is spent.
        seed: of the solver's own randomness.
        known: a value that some assignment reaches, `inf` if unknown.
        floor: a value that none is below.
        moved_nbytes: no more bytes may move than these.
    """

    deadline: float | None = None
    effort: int | None = None
    until: float | None = None
    seed: int = 0
    known: float = inf
    floor: float = 0.0
    moved_nbytes: int | None = None

    def may_go_on(self) -> bool:
        """Whether there is time beyond the effort."""
        return self.until is not None and time.monotonic() < self.until


class Interrupted(Exception):
    """Ctrl-C reached the solver; carries what it had."""

    def __init__(self, answer: Answer) -> None:
        super().__init__("interrupted")
        self.answer = answer


class Programme:
    """One integer programme over a problem's tables.

    `only` names the one device that `Aim.EXCESS` may give more memory.
    """

    def __init__(
        self,
        tables: Tables,
        aim: Aim = Aim.OBJECTIVE,
        limits: Limits | None = None,
        *,
        only: int | None = None,
    ) -> None:
        self.only = only
        self.tables = tables
        self.problem = tables.problem
        self.aim = aim
        self.limits = limits or Limits()
        self.unit = _largest_seconds(tables) if self.problem.objective != "memory" else 1.0
        self.lp = pulp.LpProblem("placement", pulp.LpMinimize)
        self.points: set[int] = set()
        held = self.limits.known * (1 + ROUNDING) if isfinite(self.limits.known) else None
        self.value = self.lp.add_variable(
            "L",
            max(0.0, self.limits.floor * (1 - ROUNDING)) / self.unit,
            None if held is None else held / self.unit * (1 + ROUNDING),
        )
        self.x: dict[tuple[int, int], Any] = {}
        self.crossing: dict[tuple[int, int], Any] = {}
        self.hold: dict[tuple[tuple[int, ...], int], Any] = {}
        self.apart: dict[tuple[int, int], Any] = {}
        self.between: dict[tuple[int, int, int], Any] = {}
        self.first: dict[tuple[int, int, int, int], Any] = {}
        self.both: dict[tuple[int, int], dict[tuple[int, int], Any]] = {}
        self.excess: list[Any] = []
        add_one_device_each(self)
        add_separation(self)
        if self.problem.contiguous:
            add_order(self)
        elif only is None:
            add_symmetry_breaking(self)
        if aim is Aim.EXCESS:
            add_excess(self)
        add_memory(self, self._first_points())
        if aim is not Aim.EXCESS:
            self._add_objective()
        self.lp.setObjective(self._goal())

    def _add_objective(self) -> None:
        match self.problem.objective:
            case "throughput":
                add_device_loads(self)
                add_link_loads(self)
                add_lane_loads(self)
            case "latency":
                add_phases(self)
            case _:
                pass
        if self.aim is Aim.MOVES and self.limits.moved_nbytes is not None:
            self.row(self._moved() <= self.limits.moved_nbytes / self._bytes_unit(), "moved")

    def _goal(self) -> Any:
        match self.aim:
            case Aim.OBJECTIVE:
                return self.value + 0
            case Aim.MOVED:
                return self._moved() + 0 * self.value
            case Aim.MOVES:
                return 0 * self.value + pulp.lpSum(
                    self.crosses(index, device)
                    for index, flow in enumerate(self.problem.flows)
                    if flow.nbytes
                    for device in range(len(self.problem.devices))
                )
            case Aim.EXCESS:
                return pulp.lpSum(self.excess)

    def _bytes_unit(self) -> int:
        return max((f.nbytes + f.gradient_nbytes for f in self.problem.flows), default=0) or 1

    def _moved(self) -> Any:
        unit = self._bytes_unit()
        return pulp.lpSum(
            (flow.nbytes + flow.gradient_nbytes) / unit * self.crosses(index, device)
            for index, flow in enumerate(self.problem.flows)
            if flow.nbytes + flow.gradient_nbytes
            for device in range(len(self.problem.devices))
        )

    def _first_points(self) -> list[int]:
        held = [0] * (self.problem.points + 1)
        for hold in self.problem.holds:
            held[hold.first] += hold.nbytes
            held[hold.last + 1] -= hold.nbytes
        total = 0
        totals = []
        for point, change in enumerate(held[:-1]):
            total += change
            totals.append((-total, point))
        return [point for _, point in sorted(totals)[:FIRST_POINTS]]

    def on(self, node: int, device: int) -> Any:
        """The variable that puts a node on a device; 0 where it may not be."""
        return self.x.get((self.tables.group_of[node], device), 0)

    def row(self, constraint: Any, name: str) -> None:
        """Add a row; one without variables must hold by itself, or nothing is feasible."""
        if isinstance(constraint, bool):
            if constraint:
                return
            constraint = 0 * self.value >= 1
        self.lp.addConstraint(constraint, name)

    def crosses(self, index: int, device: int) -> Any:
        """The variable that tells whether a flow crosses to a device; made when first asked for."""
        if (index, device) not in self.crossing:
            add_crossings(self, index, device)
        return self.crossing[index, device]

    def groups_of(self, nodes: Sequence[int]) -> tuple[int, ...]:
        """The groups that nodes belong to, ascending."""
        return tuple(sorted({self.tables.group_of[node] for node in nodes}))

    def solve(self, start: Sequence[int] | None = None) -> Answer:
        """Minimise; memory rows that the answer breaks are added until none is."""
        deadline = self.limits.deadline
        effort = self.limits.effort
        if start is not None and self.problem.contiguous:
            start = self.tables.in_order(start)
        while True:
            left = None if deadline is None else max(0.05, deadline - time.monotonic())
            raw, interrupted, breaths = _run(self, start, left, effort)
            placed = raw.placed
            broken = self._broken_points(placed) if placed is not None else []
            if interrupted:
                found = None if broken else placed
                raise Interrupted(Answer(found, raw.bound, False, raw.solver))
            if not broken:
                return raw
            add_memory(self, broken)
            effort = None if effort is None else effort - breaths
            out_of_time = deadline is not None and time.monotonic() >= deadline
            spent = effort is not None and effort <= 0 and not self.limits.may_go_on()
            if not raw.complete or out_of_time or spent:
                return Answer(None, raw.bound, False, raw.solver)

    def _broken_points(self, placed: Sequence[int]) -> list[int]:
        """The point at which each device is fullest, where that has no row yet and is too full."""
        return [
            point
            for point in fullest_points(self.tables, placed)
            if point not in self.points and self._tells(point, placed)
        ]

    def _tells(self, point: int, placed: Sequence[int]) -> bool:
        if self.problem.objective == "memory" or self.aim is Aim.EXCESS:
            return True
        peaks = peak_nbytes(self.problem, placed)
        return any(
            capacity is not None and peak > capacity
            for peak, capacity in zip(peaks, self.problem.capacity_nbytes, strict=True)
        )


def fullest_points(tables: Tables, placed: Sequence[int]) -> list[int]:
    """By device with a limit, the first point at which it holds most; ascending, each once."""
    problem = tables.problem
    found = set()
    for device, capacity in enumerate(problem.capacity_nbytes):
        if capacity is None:
            continue
        change = [0] * (problem.points + 1)
        for hold in problem.holds:
            if any(placed[node] == device for node in hold.nodes):
                change[hold.first] += hold.nbytes
                change[hold.last + 1] -= hold.nbytes
        held = peak = 0
        at = 0
        for point, step in enumerate(change):
            held += step
            if held > peak:
                peak, at = held, point
        found.add(at)
    return sorted(found)


def add_one_device_each(programme: Programme) -> None:
    """sum_d x[g,d] = 1."""
    for group, choices in enumerate(programme.tables.choices):
        for device in choices:
            programme.x[group, device] = programme.lp.add_variable(
                f"x_{group}_{device}", 0, 1, "Integer"
            )
        programme.row(
            pulp.lpSum(programme.x[group, device] for device in choices) == 1, f"one_{group}"
        )


def add_separation(programme: Programme) -> None:
    """u[A,d] + u[B,d] <= 1."""
    for index, (one, other) in enumerate(programme.problem.separated):
        for device in range(len(programme.problem.devices)):
            programme.row(
                held_on(programme, programme.groups_of(one), device)
                + held_on(programme, programme.groups_of(other), device)
                <= 1,
                f"apart_{index}_{device}",
            )


def add_order(programme: Programme) -> None:
    """Where a watched pair may be, and a strict total order `o` of the devices.

    Interchangeable devices come in the order of their names.
    """
    devices = range(len(programme.problem.devices))
    kinds = list(programme.tables.interchangeable) if programme.only is None else []
    alike = {device: kind for kind in kinds for device in kind}
    kinds += [(device,) for device in devices if device not in alike]
    before: dict[tuple[int, int], Any] = {}
    for first in devices:
        for second in range(first + 1, len(devices)):
            before[first, second] = (
                1
                if second in alike.get(first, ())
                else programme.lp.add_variable(f"o_{first}_{second}", 0, 1, "Integer")
            )
            before[second, first] = 1 - before[first, second]
    for a in devices:
        for b in devices:
            for c in devices:
                if a < b and a < c and b != c:
                    programme.row(
                        before[a, b] + before[b, c] + before[c, a] <= 2, f"circle_{a}_{b}_{c}"
                    )
    group_of = programme.tables.group_of
    pairs = dict.fromkeys(
        (group_of[first], group_of[second])
        for first, second in programme.problem.ordered_pairs()
        if group_of[first] != group_of[second]
    )
    ends = [
        (one[place:], other[: there + 1])
        for one in kinds
        for other in kinds
        for place in range(len(one))
        for there in range(len(other))
        if one != other or place == there + 1
    ]
    x = programme.x
    for first, second in pairs:
        for late, early in ends:
            here = [x[first, device] for device in late if (first, device) in x]
            there = [x[second, device] for device in early if (second, device) in x]
            if here and there:
                d, e = late[0], early[-1]
                programme.row(
                    pulp.lpSum([*here, *there]) <= 1 + before[d, e],
                    f"order_{first}_{second}_{d}_{e}",
                )


def add_symmetry_breaking(programme: Programme) -> None:
    """x[g_i, d_j] = 0 for j > i, over the groups by weight and each class of equal devices."""
    for devices in programme.tables.interchangeable:
        for place, group in enumerate(programme.tables.heaviest[: len(devices)]):
            for device in devices[place + 1 :]:
                if (group, device) in programme.x:
                    programme.x[group, device].bounds(0, 0)


def add_crossings(programme: Programme, index: int, device: int) -> None:
    """y[f,e] >= x[t,e] - x[s,e]."""
    flow = programme.problem.flows[index]
    crossing = programme.lp.add_variable(f"y_{index}_{device}", 0, 1)
    programme.crossing[index, device] = crossing
    home = programme.tables.group_of[flow.source]
    for group in programme.groups_of(flow.targets):
        if group != home and (group, device) in programme.x:
            programme.row(
                crossing >= programme.x[group, device] - programme.on(flow.source, device),
                f"cross_{index}_{group}_{device}",
            )


def add_excess(programme: Programme) -> None:
    """Each device with a limit, or only one of them, may be given more at the price of the aim."""
    for device, capacity in enumerate(programme.problem.capacity_nbytes):
        if capacity is not None and programme.only in (None, device):
            programme.excess.append(programme.lp.add_variable(f"more_{device}", 0))
        else:
            programme.excess.append(0)


def memory_unit(programme: Programme) -> int:
    """Bytes that count as 1 in the rows of memory."""
    return max((hold.nbytes for hold in programme.problem.holds), default=0) or 1


def add_memory(programme: Programme, points: Sequence[int]) -> None:
    """u[h,d] >= x[g,d];  sum_{h at p} nbytes[h] u[h,d] <= capacity[d], or capacity[d] L."""
    problem = programme.problem
    unit = memory_unit(programme)
    limited = [
        (device, capacity)
        for device, capacity in enumerate(problem.capacity_nbytes)
        if capacity is not None
    ]
    for point in points:
        if point in programme.points:
            continue
        programme.points.add(point)
        active: dict[tuple[int, ...], int] = {}
        for hold in problem.holds:
            if hold.first <= point <= hold.last:
                key = programme.groups_of(hold.nodes)
                active[key] = active.get(key, 0) + hold.nbytes
        total = sum(active.values())
        for device, capacity in limited:
            if (
                total <= capacity
                and problem.objective != "memory"
                and programme.aim is not Aim.EXCESS
            ):
                continue
            held = pulp.lpSum(
                nbytes / unit * held_on(programme, groups, device)
                for groups, nbytes in active.items()
            )
            name = f"memory_{point}_{device}"
            if programme.aim is Aim.EXCESS:
                programme.row(held <= capacity / unit + programme.excess[device], name)
                continue
            if problem.objective == "memory":
                programme.row(held <= capacity / unit * programme.value, f"share_{point}_{device}")
            if total > capacity:
                programme.row(held <= capacity / unit, name)


def held_on(programme: Programme, groups: tuple[int, ...], device: int) -> Any:
    """u[h,d]: whether any of these groups is on the device; shared by equal sets of groups."""
    if len(groups) == 1:
        return programme.x.get((groups[0], device), 0)
    if (groups, device) not in programme.hold:
        held = programme.lp.add_variable(f"u_{len(programme.hold)}", 0, 1)
        programme.hold[groups, device] = held
        for group in groups:
            if (group, device) in programme.x:
                programme.row(held >= programme.x[group, device], f"held_{held.name[2:]}_{group}")
    return programme.hold[groups, device]


def add_device_loads(programme: Programme) -> None:
    """sum_g seconds[g,d] x[g,d] + sum_f endpoint[f] (y[f,d] + v[f,d]) <= L."""
    tables, problem = programme.tables, programme.problem
    for device in range(len(problem.devices)):
        terms = [
            sum(tables.seconds[node][device] for node in group)
            / programme.unit
            * programme.x[index, device]
            for index, group in enumerate(tables.groups)
            if (index, device) in programme.x
        ]
        if problem.pays(device):
            for index, flow in enumerate(problem.flows):
                if flow.endpoint_seconds:
                    price = flow.endpoint_seconds / programme.unit
                    terms.append(price * programme.crosses(index, device))
                    terms.append(price * leaves(programme, index, device))
        programme.row(pulp.lpSum(terms) <= programme.value, f"load_{device}")


def leaves(programme: Programme, index: int, device: int) -> Any:
    """v[f,d] >= x[s,d] - x[t,d]: whether a flow crosses from a device."""
    flow = programme.problem.flows[index]
    leaving = programme.lp.add_variable(f"v_{index}_{device}", 0, 1)
    home = programme.tables.group_of[flow.source]
    for group in programme.groups_of(flow.targets):
        if group != home and (home, device) in programme.x:
            programme.row(
                leaving >= programme.x[home, device] - programme.x.get((group, device), 0),
                f"leave_{index}_{group}_{device}",
            )
    return leaving


def add_link_loads(programme: Programme) -> None:
    """sum_f travel[f,d,e] z[f,d,e] + travel'[f,d,e] z[f,e,d] <= L.

    Links that can never be busy for that long stay out.
    """
    problem, tables = programme.problem, programme.tables
    devices = range(len(problem.devices))
    for d in devices:
        for e in devices:
            possible = sum(travel[d][e] for travel in tables.forward_travel)
            possible += sum(travel[d][e] for travel in tables.backward_travel)
            if d == e or problem.hops(d, e) or possible <= programme.limits.floor:
                continue
            terms = []
            for index in range(len(problem.flows)):
                for table, ends in (
                    (tables.forward_travel, (d, e)),
                    (tables.backward_travel, (e, d)),
                ):
                    if table[index][d][e]:
                        crossing = between(programme, index, *ends)
                        terms.append(table[index][d][e] / programme.unit * crossing)
            programme.row(pulp.lpSum(terms) <= programme.value, f"link_{d}_{e}")


def add_lane_loads(programme: Programme) -> None:
    """sum_f seconds[hop] z[f,d,e] + seconds'[hop] z[f,e,d] <= L, over all hops of a lane."""
    problem = programme.problem
    terms: list[list[Any]] = [[] for _ in problem.lanes]
    for index, flow in enumerate(problem.flows):
        for d, row in enumerate(problem.roads):
            for e, hops in enumerate(row):
                for nbytes, ends in ((flow.nbytes, (d, e)), (flow.gradient_nbytes, (e, d))):
                    for hop in hops if nbytes else ():
                        seconds = hop.seconds(nbytes) / programme.unit
                        for lane in hop.lanes if seconds else ():
                            terms[lane].append(seconds * between(programme, index, *ends))
    for lane, loads in enumerate(terms):
        programme.row(pulp.lpSum(loads) <= programme.value, f"lane_{lane}")


def between(programme: Programme, index: int, source: int, destination: int) -> Any:
    """z[f,d,e] >= y[f,e] + x[s,d] - 1; made when first asked for."""
    key = index, source, destination
    if key not in programme.between:
        crossing = programme.lp.add_variable(f"z_{index}_{source}_{destination}", 0, 1)
        home = programme.on(programme.problem.flows[index].source, source)
        programme.row(
            crossing >= programme.crosses(index, destination) + home - 1,
            f"between_{index}_{source}_{destination}",
        )
        programme.between[key] = crossing
    return programme.between[key]


def add_phases(programme: Programme) -> None:
    """L >= forward + backward."""
    tables, problem = programme.tables, programme.problem
    nodes = range(len(problem.nodes))
    phases = [("f", problem.forward_seconds, tables.incoming, nodes)]
    if tables.trains:
        phases.append(("b", problem.backward_seconds, tables.gradients, nodes[::-1]))
    heads = [earliest(tables, seconds, arrivals, order) for _, seconds, arrivals, order in phases]
    least = [max((min(row) for row in head), default=0.0) for head in heads]
    longest = min(programme.limits.known * (1 + 2 * ROUNDING), _longest_schedule(tables))
    ends = []
    for place, (letter, seconds, arrivals, order) in enumerate(phases):
        horizon = longest - (sum(least) - least[place])
        ends.append(add_phase(programme, letter, seconds, arrivals, order, heads[place], horizon))
    programme.row(programme.value >= pulp.lpSum(ends), "latency")


def add_phase(
    programme: Programme,
    letter: str,
    seconds: Matrix,
    arrivals: Sequence[Sequence[tuple[int, Matrix]]],
    order: Sequence[int],
    heads: Sequence[Sequence[float]],
    horizon: float,
) -> Any:
    """The phase's end, with the rows that make every node wait for its inputs and its device."""
    tables, unit = programme.tables, programme.unit
    devices = range(len(programme.problem.devices))
    tails = _tails(tables, seconds, arrivals, order)
    phase = programme.lp.add_variable(f"{letter}", 0)
    ends: dict[int, Any] = {}
    free: dict[int, Any] = {device: 0 for device in devices}
    queue = Queue(programme, letter, horizon)
    for node in order:
        group = tables.group_of[node]
        choices = tables.choices[group]
        runs = pulp.lpSum(
            seconds[node][device] / unit * programme.x[group, device] for device in choices
        )
        soonest = min(heads[node])
        begin = min(heads[node][device] - seconds[node][device] for device in choices)
        slack = max(0.0, horizon - begin) / unit
        end = ends[node] = programme.lp.add_variable(f"{letter}_{node}", soonest / unit)
        if not arrivals[node]:
            programme.row(end >= runs, f"{letter}_run_{node}")
        for place, (source, travel) in enumerate(arrivals[node]):
            programme.row(
                end >= ends[source] + runs + add_travel(programme, source, node, travel),
                f"{letter}_wait_{node}_{source}_{place}",
            )
        queue.before(node, end, runs, ends)
        for device in choices:
            here = programme.x[group, device]
            run = seconds[node][device] / unit
            before = free[device]
            after = programme.lp.add_variable(f"{letter}_free_{node}_{device}", 0)
            programme.row(after >= before + run * here, f"{letter}_busy_{node}_{device}")
            programme.row(
                end >= before + runs - slack * (1 - here), f"{letter}_turn_{node}_{device}"
            )
            latest = max(0.0, horizon - tails[node]) / unit
            programme.row(after >= end - latest * (1 - here), f"{letter}_hold_{node}_{device}")
            free[device] = after
        queue.after(node, end)
        programme.row(phase >= end + tails[node] / unit, f"{letter}_last_{node}")
    for device in devices:
        programme.row(phase >= free[device], f"{letter}_end_{device}")
    return phase


class Queue:
    """The transfers of one phase on lanes, as `evaluate.Lanes` sends them.

    In the forward a node's transfers leave `after` it, and its inputs have arrived `before` it; in
    the backward its gradients are sent on `before` it.
    """

    def __init__(self, programme: Programme, letter: str, horizon: float) -> None:
        problem = programme.problem
        self.programme = programme
        self.letter = letter
        self.horizon = max(0.0, horizon) / programme.unit
        self.free: list[Any] = [0] * len(problem.lanes)
        self.arrivals: dict[int, list[tuple[Any, int, int]]] = {}
        self.pairs = [
            (d, e) for d, row in enumerate(problem.roads) for e, hops in enumerate(row) if hops
        ]
        self.leaving: dict[int, list[int]] = {}
        for index, flow in enumerate(problem.flows if self.pairs else ()):
            self.leaving.setdefault(flow.source, []).append(index)

    def before(self, node: int, end: Any, runs: Any, ends: Mapping[int, Any]) -> None:
        """A node waits for what arrives where it is: end >= arrival + runs - M (1 - x)."""
        programme = self.programme
        if self.letter == "b":
            for index in reversed(self.leaving.get(node, ())):
                flow = programme.problem.flows[index]
                for place in reversed(range(len(flow.targets))) if flow.gradient_nbytes else ():
                    self._send(index, place, flow.gradient_nbytes, ends)
        for number, (arrival, placed, device) in enumerate(self.arrivals.pop(node, ())):
            programme.row(
                end >= arrival + runs - self.horizon * (1 - programme.on(placed, device)),
                f"{self.letter}_await_{node}_{number}",
            )

    def after(self, node: int, end: Any) -> None:
        """The values that leave a node, each once for every device, by its first target there."""
        if self.letter == "f":
            for index in self.leaving.get(node, ()):
                flow = self.programme.problem.flows[index]
                for place in range(len(flow.targets)) if flow.nbytes else ():
                    self._send(index, place, flow.nbytes, {node: end})

    def _send(self, index: int, place: int, nbytes: int, ends: Mapping[int, Any]) -> None:
        """What crosses for the sake of one target, where that is the first on its device."""
        programme, problem = self.programme, self.programme.problem
        flow, forward = problem.flows[index], self.letter == "f"
        name = f"{self.letter}_{index}_{place}"
        held: dict[int, list[tuple[Any, Any, float]]] = {}
        for d, e in self.pairs:
            home, away = (d, e) if forward else (e, d)
            first = first_there(programme, index, place, home, away)
            if first is None:
                continue
            ready = [(ends[flow.source], first)] if forward else [
                (ends[reader], first + programme.on(reader, away) - 1)
                for reader in flow.targets[place:]
            ]  # fmt: skip
            for number, hop in enumerate(problem.hops(d, e)):
                seconds = hop.seconds(nbytes) / programme.unit
                there = programme.lp.add_variable(f"a_{name}_{d}_{e}_{number}", 0)
                ready += [(self.free[lane], first) for lane in hop.lanes]
                for turn, (start, sure) in enumerate(ready):
                    programme.row(
                        there >= start + seconds - (self.horizon + seconds) * (1 - sure),
                        f"hop_{name}_{d}_{e}_{number}_{turn}",
                    )
                for lane in hop.lanes:
                    held.setdefault(lane, []).append((there, first, seconds))
                ready = [(there, first)]
            for reader in flow.targets[place:] if forward else [flow.source]:
                self.arrivals.setdefault(reader, []).append(
                    (there, reader, away if forward else home)
                )
        for lane, transfers in held.items():
            after = programme.lp.add_variable(f"lane_{name}_{lane}", 0)
            for number, (there, first, seconds) in enumerate(transfers):
                programme.row(
                    after >= self.free[lane] + seconds * first, f"take_{name}_{lane}_{number}"
                )
                programme.row(
                    after >= there - self.horizon * (1 - first), f"keep_{name}_{lane}_{number}"
                )
            self.free[lane] = after


def first_there(programme: Programme, index: int, place: int, home: int, away: int) -> Any | None:
    """a[f,t,d,e] >= x[s,d] + x[t,e] - 1 - sum of x[u,e] over the targets u before t.

    `None` where that can never be 1.
    """
    flow = programme.problem.flows[index]
    group_of = programme.tables.group_of
    source, target = group_of[flow.source], group_of[flow.targets[place]]
    earlier = programme.groups_of(flow.targets[:place])
    x = programme.x
    if (source, home) not in x or (target, away) not in x or target in (source, *earlier):
        return None
    key = index, place, home, away
    if key not in programme.first:
        first = programme.lp.add_variable(f"first_{index}_{place}_{home}_{away}", 0, 1)
        before = pulp.lpSum(x[group, away] for group in earlier if (group, away) in x)
        programme.row(
            first >= x[source, home] + x[target, away] - 1 - before,
            f"first_{index}_{place}_{home}_{away}",
        )
        programme.first[key] = first
    return programme.first[key]


def add_travel(programme: Programme, source: int, target: int, travel: Matrix) -> Any:
    """Seconds between two nodes: travel[d,e] where the first is on d and the second on e."""
    first, second = programme.tables.group_of[source], programme.tables.group_of[target]
    devices = range(len(travel))
    prices = {travel[d][e] for d in devices for e in devices if d != e}
    if first == second or not prices or prices == {0.0}:
        return 0
    if first > second:
        first, second = second, first
        travel = tuple(zip(*travel, strict=True))
    if len(prices) == 1:
        return prices.pop() / programme.unit * apart(programme, first, second)
    return pulp.lpSum(
        travel[d][e] / programme.unit * both
        for (d, e), both in at_once(programme, first, second).items()
        if travel[d][e]
    )


def apart(programme: Programme, first: int, second: int) -> Any:
    """sum_e w[s,i,e]: 1 when two groups are on different devices."""
    x = programme.x
    if (first, second) not in programme.apart:
        parts = []
        for device in programme.tables.choices[second]:
            part = programme.lp.add_variable(f"w_{first}_{second}_{device}", 0, 1)
            programme.row(
                part >= x[second, device] - x.get((first, device), 0),
                f"part_{first}_{second}_{device}",
            )
            parts.append(part)
        programme.apart[first, second] = pulp.lpSum(parts)
    return programme.apart[first, second]


def at_once(programme: Programme, first: int, second: int) -> dict[tuple[int, int], Any]:
    """w[s,i,d,e]: 1 when the first group is on `d` and the second on `e`."""
    if (first, second) not in programme.both:
        choices = programme.tables.choices
        both = {
            (d, e): programme.lp.add_variable(f"w_{first}_{second}_{d}_{e}", 0, 1)
            for d in choices[first]
            for e in choices[second]
        }
        for d in choices[first]:
            programme.row(
                pulp.lpSum(both[d, e] for e in choices[second]) == programme.x[first, d],
                f"from_{first}_{second}_{d}",
            )
        for e in choices[second]:
            programme.row(
                pulp.lpSum(both[d, e] for d in choices[first]) == programme.x[second, e],
                f"to_{first}_{second}_{e}",
            )
        programme.both[first, second] = both
    return programme.both[first, second]


def _tails(
    tables: Tables,
    seconds: Matrix,
    arrivals: Sequence[Sequence[tuple[int, Matrix]]],
    order: Sequence[int],
) -> list[float]:
    """By node: how long after its end the phase lasts at least."""
    tails = [0.0] * len(arrivals)
    for node in reversed(order):
        choices = tables.choices[tables.group_of[node]]
        after = tails[node] + min(seconds[node][device] for device in choices)
        for source, _ in arrivals[node]:
            tails[source] = max(tails[source], after)
    return tails


def _longest_schedule(tables: Tables) -> float:
    """No assignment has a larger latency: everything, one thing after the other."""
    total = sum(max(s for s in row if isfinite(s)) for row in tables.seconds)
    queues = bool(tables.problem.roads)
    for travels in (tables.forward_travel, tables.backward_travel):
        for flow, travel in zip(tables.problem.flows, travels, strict=True):
            total += max(map(max, travel)) * (len(flow.targets) if queues else 1)
    return total


def _largest_seconds(tables: Tables) -> float:
    problem = tables.problem
    largest = max(
        (second for row in tables.seconds for second in row if isfinite(second)), default=0.0
    )
    for travels in (tables.forward_travel, tables.backward_travel):
        for travel in travels:
            largest = max(largest, max(map(max, travel)))
    largest = max([largest, *(flow.endpoint_seconds for flow in problem.flows)])
    return largest or 1.0


def solver_name() -> str:
    """The solver in use and its version."""
    if highspy is None:
        return "CBC"
    return (
        f"HiGHS {highspy.HIGHS_VERSION_MAJOR}.{highspy.HIGHS_VERSION_MINOR}"
        f".{highspy.HIGHS_VERSION_PATCH}"
    )


def _run(
    programme: Programme, start: Sequence[int] | None, seconds: float | None, effort: int | None
) -> tuple[Answer, bool, int]:
    if highspy is None:
        return _run_cbc(programme, seconds), False, 0
    nothing = Answer(None, -inf, False, solver_name())
    refuted = 0
    for turn, tolerance in enumerate((*TOLERANCES, TOLERANCES[0])):
        if turn == len(TOLERANCES):
            if programme.aim is not Aim.OBJECTIVE:
                continue
            programme.value.bounds(programme.value.lowBound, None)
        answer, interrupted, spent = _run_highs(programme, start, seconds, effort, tolerance)
        if answer is None and not interrupted:
            continue
        if answer is None or interrupted or answer.bound < inf:
            break
        if not isfinite(programme.limits.known):
            refuted += 1
            if refuted == 2:
                break
    else:
        answer = nothing
    return answer or nothing, interrupted, spent


def _run_highs(
    programme: Programme,
    start: Sequence[int] | None,
    seconds: float | None,
    effort: int | None,
    tolerance: float,
) -> tuple[Answer | None, bool, int]:
    """What HiGHS says, `None` for a fault of its own; whether Ctrl-C came; effort spent."""
    lp = programme.lp
    solver = pulp.HiGHS(
        msg=False,
        threads=1,
        gapRel=GAP,
        gapAbs=GAP,
        timeLimit=seconds,
        random_seed=programme.limits.seed,
        primal_feasibility_tolerance=tolerance,
        dual_feasibility_tolerance=tolerance,
        mip_feasibility_tolerance=tolerance,
    )
    with _nothing_printed():
        solver.createAndConfigureSolver(lp)
    solver.buildSolverModel(lp)
    model = lp.solverModel
    if start is not None:
        chosen = [
            (variable.index, float(start[programme.tables.groups[group][0]] == device))
            for (group, device), variable in programme.x.items()
        ]
        model.setSolution(
            len(chosen), [index for index, _ in chosen], [value for _, value in chosen]
        )
    started, breaths, heard = time.monotonic(), 0, time.process_time()

    def breathe(kind: Any, message: str, output: Any, control: Any, data: Any) -> None:
        nonlocal breaths, heard
        breaths, heard = breaths + 1, time.process_time()
        spent = effort is not None and breaths > effort
        if interrupt.is_set() or (spent and not programme.limits.may_go_on()):
            control.user_interrupt = True

    with _interrupt_flag() as interrupt:
        model.setCallback(breathe, None)
        model.startCallback(highspy.cb.HighsCallbackType.kCallbackMipInterrupt)
        running = threading.Thread(target=model.run, name="HiGHS", daemon=True)
        running.start()
        while running.is_alive():
            running.join(LISTEN_SECONDS)
            late = seconds is not None and time.monotonic() - started > seconds
            if time.process_time() - heard > (LATE_SECONDS if late else SILENT_SECONDS):
                lp.solverModel = None
                return None, interrupt.is_set(), breaths
    info = model.getInfo()
    status = model.getModelStatus()
    solver.findSolutionValues(lp)
    infeasible = status in (
        highspy.HighsModelStatus.kInfeasible,
        highspy.HighsModelStatus.kUnboundedOrInfeasible,
    )
    found = None
    if info.primal_solution_status != highspy.SolutionStatus.kSolutionStatusNone:
        found = _assignment(programme)
    complete = infeasible or status == highspy.HighsModelStatus.kOptimal
    bound = inf if infeasible else _in_problem_units(programme, info.mip_dual_bound)
    lp.solverModel = None
    if status == highspy.HighsModelStatus.kSolveError or (
        found is not None and _contradicts(pulp.value(lp.objective), info.objective_function_value)
    ):
        return None, interrupt.is_set(), breaths
    return Answer(found, bound, complete, solver_name()), interrupt.is_set(), breaths


def _contradicts(value: float, reported: float) -> bool:
    """Whether an objective is not what its own columns add up to."""
    return abs(value - reported) > 1e-5 * max(1.0, abs(reported))


def _run_cbc(programme: Programme, seconds: float | None) -> Answer:
    lp = programme.lp
    lp.solve(_cbc(seconds))
    if lp.sol_status == pulp.LpSolutionInfeasible:
        return Answer(None, inf, True, solver_name())
    if lp.sol_status not in (pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible):
        return Answer(None, -inf, False, solver_name())
    optimal = lp.sol_status == pulp.LpSolutionOptimal
    bound = _in_problem_units(programme, pulp.value(lp.objective)) if optimal else -inf
    return Answer(_assignment(programme), bound, optimal, solver_name())


def _cbc(seconds: float | None = None) -> Any:
    """CBC, which comes with PuLP."""
    solver = pulp.COIN_CMD(
        path=shutil.which("cbc") or pulp.apis.PULP_CBC_CMD.pulp_cbc_path,
        msg=False,
        threads=1,
        gapRel=GAP,
        gapAbs=GAP,
        timeLimit=seconds,
        options=[f"primalTolerance {TOLERANCES[0]}", f"integerTolerance {TOLERANCES[0]}"],
    )
    if not solver.available():
        raise SolverError("no solver is installed: pip install highspy")
    return solver


def _in_problem_units(programme: Programme, value: float) -> float:
    if not isfinite(value):
        return -inf
    match programme.aim:
        case Aim.OBJECTIVE:
            return value * programme.unit
        case Aim.EXCESS:
            return value * memory_unit(programme)
        case _:
            return value


def _assignment(programme: Programme) -> tuple[int, ...]:
    values = {
        group: max(choices, key=lambda device: programme.x[group, device].varValue or 0.0)
        for group, choices in enumerate(programme.tables.choices)
    }
    return tuple(values[group] for group in programme.tables.group_of)


@contextmanager
def _nothing_printed() -> Iterator[None]:
    """HiGHS prints a banner from its constructor, whatever its options say."""
    try:
        kept = os.dup(1)
    except OSError:
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


@contextmanager
def _interrupt_flag() -> Iterator[threading.Event]:
    """Ctrl-C sets a flag instead of raising inside the solver's own code."""
    flag = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return

    def remember(number: int, frame: FrameType | None) -> None:
        flag.set()

    before = signal.signal(signal.SIGINT, remember)
    try:
        yield flag
    finally:
        signal.signal(signal.SIGINT, before)


def text(tables: Tables) -> str:
    """The programme in the LP format, for people and for golden files."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "programme.lp")
        Programme(tables).lp.writeLP(path)
        with open(path) as file:
            return file.read()


def programme_entries(tables: Tables) -> int:
    """About how many non-zero entries the integer programme has."""
    problem = tables.problem
    devices = len(problem.devices)
    entries = 4 * len(tables.groups) * devices
    ends = sum(1 + len(flow.targets) for flow in problem.flows)
    match problem.objective:
        case "latency":
            phases = 1 + tables.trains
            entries += phases * (12 * len(problem.nodes) * devices + 6 * ends * devices)
            shared = sum(3 + 6 * len(hops) for row in problem.roads for hops in row if hops)
            entries += phases * ends * shared
        case "throughput":
            entries += 6 * ends * devices
            if any(any(map(any, travel)) for travel in tables.forward_travel):
                entries += 4 * len(problem.flows) * devices * devices
        case _:
            pass
    if any(capacity is not None for capacity in problem.capacity_nbytes):
        entries += 24 * len(problem.holds) * devices
    if problem.contiguous:
        entries += 3 * ends * devices * devices
    return entries


def covering_prices(
    weights: Sequence[float],
    numbers: Sequence[int],
    shares: Sequence[tuple[int, Sequence[int]]],
) -> list[float]:
    """Worths of groups, the dual of covering them by shares, `numbers[k]` of them of kind `k`.

    maximise  sum_g weights[g] worth[g]
    sum_{g in S} worth[g] <= rent[k]                     for every share (k, S)
    sum_k numbers[k] rent[k] = 1
    """
    lp = pulp.LpProblem("covering", pulp.LpMaximize)
    worth = [lp.add_variable(f"worth_{group}", 0, 1) for group in range(len(weights))]
    rent = [lp.add_variable(f"rent_{kind}", 0, 1) for kind in range(len(numbers))]
    lp.setObjective(pulp.LpAffineExpression(zip(worth, weights, strict=True)))
    lp.addConstraint(pulp.LpAffineExpression(zip(rent, numbers, strict=True)) == 1, "rents")
    for index, (kind, groups) in enumerate(shares):
        terms = [*((worth[group], 1) for group in groups), (rent[kind], -1)]
        lp.addConstraint(pulp.LpAffineExpression(terms) <= 0, f"share_{index}")
    with _nothing_printed():
        lp.solve(pulp.HiGHS(msg=False, threads=1) if highspy is not None else _cbc())
    return [max(0.0, variable.varValue or 0.0) for variable in worth]
