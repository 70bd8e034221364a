"""What changed from one plan to another: what moved, and what that cost or saved."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.text import Text

from partitioner.placement import PlanDocument
from partitioner.report.partition_graph import Operation
from partitioner.report.reading import partition_graph
from partitioner.report.text import as_text, plain_table
from partitioner.report.wording import moved_nbytes, percent
from partitioner.spec import enclosing, format_nbytes, format_seconds

ROWS = 30
"""How many rows the table of what moved has before the rest is summed up."""


@dataclass(frozen=True)
class Moved:
    """Operations that went from one device to another together.

    Attributes:
        what: the module that they are all of, or the operation.
        source: device name in the old plan.
        destination: device name in the new one.
        operations: how many they are.
        state_nbytes: of the parameters and buffers that they use.
    """

    what: str
    source: str
    destination: str
    operations: int
    state_nbytes: int


@dataclass(frozen=True)
class Change:
    """A figure of the old plan and of the new one; `None` where a plan does not have it."""

    old: float | None
    new: float | None


@dataclass(frozen=True)
class Difference:
    """From an old plan to a new one.

    Attributes:
        moved: in execution order.
        added: operations that only the new plan has, by name.
        removed: operations that only the old plan has, by name.
        step_seconds: of one step.
        bottleneck_seconds: of the busiest device or link in one step.
        moved_nbytes: between devices in one step.
        peak_nbytes: by device; of those that either plan has.
    """

    moved: tuple[Moved, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    step_seconds: Change
    bottleneck_seconds: Change
    moved_nbytes: Change
    peak_nbytes: Mapping[str, Change]

    def __str__(self) -> str:
        return as_text(difference_renderable(self))


def difference(old: PlanDocument, new: PlanDocument) -> Difference:
    """What changed from `old` to `new`, two plans of one model or of similar ones."""
    before = {operation.name: operation for operation in _operations(old)}
    after = {operation.name: operation for operation in _operations(new)}
    both = [operation for name, operation in after.items() if name in before]
    devices = dict.fromkeys((*old.devices, *new.devices))
    return Difference(
        moved=tuple(_moved(before, both)),
        added=tuple(name for name in after if name not in before),
        removed=tuple(name for name in before if name not in after),
        step_seconds=Change(old.step_seconds, new.step_seconds),
        bottleneck_seconds=Change(old.bottleneck_seconds, new.bottleneck_seconds),
        moved_nbytes=Change(moved_nbytes(old), moved_nbytes(new)),
        peak_nbytes={name: Change(_peak(old, name), _peak(new, name)) for name in devices},
    )


def difference_renderable(
    found: Difference, names: tuple[str, str] = ("old", "new")
) -> RenderableType:
    """What changed, for a rich console; `names` are those of the two plans."""
    figures = plain_table("", *names, "change")
    for what, change, form in (
        ("one step", found.step_seconds, format_seconds),
        ("busiest device or link", found.bottleneck_seconds, format_seconds),
        ("moved between devices", found.moved_nbytes, _nbytes),
        *((f"peak {name}", change, _nbytes) for name, change in found.peak_nbytes.items()),
    ):
        told = ["-" if value is None else form(value) for value in (change.old, change.new)]
        figures.add_row(what, *told, _told(change, form))
    parts: list[RenderableType] = [figures, Text()]
    if found.moved:
        moves = plain_table("moved", names[0], names[1], "operations", "weights",
                            left=("moved", *names))  # fmt: skip
        for row in found.moved[:ROWS]:
            held = format_nbytes(row.state_nbytes) if row.state_nbytes else "-"
            where = f"→ {row.destination}"
            moves.add_row(row.what, row.source, where, str(row.operations), held)
        if rest := found.moved[ROWS:]:
            count = str(sum(row.operations for row in rest))
            nbytes = format_nbytes(sum(row.state_nbytes for row in rest))
            moves.add_row(f"… and {len(rest)} more", "", "", count, nbytes)
        parts.append(moves)
    else:
        parts.append(Text("nothing moved: both plans put every operation on the same device"))
    for names_of, where in ((found.added, names[1]), (found.removed, names[0])):
        if names_of:
            parts.append(Text(f"{len(names_of)} operations are in {where} only, "
                              f"such as '{names_of[0]}'"))  # fmt: skip
    return Group(*parts)


def _operations(document: PlanDocument) -> Iterator[Operation]:
    return (o for o in partition_graph(document).operations if o.role != "output")


def _moved(before: Mapping[str, Operation], after: Sequence[Operation]) -> Iterator[Moved]:
    """What moved, by the shallowest modules of which all made the same move."""
    moves: defaultdict[str, set[tuple[str | None, str | None]]] = defaultdict(set)
    for operation in after:
        move = before[operation.name].device, operation.device
        for path in enclosing(operation.module_path):
            moves[path].add(move)
    found: dict[tuple[str, str, str], list[Operation]] = {}
    for operation in after:
        source, destination = before[operation.name].device, operation.device
        if source != destination and source is not None and destination is not None:
            whole = (path for path in enclosing(operation.module_path) if len(moves[path]) == 1)
            what = next(whole, operation.name)
            found.setdefault((what, source, destination), []).append(operation)
    for (what, source, destination), operations in found.items():
        nbytes = sum(operation.state_nbytes for operation in operations)
        yield Moved(what or "the whole model", source, destination, len(operations), nbytes)


def _peak(document: PlanDocument, device: str) -> int | None:
    use = document.memory.get(device)
    return None if use is None else use.peak


def _nbytes(value: float) -> str:
    return format_nbytes(int(value))


def _told(change: Change, form: Callable[[float], str]) -> str:
    """The change in words, such as `"1.2 ms less (3.1%)"`."""
    if change.old is None or change.new is None:
        return ""
    more = change.new - change.old
    if not more:
        return "same"
    share = f" ({percent(abs(more) / change.old)})" if change.old else ""
    return f"{form(abs(more))} {'more' if more > 0 else 'less'}{share}"
