"""Plans as good as a given one that move less: what no single move of a group leads to.

::

    a ─► v ─► w ─► b        v, w pass on what they read: alone, either one only shifts a transfer;
    0    1    1    0        moved together, they save two

So several groups move at a time: whole *islands*, which hang together on one device, and what lies
next to a transfer, a few groups forwards or backwards.
"""

from __future__ import annotations

from collections.abc import Iterator

from partitioner.solve.effort import Effort
from partitioner.solve.improve import better, by_ties, descend, evaluation_cost
from partitioner.solve.state import State

DEPTH = 6
"""Most groups that move along a flow at a time."""

Bunch = tuple[int, ...]


def tidy(state: State, effort: Effort) -> None:
    """Change an assignment for the better, ties included, until nothing helps any more."""
    tables = state.tables
    best, before = by_ties(state), None
    while best != before:
        before = best
        best = descend(state, effort, by_ties)
        for bunch in dict.fromkeys([*_islands(state), *_along_flows(state)]):
            for device in _devices_around(state, bunch):
                if not effort.spend(evaluation_cost(tables) + len(bunch)):
                    return
                homes = [state.placed[tables.groups[group][0]] for group in bunch]
                for group in bunch:
                    state.move(group, device)
                now = by_ties(state)
                if better(now, best):
                    best = now
                else:
                    for group, home in zip(bunch, homes, strict=True):
                        state.move(group, home)


def _islands(state: State) -> list[Bunch]:
    """Groups that hang together on one device, the smallest islands first."""
    seen: set[int] = set()
    islands = []
    for first in range(len(state.tables.groups)):
        if first in seen:
            continue
        seen.add(first)
        island = [first]
        for group in island:
            for near in _beside(state, group):
                if near not in seen:
                    seen.add(near)
                    island.append(near)
        islands.append(tuple(sorted(island)))
    return sorted(islands, key=len)


def _along_flows(state: State) -> Iterator[Bunch]:
    """From each transfer on, what follows its target, and what comes before its source."""
    tables = state.tables
    for flow in tables.problem.flows:
        for target in flow.targets:
            if state.placed[target] != state.placed[flow.source]:
                yield from _grown(state, tables.group_of[target], forwards=True)
                yield from _grown(state, tables.group_of[flow.source], forwards=False)


def _grown(state: State, first: int, *, forwards: bool) -> Iterator[Bunch]:
    """A group, with its next neighbour on the same device, with the next of both, and so on."""
    bunch = [first]
    for _ in range(DEPTH):
        yield tuple(sorted(bunch))
        near = {other for group in bunch for other in _beside(state, group)}.difference(bunch)
        ahead = {group for group in near if (group > first) == forwards}
        if not ahead:
            return
        bunch.append(min(ahead) if forwards else max(ahead))


def _beside(state: State, group: int) -> list[int]:
    """The neighbours of a group on its device."""
    groups, placed = state.tables.groups, state.placed
    home = placed[groups[group][0]]
    return [near for near in state.tables.neighbours[group] if placed[groups[near][0]] == home]


def _devices_around(state: State, bunch: Bunch) -> list[int]:
    """The other devices of the neighbours of a bunch that all of it may use, ascending."""
    tables = state.tables
    near = {other for group in bunch for other in tables.neighbours[group]}
    devices = {state.placed[tables.groups[group][0]] for group in near}
    devices.discard(state.placed[tables.groups[bunch[0]][0]])
    return sorted(devices.intersection(*(tables.choices[group] for group in bunch)))
