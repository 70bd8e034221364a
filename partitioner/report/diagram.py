"""`Diagram`: the folded graph with its frames and edges, before anything is drawn."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from partitioner.report.folding import Box, fold, parent
from partitioner.report.partition_graph import Crossing, PartitionGraph


@dataclass(frozen=True, slots=True)
class Move:
    """Values that go from one box to another device, each of them once.

    Attributes:
        source: index of a box.
        targets: indices of the boxes that read them there.
        destination: a device name.
        crossings: the values.
    """

    source: int
    targets: tuple[int, ...]
    destination: str
    crossings: tuple[Crossing, ...]

    @property
    def nbytes(self) -> int:
        """Carried in the forward."""
        return sum(crossing.nbytes for crossing in self.crossings)

    @property
    def gradient_nbytes(self) -> int:
        """Carried back in the backward."""
        return sum(crossing.gradient_nbytes for crossing in self.crossings)


@dataclass(frozen=True)
class Diagram:
    """What is drawn.

    Attributes:
        boxes: in execution order.
        frames: the modules that are drawn around boxes, outermost first; those that hold two
            things or more.
        edges: `(box, box that reads it)` within a device, or to the model's output.
        moves: between devices.
    """

    boxes: tuple[Box, ...]
    frames: tuple[str, ...]
    edges: tuple[tuple[int, int], ...]
    moves: tuple[Move, ...]

    def frame(self, path: str) -> str:
        """The innermost frame around a module's path, itself included; `""` outside of all."""
        return next((around for around in _upwards(path) if around in self.frames), "")

    def common_frame(self, boxes: Sequence[int]) -> str:
        """The innermost frame around several boxes."""
        around = [{*_upwards(self.boxes[i].around)} for i in boxes]
        return self.frame(max(set.intersection(*around), key=_depth, default=""))


def diagram(graph: PartitionGraph, limit: int) -> Diagram:
    """Fold a graph to about `limit` boxes."""
    boxes = fold(graph, limit)
    box_of = {operation.name: i for i, box in enumerate(boxes) for operation in box.operations}
    device_of = {operation.name: operation.device for operation in graph.operations}
    crossing_of = {(moved.tensor, moved.destination): moved for moved in graph.crossings}
    edges: dict[tuple[int, int], None] = {}
    moved: defaultdict[tuple[int, str], dict[str, Crossing]] = defaultdict(dict)
    readers: defaultdict[tuple[int, str], dict[int, None]] = defaultdict(dict)
    for source, target in graph.edges:
        destination = device_of[target]
        crossing = crossing_of.get((source, destination or ""))
        if destination is not None and destination != device_of[source] and crossing is not None:
            key = (box_of[source], destination)
            moved[key][source] = crossing
            readers[key][box_of[target]] = None
        elif box_of[source] != box_of[target]:
            edges[box_of[source], box_of[target]] = None
    return Diagram(
        boxes=boxes,
        frames=_frames(boxes),
        edges=tuple(edges),
        moves=tuple(
            Move(source, tuple(readers[source, destination]), destination, tuple(values.values()))
            for (source, destination), values in moved.items()
        ),
    )


def _frames(boxes: Sequence[Box]) -> tuple[str, ...]:
    children: defaultdict[str, set[str]] = defaultdict(set)
    for i, box in enumerate(boxes):
        children[box.around].add(f"#{i}")
    paths = dict.fromkeys(path for box in boxes for path in _upwards(box.around))
    for path in sorted(paths, key=_depth, reverse=True):
        held = children[path]
        children[parent(path)] |= {path} if len(held) > 1 else held
    return tuple(path for path in sorted(paths, key=_depth) if len(children[path]) > 1)


def _upwards(path: str) -> Iterator[str]:
    """A module and those around it, but for the root."""
    while path:
        yield path
        path = parent(path)


def _depth(path: str) -> int:
    return path.count(".")
