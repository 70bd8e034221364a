"""Nodes that take no time and had best stay with what they read, such as views.

A *follower* takes no time, reads values of one node only, its *anchor*, and between the two nothing
runs that takes time or waits. On its anchor's device it is done when the anchor is, and delays
nothing. If what it passes on is no more than what it reads, and no detour is shorter than a direct
transfer, then moving it there makes no schedule longer.

Only memory can ask for a follower elsewhere. So there are two smaller problems: in one, followers
bring all that they hold to their anchor; in the other they bring nothing of their own, and no
assignment of the whole problem is below its optimum.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from partitioner.solve.contract import Contraction, colocation_groups, merge
from partitioner.solve.problem import Flow, Problem


@dataclass(frozen=True, slots=True)
class Followed:
    """A latency problem without its followers.

    Attributes:
        problem: followers hold what they hold on their anchor's device.
        relaxed: followers hold nothing of their own.
        contraction: every node with its followers, in the order of execution.
    """

    problem: Problem
    relaxed: Problem
    contraction: Contraction


def follow(problem: Problem) -> Followed:
    """Fold followers into their anchors."""
    anchors = _Anchors(problem)
    members: dict[int, list[int]] = {}
    for node, anchor in enumerate(anchors.of):
        members.setdefault(anchor, []).append(node)
    kept = sorted(members)
    contraction = Contraction(
        tuple((anchor, *(node for node in members[anchor] if node != anchor)) for anchor in kept)
    )
    home = {node: kept.index(anchor) for node, anchor in enumerate(anchors.of)}
    together = [
        tuple(dict.fromkeys(home[node] for node in group)) for group in colocation_groups(problem)
    ]
    smaller = replace(
        merge(problem, contraction),
        colocated=tuple(group for group in together if len(group) > 1),
    )
    own = [
        replace(hold, nodes=tuple(node for node in hold.nodes if node not in anchors.moved))
        for hold in problem.holds
    ]
    relaxed = replace(
        smaller,
        holds=tuple(
            replace(hold, nodes=tuple(sorted({home[node] for node in hold.nodes})))
            for hold in own
            if hold.nodes
        ),
    )
    return Followed(smaller, relaxed, contraction)


class _Anchors:
    """By node, its anchor or itself.

    Attributes:
        moved: followers that some assignment has elsewhere than their anchor.
    """

    def __init__(self, problem: Problem) -> None:
        size = len(problem.nodes)
        self.problem = problem
        self.of = list(range(size))
        self.moved: set[int] = set()
        self.group_of = {node: group for group in colocation_groups(problem) for node in group}
        self.inputs: list[list[Flow]] = [[] for _ in range(size)]
        self.outputs: list[list[Flow]] = [[] for _ in range(size)]
        for flow in problem.flows:
            self.outputs[flow.source].append(flow)
            for target in flow.targets:
                self.inputs[target].append(flow)
        self.still = [
            not any(problem.forward_seconds[node]) and not any(problem.backward_seconds[node])
            for node in range(size)
        ]
        self.bound = {node for pair in problem.separated for side in pair for node in side}
        latest = -1
        for node in range(size):
            if not self._joins(node, latest) and not (self.still[node] and not self.inputs[node]):
                latest = node

    def _joins(self, node: int, latest: int) -> bool:
        """Find the anchor of a node; `latest` is the last node that takes time or waits."""
        if not self.still[node]:
            return False
        group = self.group_of[node]
        if not self.inputs[node]:
            if not self.outputs[node] and node != group[0]:
                self.of[node] = self.of[group[0]]
                return True
            return False
        sources = {self.of[flow.source] for flow in self.inputs[node]}
        if len(sources) > 1:
            return False
        anchor = sources.pop()
        if anchor < latest:
            return False
        if anchor in group or self.of[group[0]] == anchor:
            self.of[node] = anchor
            return True
        if node == group[0] and self._may_move(group, anchor):
            self.of[node] = anchor
            self.moved.update(group)
            return True
        return False

    def _may_move(self, group: tuple[int, ...], anchor: int) -> bool:
        """Whether a group that reads one anchor only is never better elsewhere."""
        problem = self.problem
        if not all(self.still[node] and node not in self.bound for node in group):
            return False
        allowed = set(problem.allowed[anchor])
        for node in self.group_of[anchor]:
            allowed &= set(problem.allowed[node])
        if not all(allowed <= set(problem.allowed[node]) for node in group):
            return False
        into = [flow for node in group for flow in self.inputs[node] if flow.source not in group]
        if any(self.of[flow.source] != anchor for flow in into):
            return False
        widest = max(into, key=lambda flow: (flow.nbytes, flow.gradient_nbytes))
        return all(
            _shorter(problem, widest, flow)
            for node in group
            for flow in self.outputs[node]
            if not set(flow.targets) <= set(group)
        )


def _shorter(problem: Problem, before: Flow, after: Flow) -> bool:
    """Whether `after` sent from afar never arrives later than over where `before` brings it."""
    if after.nbytes > before.nbytes or after.gradient_nbytes > before.gradient_nbytes:
        return False
    devices = range(len(problem.devices))
    time = problem.transfer_seconds
    return all(
        time(home, reader, after.nbytes)
        <= time(home, there, before.nbytes) + time(there, reader, after.nbytes)
        and time(reader, home, after.gradient_nbytes)
        <= time(reader, there, after.gradient_nbytes) + time(there, home, before.gradient_nbytes)
        for home in devices
        for there in devices
        if there != home
        for reader in devices
        if reader != home
    )
