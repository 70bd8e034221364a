"""Nodes that may as well be where a neighbour is, whatever the optimum looks like.

Where devices pay for what crosses their border, let `v` and `u` be the two ends of a flow of price
`c` that has no other target. If `v` goes to where `u` is, both their devices are rid of `c`, and
all that they get for it is the work of `v` and what its other flows cost. So no load grows if

    seconds[v, d] + prices of the other flows of v <= c       on every device d of u's

A device that does not pay is rid of nothing, nor is that of the source of a flow with more targets:
there `v` must be free. The other flows carry no more bytes either, so that ties are settled as
before. In an order of devices, `v` follows its only predecessor or its only successor: then nothing
comes to be on the wrong side.
"""

from __future__ import annotations

from collections.abc import Sequence

from partitioner.solve.contract import Contraction, merge
from partitioner.solve.problem import Flow, Problem


def without_dominated(problem: Problem, contraction: Contraction) -> tuple[Problem, Contraction]:
    """Merge dominated nodes into their neighbours until there are none.

    `problem` is one without colocated nodes, to which `contraction` led.
    """
    while _applies(problem):
        homes = _homes(problem)
        if not homes:
            break
        joined: dict[int, list[int]] = {}
        for node, home in homes.items():
            joined.setdefault(home, []).append(node)
        smaller = Contraction(
            tuple(
                (node, *joined.get(node, ()))
                for node in range(len(problem.nodes))
                if node not in homes
            )
        )
        problem = merge(problem, smaller)
        contraction = Contraction(
            tuple(
                tuple(node for index in group for node in contraction.groups[index])
                for group in smaller.groups
            )
        )
    return problem, contraction


def _applies(problem: Problem) -> bool:
    """Whether devices pay for all that crosses, and links take no time."""
    return (
        problem.objective == "throughput"
        and any(problem.pays_endpoint)
        and not any(map(any, problem.latency_seconds))
        and not any(map(any, problem.seconds_per_byte))
        and not problem.roads
    )


def _homes(problem: Problem) -> dict[int, int]:
    """By dominated node, the neighbour to join, which joins no other one itself."""
    size = len(problem.nodes)
    flows_of: list[list[int]] = [[] for _ in range(size)]
    for index, flow in enumerate(problem.flows):
        for node in (flow.source, *flow.targets):
            flows_of[node].append(index)
    stay = _held(problem) | {node for sides in problem.separated for side in sides for node in side}
    before: list[set[int]] = [set() for _ in range(size)]
    after: list[set[int]] = [set() for _ in range(size)]
    for first, second in problem.ordered_pairs() if problem.contiguous else ():
        before[second].add(first)
        after[first].add(second)
    homes: dict[int, int] = {}
    for index, flow in enumerate(problem.flows):
        joins = [(target, flow.source) for target in flow.targets]
        if len(flow.targets) == 1:
            joins.append((flow.source, flow.targets[0]))
        for node, home in joins:
            follows = before[node] | after[node] == set() or {home} in (before[node], after[node])
            if (
                node not in stay
                and not {node, home} & homes.keys()
                and node not in homes.values()
                and follows
                and _costs_no_more(problem, node, home, index, flows_of[node])
            ):
                homes[node] = home
    return homes


def _held(problem: Problem) -> set[int]:
    """Nodes whose place can make a difference to what fits."""
    total = sum(hold.nbytes for hold in problem.holds)
    if all(capacity is None or capacity >= total for capacity in problem.capacity_nbytes):
        return set()
    return {node for hold in problem.holds if hold.nbytes for node in hold.nodes}


def _costs_no_more(
    problem: Problem, node: int, home: int, index: int, flows: Sequence[int]
) -> bool:
    """Whether what the flow to a neighbour costs pays for the node and its other flows."""
    flow = problem.flows[index]
    others = [problem.flows[other] for other in flows if other != index]
    rid = [flow] if len(flow.targets) == 1 else []
    price = sum(each.endpoint_seconds for each in rid)
    price -= sum(other.endpoint_seconds for other in others)
    return (
        price >= 0
        and _traffic(others) <= _traffic(rid)
        and all(
            device in problem.allowed[node]
            and problem.forward_seconds[node][device] + problem.backward_seconds[node][device]
            <= (price if problem.pays(device) else 0.0)
            for device in problem.allowed[home]
        )
    )


def _traffic(flows: Sequence[Flow]) -> tuple[int, int]:
    """Bytes and moves when each crosses once."""
    nbytes = sum(flow.nbytes + flow.gradient_nbytes for flow in flows)
    return nbytes, sum(flow.nbytes > 0 for flow in flows)
