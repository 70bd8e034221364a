"""Placements that need no solver: simple ones to compare with, and those made by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from partitioner.capture import Captured
from partitioner.errors import PlanError
from partitioner.graph.cost_graph import CostGraph
from partitioner.placement.check import objective_value
from partitioner.placement.state import merged
from partitioner.solve.problem import Solution, Status
from partitioner.spec import Cluster, hint


def all_on_one(graph: CostGraph, device: str) -> dict[str, str]:
    """Everything on `device`."""
    return dict.fromkeys(graph.order, device)


def equal_counts(graph: CostGraph) -> dict[str, str]:
    """Equally many consecutive nodes on each device."""
    share = -(-len(graph.order) // len(graph.devices))
    return _together(graph, {node: graph.devices[i // share] for i, node in enumerate(graph.order)})


def next_fit(graph: CostGraph, cluster: Cluster) -> dict[str, str]:
    """Fill one device after the other with parameters, never going back to an earlier one.

    It is how memory-balancing tools place layers: they count parameters alone, and what is left
    over goes to the last device.
    """
    nbytes: Counter[str] = Counter()
    for holding in graph.holdings:
        if holding.role == "parameters" and holding.nodes:
            nbytes[holding.nodes[0]] += holding.nbytes
    placement: dict[str, str] = {}
    current, used = 0, 0
    for node in graph.order:
        limit = cluster.devices[current].memory
        last = current == len(cluster.devices) - 1
        if isinstance(limit, int) and used + nbytes[node] > limit and not last:
            current, used = current + 1, 0
        used += nbytes[node]
        placement[node] = cluster.devices[current].name
    return _together(graph, placement)


def infer_placement(
    captured: Captured,
    state_devices: Mapping[str, str],
    colocated: Iterable[tuple[str, ...]] = (),
    settled: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Read the placement of every node off the devices of a hand-split model's state.

    A node with state of its own runs where that state is. Any other runs where most of its inputs
    are; of equally many, where the last one is. Inputs, tensors made out of nothing and constants
    of which nothing is said are where they are first used. Nodes that must share a device follow
    the first of them with state, else the first of them.

    Args:
        captured: the recorded model.
        state_devices: device name by parameter, buffer or constant name; any of a tensor's names.
        colocated: groups of nodes that share a device, beside those of `captured`.
        settled: device name by node name, of nodes whose device is known.

    Raises:
        PlanError: nothing is said of a parameter or buffer that some node uses.
    """
    nodes = [node for node in captured.graph.nodes if node.op != "output"]
    guess = _Guess([*captured.colocated, *colocated])
    for name, home in (settled or {}).items():
        guess.settle(name, home)
    for node in nodes:
        for state in captured.nodes[node.name].state:
            device = _state_device(captured, state_devices, state)
            if device is not None:
                guess.settle(node.name, device)
    for node in nodes:
        around = [
            guess.placement[n.name] for n in node.all_input_nodes if n.name in guess.placement
        ]
        if around:
            counts = Counter(around)
            guess.settle(node.name, max(reversed(around), key=lambda device: counts[device]))
    position = {node: i for i, node in enumerate(nodes)}
    anywhere = next(iter([*guess.placement.values(), *state_devices.values()]), "cpu")
    for node in reversed(nodes):
        users = sorted((user for user in node.users if user in position), key=position.__getitem__)
        first = guess.placement[users[0].name] if users else anywhere
        guess.settle(node.name, first)
    return {node.name: guess.placement[node.name] for node in nodes}


def by_hand(
    graph: CostGraph, cluster: Cluster, placement: Mapping[str, str], objective: str
) -> Solution:
    """A placement as a solution that claims no bound."""
    return Solution(
        status=Status.FEASIBLE,
        assignment=dict(placement),
        objective=objective_value(graph, cluster, placement, objective),
        bound=0.0,
        seconds=0.0,
        solver="by hand",
    )


class _Guess:
    """A placement that grows, in which colocated nodes follow the first of them that is settled."""

    def __init__(self, colocated: Iterable[tuple[str, ...]]) -> None:
        self.placement: dict[str, str] = {}
        self._group = {node: group for group in merged(colocated) for node in group}

    def settle(self, node: str, device: str) -> None:
        """Place a node, and those that must be with it; nodes that are placed stay."""
        if node not in self.placement:
            self.placement |= dict.fromkeys(self._group.get(node, (node,)), device)


def _state_device(captured: Captured, state_devices: Mapping[str, str], name: str) -> str | None:
    for known in captured.state[name].names:
        if known in state_devices:
            return state_devices[known]
    if captured.state[name].role == "constant":
        return None
    raise PlanError(f"the device of '{name}' is not known; {hint(name, tuple(state_devices))}")


def _together(graph: CostGraph, placement: dict[str, str]) -> dict[str, str]:
    """The placement with every colocated group where the first of its nodes is."""
    for group in merged(graph.colocated):
        placement |= dict.fromkeys(group, placement[min(group, key=graph.order.index)])
    return placement
