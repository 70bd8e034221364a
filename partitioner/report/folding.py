"""Folding: a thousand operations become a few dozen boxes that a person can take in.

A box is an operation, a module whose operations share a device, a run of such modules that repeat
(`h.0 … h.5`), a run of loose operations, or, where nothing else is left to fold, the part of a
module that lies on one device.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from partitioner.report.partition_graph import Operation, PartitionGraph


@dataclass(frozen=True, slots=True)
class Box:
    """Operations that are shown as one.

    Attributes:
        around: qualified name of the module in which it stands.
        modules: the modules that it stands for, in order; empty for loose operations.
        device: of all its operations; `None` for the model's output.
        operations: in execution order.
        whole: the modules lie on this device with all that they do.
    """

    around: str
    modules: tuple[str, ...]
    device: str | None
    operations: tuple[Operation, ...]
    whole: bool = True

    @property
    def seconds(self) -> float:
        """Of all its operations."""
        return sum(operation.seconds for operation in self.operations)

    @property
    def state_nbytes(self) -> int:
        """Of the parameters and buffers of all its operations."""
        return sum(operation.state_nbytes for operation in self.operations)

    @property
    def full_name(self) -> str:
        """What it is called anywhere, such as `"transformer.h.0-5"`."""
        if self.modules == ("",):
            return "the whole model"
        if len(self.modules) > 1:
            return f"{self.modules[0]}-{self.modules[-1].rpartition('.')[2]}"
        within = f"{self.around}: " if self.around and not self.modules else ""
        return within + self.title()

    def title(self, inside: str = "") -> str:
        """What it is called within the module `inside`, such as `"h.0 … h.5"`."""
        if not self.modules:
            return _listed([operation.name for operation in self.operations])
        prefix = len(inside) + 1 if inside else 0
        names = [module[prefix:] or "(root)" for module in self.modules]
        return names[0] if len(names) == 1 else f"{names[0]} … {names[-1]}"


def fold(graph: PartitionGraph, limit: int) -> tuple[Box, ...]:
    """At most `limit` boxes (or one for each device, if that is more), as detailed as that allows.

    Modules fold from the deepest to the shallowest, first those that lie on one device, all of one
    depth together so that like is shown alike.
    """
    boxes = _unfolded(graph)
    depths = range(max((_depth(box) for box in boxes), default=0), -1, -1)
    for depth in depths:
        if len(boxes) <= limit:
            return boxes
        boxes = _repeats_merged(_modules_folded(boxes, depth, divided=False))
    if len(boxes) > limit:
        boxes = _loose_merged(boxes)
    for depth in depths:
        if len(boxes) <= limit:
            return boxes
        boxes = _modules_folded(boxes, depth, divided=True)
    return boxes


def whole_modules(graph: PartitionGraph) -> tuple[Box, ...]:
    """The largest modules that lie on one device each, and the loose operations between them."""
    boxes = _unfolded(graph)
    for depth in range(max((_depth(box) for box in boxes), default=0), -1, -1):
        boxes = _modules_folded(boxes, depth, divided=False)
    return _loose_merged(_repeats_merged(boxes))


def parent(path: str) -> str:
    """The path of the module around; `""` for the root and its children."""
    return path.rpartition(".")[0]


def _unfolded(graph: PartitionGraph) -> tuple[Box, ...]:
    """A box for each operation; a module of one operation gives its name to the box."""
    sizes: Counter[str] = Counter()
    for operation in graph.operations:
        path = operation.module_path
        while path:
            sizes[path] += 1
            path = parent(path)
    return tuple(
        Box(parent(path), (path,), operation.device, (operation,))
        if (path := operation.module_path) and sizes[path] == 1
        else Box(path, (), operation.device, (operation,))
        for operation in graph.operations
    )


def _path(box: Box) -> str:
    return box.modules[0] if box.modules else box.around


def _depth(box: Box) -> int:
    path = _path(box)
    return path.count(".") + 1 if path else 0


def _modules_folded(boxes: Sequence[Box], depth: int, *, divided: bool) -> tuple[Box, ...]:
    """Each module of this depth as one box; a divided one as a box for each of its devices."""
    groups: defaultdict[object, list[Box]] = defaultdict(list)
    devices: defaultdict[str, set[str | None]] = defaultdict(set)
    keys: list[tuple[object, str]] = []
    for i, box in enumerate(boxes):
        parts = _path(box).split(".") if _path(box) else []
        module = ".".join(parts[:depth])
        one = len(box.modules) <= 1 or depth < len(parts)
        inside = len(parts) >= depth and one and box.device is not None
        key: object = (module, box.device if divided else None) if inside else i
        keys.append((key, module))
        groups[key].append(box)
        if inside:
            devices[module].add(box.device)
    folded: dict[object, Box] = {}
    for i, (box, (key, module)) in enumerate(zip(boxes, keys, strict=True)):
        if key == i or (len(devices[module]) > 1 and not divided):
            folded[i] = box
        elif key not in folded:
            folded[key] = Box(
                parent(module),
                (module,),
                box.device,
                tuple(operation for member in groups[key] for operation in member.operations),
                whole=len(devices[module]) == 1,
            )
    return tuple(folded.values())


def _repeats_merged(boxes: Sequence[Box]) -> tuple[Box, ...]:
    """Neighbours such as `h.0` and `h.1` that do the same on the same device become one."""
    merged: list[Box] = []
    for box in boxes:
        if merged and _repeats(merged[-1], box):
            last = merged[-1]
            merged[-1] = Box(
                last.around,
                last.modules + box.modules,
                last.device,
                last.operations + box.operations,
            )
        else:
            merged.append(box)
    return tuple(merged)


def _repeats(left: Box, right: Box) -> bool:
    if not (left.modules and right.modules and left.whole and right.whole):
        return False
    if left.device != right.device or left.around != right.around:
        return False
    before, after = left.modules[-1].rpartition("."), right.modules[0].rpartition(".")
    if not (before[2].isdecimal() and after[2].isdecimal()):
        return False
    return int(after[2]) == int(before[2]) + 1 and _kinds(left) == _kinds(right)


def _kinds(box: Box) -> frozenset[tuple[str, float]]:
    """How often each operator comes in one of the box's modules."""
    counts = Counter(operation.operator for operation in box.operations)
    return frozenset((name, count / len(box.modules)) for name, count in counts.items())


def _loose_merged(boxes: Sequence[Box]) -> tuple[Box, ...]:
    """Neighbouring loose operations of one module on one device become one box."""
    merged: list[Box] = []
    for box in boxes:
        if merged and _is_loose(merged[-1]) and _is_loose(box):
            last = merged[-1]
            if (last.around, last.device) == (box.around, box.device):
                merged[-1] = Box(last.around, (), last.device, last.operations + box.operations)
                continue
        merged.append(box)
    return tuple(merged)


def _is_loose(box: Box) -> bool:
    return not box.modules and all(
        operation.role in ("operator", "state") for operation in box.operations
    )


def _listed(names: Iterable[str]) -> str:
    """A few names in full, more of them by the first and the last."""
    texts = list(names)
    return ", ".join(texts) if len(texts) <= 3 else f"{texts[0]} … {texts[-1]}"
