"""Better assignments from a given one: descent by single moves, with kicks out of local optima."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from partitioner.solve.effort import Effort
from partitioner.solve.state import State, Tables

Rank = tuple[float, ...]
ROUNDING = 1e-12
"""Relative differences below this are rounding."""


def by_objective(state: State) -> Rank:
    """Feasible first, then the objective, then even loads, then less traffic."""
    broken, excess = state.badness()
    return (broken, excess, state.objective(), state.smooth(), state.moved, state.moves)


def by_ties(state: State) -> Rank:
    """Feasible first, then the objective, then less traffic, fewer transfers, fewer switches from
    node to node, lower devices.
    """
    broken, excess = state.badness()
    traffic = (state.moved, state.moves, state.switches)
    return (broken, excess, state.objective(), *traffic, *state.placed)


def better(new: Rank, old: Rank) -> bool:
    """Whether the first rank is smaller in more than rounding."""
    for a, b in zip(new, old, strict=True):
        if abs(a - b) > ROUNDING * max(abs(a), abs(b)):
            return a < b
    return False


def descend(
    state: State,
    effort: Effort,
    rank: Callable[[State], Rank] = by_objective,
    groups: Sequence[int] | None = None,
) -> Rank:
    """Move one group at a time while that helps."""
    tables = state.tables
    cost = evaluation_cost(tables)
    best = rank(state)
    waiting = list(groups) if groups is not None else list(range(len(tables.groups)))
    queued = set(waiting)
    while waiting:
        group = waiting.pop(0)
        queued.discard(group)
        home = state.placed[tables.groups[group][0]]
        kept = home
        for device in _candidates(state, group, best):
            if not effort.spend(cost):
                state.move(group, kept)
                return best
            state.move(group, device)
            now = rank(state)
            if better(now, best):
                best, kept = now, device
        state.move(group, kept)
        if kept != home:
            for near in (group, *tables.neighbours[group]):
                if near not in queued:
                    queued.add(near)
                    waiting.append(near)
    return best


def _candidates(state: State, group: int, best: Rank) -> list[int]:
    """Devices worth a try: those of neighbours, or all while loads or limits decide."""
    tables = state.tables
    home = state.placed[tables.groups[group][0]]
    if tables.problem.objective != "latency" or best[0] or best[1]:
        near = set(tables.choices[group])
    else:
        near = {state.placed[tables.groups[other][0]] for other in tables.neighbours[group]}
        near &= set(tables.choices[group])
    return sorted(near - {home})


def evaluation_cost(tables: Tables) -> int:
    """Units of effort for one move and its rank."""
    if tables.problem.objective == "latency":
        return len(tables.problem.nodes) + len(tables.problem.flows)
    return 40 + len(tables.problem.flows) // max(1, len(tables.groups)) * 8


def kicked(
    tables: Tables,
    placed: Sequence[int],
    effort: Effort,
    seed: int,
    stop: Callable[[Rank], bool],
) -> tuple[list[int], Rank]:
    """The best of many descents, each from the last best with a neighbourhood moved elsewhere."""
    generator = random.Random(seed)
    state = State(tables, placed)
    rank = descend(state, effort)
    best = list(state.placed)
    while not stop(rank) and effort.spend(1):
        ball = _ball(tables, generator)
        device = generator.randrange(len(tables.problem.devices))
        for group in ball:
            if device in tables.choices[group]:
                state.move(group, device)
        around = dict.fromkeys(
            near for group in ball for near in (group, *tables.neighbours[group])
        )
        now = descend(state, effort, groups=list(around))
        if better(now, rank):
            rank, best = now, list(state.placed)
        else:
            for group, members in enumerate(tables.groups):
                if state.placed[members[0]] != best[members[0]]:
                    state.move(group, best[members[0]])
        if len(tables.groups) < 2:
            break
    return best, rank


def _ball(tables: Tables, generator: random.Random) -> list[int]:
    """A few groups that hang together."""
    size = generator.choice((1, 2, 3, 5, 8, 13))
    ball = [generator.randrange(len(tables.groups))]
    for group in ball:
        for near in tables.neighbours[group]:
            if len(ball) < size and near not in ball:
                ball.append(near)
    return ball
