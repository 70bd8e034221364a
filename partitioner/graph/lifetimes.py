"""From a rehearsal to `Holding`s: which device holds which bytes, and from when to when.

The rehearsal ran on one device. On several, who holds a storage depends on the placement. For each
point the nodes are named whose device then holds it:

- an activation, in the forward: the node that made it, and each node that has read it so far, until
  its last use anywhere (a reader elsewhere has a copy); beyond, and in the backward: the nodes that
  keep it for their own backward, until that is done;
- what the model returns, in training: also the node that made it, to the end of the step and, as a
  training loop's variable keeps it, through the next step's forward; likewise the loss;
- a shared parameter's copies: the same, beside its owner, who holds it all the time;
- a parameter's gradient: its owner, and at the point where it is made also the node that makes it;
- another tensor of the backward, such as the gradient of an activation: the node that makes it at
  that point; then each node that it is handed to, with the part that is handed, until the backward
  of that one; while other readers of that one's value have their backward still to come, both;
- what begins and ends within one point: its node.

With everything on one device these sum up, at each point, to the very bytes that were live at that
point's fullest moment. With several they err on the side of more: a copy that is read early and
late counts all the time between, and a device that has finished with a value counts it until the
last reader elsewhere has.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from partitioner.graph.cost_graph import Holding
from partitioner.graph.ledger import Life
from partitioner.graph.optimizer_state import OptimizerMemory
from partitioner.graph.trace import GradientFlow, Rehearsal
from partitioner.virtual import rounded


class _Piece(NamedTuple):
    nodes: tuple[int, ...]
    first: int
    last: int
    role: str


def holdings_of(
    rehearsal: Rehearsal,
    readers: Mapping[str, Sequence[str]],
    owners: Mapping[str, Sequence[str]],
    optimizer: OptimizerMemory | None,
) -> tuple[Holding, ...]:
    """Everything that takes memory.

    Args:
        rehearsal: one step on one device.
        readers: by node, the nodes that read its value.
        owners: by canonical name of a parameter, buffer or constant, the nodes where it lives.
        optimizer: what it keeps; `None` without one.
    """
    return _Lifetimes(rehearsal, readers, owners).holdings(optimizer)


class _Lifetimes:
    def __init__(
        self,
        rehearsal: Rehearsal,
        readers: Mapping[str, Sequence[str]],
        owners: Mapping[str, Sequence[str]],
    ) -> None:
        self.rehearsal = rehearsal
        self.order = rehearsal.order
        self.count = len(self.order)
        self.last_point = rehearsal.points - 1
        position = {name: i for i, name in enumerate(self.order)}
        self.owners = {
            name: tuple(sorted(position[node] for node in nodes)) for name, nodes in owners.items()
        }
        uses: dict[Life, set[int]] = defaultdict(set)
        for name, users in readers.items():
            for life in rehearsal.nodes[position[name]].values:
                uses[life].update(position[user] for user in users)
        self.uses = {life: sorted(users) for life, users in uses.items()}
        self.first_reader = [self._first_reader(i) for i in range(self.count)]
        self.gradient_names = {life: name for name, life in rehearsal.gradients.items()}
        self.results = set(rehearsal.results)

    def holdings(self, optimizer: OptimizerMemory | None) -> tuple[Holding, ...]:
        merged: dict[_Piece, int] = defaultdict(int)
        names: dict[_Piece, str] = {}
        for life in self.rehearsal.ledger.lives:
            if life.nbytes:
                for piece, nbytes in self._pieces(life):
                    merged[piece] += nbytes
                    names.setdefault(piece, self._what(life))
        found = [self._holding(piece, nbytes, names[piece]) for piece, nbytes in merged.items()]
        if self._trains:
            found = self._with_other_losses(found)
        if optimizer is not None:
            found += self._optimizer(optimizer)
        return tuple(found)

    def _holding(self, piece: _Piece, nbytes: int, what: str) -> Holding:
        nodes = tuple(self.order[i] for i in piece.nodes)
        return Holding(nodes, nbytes, piece.first, piece.last, piece.role, what)

    def _what(self, life: Life) -> str:
        return life.state or self.gradient_names.get(life) or self.order[life.maker]

    def _pieces(self, life: Life) -> Iterator[tuple[_Piece, int]]:
        """Where and when a storage is held, and how much of it."""
        first, last = self.rehearsal.ledger.points_of(life)
        if life.state is not None:
            pieces = self._state(life)
        elif life is self.rehearsal.loss and life not in self.results:
            pieces = iter([_Piece((life.maker,), 0, self.last_point, "workspace")])
        elif first > last:
            return
        elif life in self.gradient_names:
            pieces = self._gradient(life, first, last)
        elif life.point >= self.count and self._trains:
            yield from self._of_backward(life, first, last)
            return
        elif first == last == life.point and life not in self.uses:
            pieces = iter([_Piece((life.maker,), first, last, "workspace")])
        else:
            pieces = self._activation(life, first, last)
        for piece in pieces:
            yield piece, life.nbytes

    @property
    def _trains(self) -> bool:
        return self.rehearsal.points > self.count

    def _state(self, life: Life) -> Iterator[_Piece]:
        owners = self.owners.get(life.state or "", ())
        if not owners:
            return
        readers = [user for user in self.uses.get(life, ()) if user not in owners]
        savers = [saver for saver in life.savers if saver not in owners]
        last_use = readers[-1] if readers else -1

        def holders(point: int) -> set[int]:
            return {*owners, *self._forward_holders(point, readers, savers, last_use)}

        marks = self._marks(readers, savers, last_use)
        yield from _cut(0, self.last_point, marks, holders, "parameters")

    def _activation(self, life: Life, first: int, last: int) -> Iterator[_Piece]:
        readers = self.uses.get(life, [])
        last_use = max([life.maker, *readers])
        frame_holder = {last_use}
        is_result = life in self.results
        kept_until = self.last_point if is_result else last_use
        if is_result:
            last_use = self.count if self._trains else self.last_point

        def holders(point: int) -> set[int]:
            own = {life.maker} if point <= kept_until else set()
            now = own | set(self._forward_holders(point, readers, life.savers, last_use))
            return now or frame_holder

        marks = self._marks(readers, life.savers, last_use)
        yield from _cut(first, last, marks, holders, "activations")
        if is_result and self._trains:
            yield _Piece((life.maker,), 0, self.count - 1, "activations")

    def _forward_holders(
        self, point: int, readers: Iterable[int], savers: Iterable[int], last_use: int
    ) -> Iterator[int]:
        if point <= last_use:
            yield from (reader for reader in readers if reader <= point)
        for saver in savers:
            if saver <= point <= 2 * self.count - 1 - saver:
                yield saver

    def _marks(self, readers: Iterable[int], savers: Iterable[int], last_use: int) -> set[int]:
        """Points at which the holders may change."""
        ends = (2 * self.count - saver for saver in savers)
        return {*readers, *savers, *ends, last_use + 1}

    def _gradient(self, life: Life, first: int, last: int) -> Iterator[_Piece]:
        owners = self.owners.get(self.gradient_names[life], ())

        def holders(point: int) -> set[int]:
            return {*owners, life.maker} if point == life.point else {*owners} or {life.maker}

        yield from _cut(first, last, {life.point, life.point + 1}, holders, "gradients")

    def _of_backward(self, life: Life, first: int, last: int) -> Iterator[tuple[_Piece, int]]:
        """Pieces of a tensor of the backward, each with its bytes."""
        if first == last == life.point:
            yield _Piece((life.maker,), first, last, "workspace"), life.nbytes
            return
        flows = list(self.rehearsal.flows.get(life, ()))
        end = self._backward(life.death_point or life.point)
        if not flows and 0 <= end < self.count:
            flows = [GradientFlow(life.maker, end, (), life.nbytes)]
        marks = {life.point + 1}
        for flow in flows:
            marks.add(self._backward(flow.source))
            marks.add(self._backward(flow.destination) + 1)
            marks.add(self._backward(self.first_reader[flow.destination]) + 1)
        starts = sorted({first, *(mark for mark in marks if first < mark <= last)})
        parts: list[tuple[tuple[int, ...], int]] = [((life.maker,), life.nbytes)]
        for start, stop in zip(starts, [*starts[1:], last + 1], strict=True):
            parts = self._parts(life, flows, start) or parts
            for nodes, nbytes in parts:
                yield _Piece(nodes, start, stop - 1, "workspace"), nbytes

    def _parts(
        self, life: Life, flows: Sequence[GradientFlow], point: int
    ) -> list[tuple[tuple[int, ...], int]]:
        """Who holds which part of a tensor of the backward at one point; together they are all.

        Parts that overlap count once: the larger ones first, and who holds only what is already
        counted joins the largest. What nobody waits for is still there, at its maker.
        """
        holders: dict[tuple[Any, ...], set[int]] = defaultdict(set)
        sizes: dict[tuple[Any, ...], int] = {}
        for flow in flows:
            waiting = self._backward(flow.source) <= point <= self._backward(flow.destination)
            if waiting and flow.nbytes:
                holders[flow.elements].add(flow.destination)
                sizes[flow.elements] = rounded(flow.nbytes)
                if point <= self._backward(self.first_reader[flow.destination]):
                    holders[flow.elements].add(flow.source)
        making = {life.maker} if point <= life.point else set()
        if not holders:
            return [(tuple(making), life.nbytes)] if making else []
        remaining = life.nbytes
        parts: list[tuple[set[int], int]] = []
        for elements in sorted(sizes, key=lambda elements: -sizes[elements]):
            nbytes = min(sizes[elements], remaining)
            remaining -= nbytes
            if nbytes:
                parts.append((holders[elements] | making, nbytes))
            else:
                parts[0][0].update(holders[elements])
        if remaining:
            parts.append(({life.maker}, remaining))
        return [(tuple(sorted(nodes)), nbytes) for nodes, nbytes in parts]

    def _backward(self, node_or_point: int) -> int:
        """The point of a node's backward, and back."""
        return 2 * self.count - 1 - node_or_point

    def _first_reader(self, node: int) -> int:
        """The first node that reads the value of `node`: whose backward is the last before its."""
        readers = [
            user for life in self.rehearsal.nodes[node].values for user in self.uses.get(life, ())
        ]
        return min((reader for reader in readers if reader > node), default=node)

    def _optimizer(self, memory: OptimizerMemory) -> Iterator[Holding]:
        end = self.last_point
        for name, nbytes in memory.state_nbytes.items():
            if nbytes and self.owners.get(name):
                nodes = tuple(self.order[i] for i in self.owners[name])
                yield Holding(nodes, nbytes, 0, end, "optimizer", name)
        for name, nbytes in memory.summed_nbytes.items():
            if nbytes and self.owners.get(name):
                nodes = tuple(self.order[i] for i in self.owners[name])
                yield Holding(nodes, nbytes, end, end, "workspace", f"optimizer step of {name}")
        owners = {
            name: tuple(self.order[i] for i in self.owners.get(name, ()))
            for name in memory.largest_nbytes
        }
        yield from _largest(memory.largest_nbytes, owners, end, "optimizer step")

    def _with_other_losses(self, found: list[Holding]) -> list[Holding]:
        """Let the losses of several results share the room that the largest one takes.

        They are computed one after the other, all at point `n`: a device needs room for the
        largest among its own.
        """
        at_moment: dict[str, list[Holding]] = defaultdict(list)
        for holding in found:
            alone = len(holding.nodes) == 1 and holding.role == "workspace"
            if alone and holding.first == holding.last == self.count:
                at_moment[holding.nodes[0]].append(holding)
        totals = {name: sum(h.nbytes for h in group) for name, group in at_moment.items()}
        if not totals:
            return found
        fullest = max(totals, key=lambda name: totals[name])
        parts = {fullest: totals[fullest]}
        for name, nbytes in self._passing_losses().items():
            if name not in totals:
                parts[name] = min(nbytes, totals[fullest])
        replaced = {id(holding) for holding in at_moment[fullest]}
        kept = [holding for holding in found if id(holding) not in replaced]
        nodes = {name: (name,) for name in parts}
        return [*kept, *_largest(parts, nodes, self.count, f"loss of {fullest}")]

    def _passing_losses(self) -> dict[str, int]:
        """The most that each result's loss takes while another one's is not at its fullest."""
        changes: dict[int, list[tuple[int, int]]] = defaultdict(list)
        ledger = self.rehearsal.ledger
        for life in ledger.lives:
            first, last = ledger.points_of(life)
            if life.point == self.count and first > last and life.died is not None:
                changes[life.maker] += [(life.born, life.nbytes), (life.died, -life.nbytes)]
        most: dict[str, int] = {}
        for maker, steps in changes.items():
            live = peak = 0
            for _, nbytes in sorted(steps):
                live += nbytes
                peak = max(peak, live)
            most[self.order[maker]] = peak
        return most


def _largest(
    parts: Mapping[str, int], nodes: Mapping[str, Sequence[str]], point: int, what: str
) -> Iterator[Holding]:
    """The largest part on a device, as a sum: each step down from one size to the next is held
    where any of the parts above it is."""
    sizes = sorted({nbytes for nbytes in parts.values() if nbytes}, reverse=True)
    for size, smaller in zip(sizes, [*sizes, 0][1:], strict=True):
        above = (nodes[name] for name, nbytes in parts.items() if nbytes >= size)
        holders = tuple(dict.fromkeys(node for group in above for node in group))
        if holders:
            yield Holding(holders, size - smaller, point, point, "workspace", what)


def _cut(
    first: int,
    last: int,
    marks: Iterable[int],
    holders: Callable[[int], set[int]],
    role: str,
) -> Iterator[_Piece]:
    """Cut an interval where the holders change."""
    starts = sorted({first, *(mark for mark in marks if first < mark <= last)})
    pending: _Piece | None = None
    for start, end in zip(starts, [*(mark - 1 for mark in starts[1:]), last], strict=True):
        nodes = tuple(sorted(holders(start)))
        if pending is not None and pending.nodes == nodes:
            pending = pending._replace(last=end)
            continue
        if pending is not None:
            yield pending
        pending = _Piece(nodes, start, end, role)
    if pending is not None:
        yield pending
