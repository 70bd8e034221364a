"""`RankStage`: PyTorch's pipeline stage, which says what it is at, and splits its backward safely.

The schedule `zero-bubble` asks for the gradients of a stage's inputs first, and for those of its
parameters later. PyTorch (2.13) computes the latter from the nodes where they branch off the way to
the inputs. For a parameter that branches off at two nodes it runs the way between them again, and
frees what others there still need; one that never meets the way to an input gets no gradient.
Stages with such a parameter compute all gradients at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor
from torch.autograd.graph import Node
from torch.distributed.pipelining import PipelineStage

from partitioner.distributed.pulse import doing


class RankStage(PipelineStage):
    """A stage of this process."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._splits: bool | None = None
        self._whole: set[int] = set()

    def forward_one_chunk(self, fwd_chunk_id: int, *args: Any, **kwargs: Any) -> Any:
        """The forward of a micro-batch."""
        with self._doing("forward", fwd_chunk_id):
            return super().forward_one_chunk(fwd_chunk_id, *args, **kwargs)

    def backward_one_chunk(
        self,
        bwd_chunk_id: int,
        loss: Any = None,
        full_backward: bool = True,
        last_backward: bool = False,
    ) -> None:
        """The backward of a micro-batch, whole or of the inputs alone."""
        if not full_backward and self.has_backward and not self.is_first:
            if self._splits is None:
                outputs, inputs = self.fwd_cache[bwd_chunk_id]
                roots = [loss] if self.is_last else outputs
                self._splits = splits_safely(roots, inputs, self.submod.parameters())
            if not self._splits:
                self._whole.add(bwd_chunk_id)
                full_backward = True
        with self._doing("backward", bwd_chunk_id):
            super().backward_one_chunk(bwd_chunk_id, loss, full_backward, last_backward)

    def backward_weight_one_chunk(self, bwd_chunk_id: int, last_backward: bool = False) -> None:
        """The gradients of the parameters, where the backward left them out."""
        if bwd_chunk_id in self._whole:
            self._whole.remove(bwd_chunk_id)
            return
        with self._doing("backward", bwd_chunk_id):
            super().backward_weight_one_chunk(bwd_chunk_id, last_backward)

    def _doing(self, what: str, micro_batch: int) -> Any:
        return doing(f"in the {what} of stage {self.stage_index}, micro-batch {micro_batch}")


def splits_safely(
    outputs: Iterable[Any], inputs: Sequence[Any], parameters: Iterable[Tensor]
) -> bool:
    """Whether each parameter branches off the way from the outputs to the inputs at one node."""
    roots = [t.grad_fn for t in outputs if isinstance(t, Tensor) and t.grad_fn is not None]
    leaves = {_leaf(t) for t in inputs if isinstance(t, Tensor) and t.requires_grad}
    wanted = {_leaf(parameter) for parameter in parameters if parameter.requires_grad}
    order = _children_first(roots)
    on_way: set[Node] = set()
    below: dict[Node, frozenset[Node]] = {}
    for node in order:
        children = [child for child, _ in node.next_functions if child is not None]
        if node in leaves or any(child in on_way for child in children):
            on_way.add(node)
        else:
            below[node] = frozenset({node} & wanted).union(*(below[child] for child in children))
    branches = [
        leaf
        for node in on_way
        for leaf in frozenset[Node]().union(
            *(below[c] for c, _ in node.next_functions if c is not None and c not in on_way)
        )
    ]
    return len(branches) == len(set(branches)) and all(
        root in on_way or not below[root] for root in roots
    )


def _leaf(tensor: Tensor) -> Node:
    """The node of the graph that takes the gradient of a tensor without history."""
    if tensor.grad_fn is not None:
        return tensor.grad_fn
    viewed = tensor.view_as(tensor).grad_fn
    assert viewed is not None
    leaf = viewed.next_functions[0][0]
    assert leaf is not None
    return leaf


def _children_first(roots: Sequence[Node]) -> list[Node]:
    """All nodes of a graph of gradients, each after those that it leads to."""
    order: dict[Node, None] = {}
    stack = [(root, False) for root in roots]
    while stack:
        node, expanded = stack.pop()
        if node in order:
            continue
        if expanded:
            order[node] = None
            continue
        stack.append((node, True))
        stack.extend((c, False) for c, _ in node.next_functions if c is not None)
    return list(order)
