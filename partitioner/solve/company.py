"""The least load that a device can have when it holds a group, in whatever company.

Where devices pay for what crosses their border, what a device holds costs its work, plus each flow
that comes in, plus each that goes out. That is a cut: with `S` on the side of the source,

    v -> end             seconds[v]      v in S works
    v -> in[f] -> s      price[f]        a target v of f in S, its source s is not
    s -> out[f] -> t     price[f]        the source s of f in S, one of its targets t is not

and the least load with `v` on the device is the least cut with `v` in `S`. One cut answers for its
whole `S`: each group in it has company that costs no more.
"""

from __future__ import annotations

from math import isfinite

import networkx as nx
import numpy as np
from networkx.algorithms.flow import dinitz
from numpy.typing import NDArray

from partitioner.solve.ideals import device_kinds
from partitioner.solve.state import Tables

MOST_SIZE = 60_000
"""Groups and flows of all cuts together: a few seconds."""

Floats = NDArray[np.float64]


def applies(tables: Tables) -> bool:
    """Whether some device pays for what crosses its border."""
    problem = tables.problem
    return (
        problem.objective == "throughput"
        and any(problem.pays_endpoint)
        and any(flow.endpoint_seconds for flow in problem.flows)
    )


def least_loads(tables: Tables, seconds: Floats, known: float) -> Floats:
    """`[group][device]`: no device that holds the group has a smaller load.

    `seconds` are of the groups by themselves, which is the answer for devices that do not pay, and
    for groups that have company for less than `known`.
    """
    least = seconds.copy()
    flows = tables.problem.flows
    size = MOST_SIZE
    for kind in device_kinds(tables):
        if not tables.problem.pays(kind[0]):
            continue
        work = seconds[:, kind[0]]
        graph = _graph(tables, work)
        covered = np.isinf(work) | (work + _borders(tables) <= known)
        for group in np.argsort(-work, kind="stable"):
            if covered[group]:
                continue
            size -= len(work) + len(flows)
            if size < 0:
                return least
            graph.add_edge("start", int(group))
            load, (near, _) = nx.minimum_cut(graph, "start", "end", flow_func=dinitz)
            graph.remove_edge("start", int(group))
            if load > known:
                least[group, list(kind)] = load * (1 - 1e-12)
            else:
                covered[[node for node in near if isinstance(node, int)]] = True
    return least


def _borders(tables: Tables) -> Floats:
    """By group, what all of its flows cost when they cross."""
    borders = np.zeros(len(tables.groups))
    for flow in tables.problem.flows:
        source = tables.group_of[flow.source]
        for group in {source, *(tables.group_of[target] for target in flow.targets)}:
            borders[group] += flow.endpoint_seconds
    return borders


def _graph(tables: Tables, work: Floats) -> nx.DiGraph[object]:
    """The network whose cuts are loads; edges without a capacity cannot be cut."""
    graph: nx.DiGraph[object] = nx.DiGraph()
    for group, seconds in enumerate(work.tolist()):
        graph.add_edge(group, "end", **({"capacity": seconds} if isfinite(seconds) else {}))
    for index, flow in enumerate(tables.problem.flows):
        source = tables.group_of[flow.source]
        targets = {tables.group_of[target] for target in flow.targets} - {source}
        if not targets or not flow.endpoint_seconds:
            continue
        graph.add_edge(("in", index), source, capacity=flow.endpoint_seconds)
        graph.add_edge(source, ("out", index), capacity=flow.endpoint_seconds)
        for target in targets:
            graph.add_edge(target, ("in", index))
            graph.add_edge(("out", index), target)
    return graph
