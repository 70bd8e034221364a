"""What of a backward is for the gradients of parameters, and whether it can be computed apart.

`torch.distributed.pipelining` computes them later, under `zero-bubble`, from the node at which a
parameter meets what comes from the stage before. A stage in which one does so twice (a layer called
twice, a bias that several layers add) computes all gradients at once.
"""

from __future__ import annotations

from collections.abc import Sequence

from partitioner.graph.cost_graph import CostGraph
from partitioner.graph.stages import StagePart

WEIGHT_SHARE = 0.5
"""Of the backward of a node with parameters: one product of matrices in two is for them."""


def weighted_nodes(graph: CostGraph) -> set[str]:
    """Nodes whose backward has gradients of parameters to compute."""
    owners = {node for nodes in graph.owners.values() for node in nodes}
    return owners | {reader for node in owners for reader in graph.graph.successors(node)}


class Meetings:
    """Where parameters meet what comes from the stage before."""

    def __init__(self, graph: CostGraph) -> None:
        trained = {n for held in graph.holdings if held.role == "gradients" for n in held.nodes}
        self.graph = graph
        self.state: set[str] = set()
        self.owned: dict[str, set[str]] = {}
        for name, nodes in graph.owners.items():
            for node in nodes:
                if not graph.graph.in_degree(node):
                    self.state.add(node)
                if node in trained:
                    self.owned.setdefault(node, set()).add(name)

    def split(self, part: StagePart) -> bool:
        """Whether a stage can compute the gradients of its parameters apart."""
        place, unmet = self._walk(part.nodes)
        return place == len(part.nodes) and not any(unmet.get(node) for node in part.wires_out)

    def first_again(self, nodes: Sequence[str]) -> int:
        """The index of the first of the nodes at which a parameter meets again, or their number.

        Args:
            nodes: in execution order; values of others come from the stage before.
        """
        return self._walk(nodes)[0]

    def _walk(self, nodes: Sequence[str]) -> tuple[int, dict[str, set[str]]]:
        """`first_again`, and by node that nothing from before leads to, the parameters that do."""
        unmet: dict[str, set[str]] = {}
        on_way: set[str] = set()
        met: set[str] = set()
        inside = self.state.union(nodes)
        for place, node in enumerate(nodes):
            if node in self.state or not self._has_gradient(node):
                continue
            before = list(self.graph.graph.predecessors(node))
            parameters = self.owned.get(node, set()).union(
                *(self.owned.get(n, ()) if n in self.state else unmet.get(n, ()) for n in before)
            )
            if any(n in on_way or (n not in inside and self._has_gradient(n)) for n in before):
                if not met.isdisjoint(parameters):
                    return place, unmet
                met |= parameters
                on_way.add(node)
            else:
                unmet[node] = parameters
        return len(nodes), unmet

    def _has_gradient(self, node: str) -> bool:
        return self.graph.tensor(node).gradient_nbytes > 0
