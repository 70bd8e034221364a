"""A plan as tables for the terminal."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from partitioner.placement import PipelineRecord, PlanDocument
from partitioner.report.folding import whole_modules
from partitioner.report.partition_graph import Crossing, PartitionGraph
from partitioner.report.reading import partition_graph
from partitioner.report.wording import (
    assumptions,
    busy_seconds,
    kind_text,
    like_it,
    moved,
    objective_text,
    title,
    verdict,
)
from partitioner.spec import format_nbytes, format_seconds

WIDTH = 110
"""Columns of a table where nobody says how many there are."""
ROWS = 30
"""How many rows the table of modules has before the rest is summed up."""
FEW = 12
"""Up to so many rows, the small ones are shown as well."""
SMALL = 0.005
"""A share of the time, below which loose operations are summed up."""
MOVES = 12
"""Likewise for transfers."""
PEAKS = 4
"""How many devices have a column of their own where placements are compared."""
STYLES = ("bright_cyan", "yellow", "green", "magenta", "bright_yellow", "blue", "red", "white")
"""Of devices in the terminal, by their place in the cluster."""
WORK = ("operator", "state")
"""Roles of operations that the placement's table shows."""


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """One placement under the cost model that all share.

    Attributes:
        name: the plan's file, or the hand-split's class.
        objective: in the objective's unit.
        step_seconds: of one step.
        bottleneck_seconds: of the busiest device or link.
        peak_nbytes: by device.
        moved_nbytes: between devices in one step.
        fits: no device holds more than its limit.
    """

    name: str
    objective: float
    step_seconds: float
    bottleneck_seconds: float
    peak_nbytes: dict[str, int]
    moved_nbytes: int
    fits: bool = True


def plan_table(document: PlanDocument, width: int = WIDTH, notes: Sequence[str] = ()) -> str:
    """The plan as plain text, `width` columns wide; `notes` are added to the assumptions."""
    return as_text(plan_renderable(document, notes), width)


def comparison_table(
    rows: Sequence[ComparisonRow], objective: str = "latency", width: int = WIDTH
) -> str:
    """Placements side by side as plain text, the best in the objective first."""
    return as_text(comparison_renderable(rows, objective), width)


def plan_renderable(document: PlanDocument, notes: Sequence[str] = ()) -> RenderableType:
    """The plan for a rich console."""
    graph = partition_graph(document)
    parts: list[RenderableType] = [
        Text(title(document), style="bold"),
        Text(verdict(document)),
        Text(),
        _devices(document),
        Text(),
        _placement(graph),
        Text(),
        _transfers(document, graph.crossings) if graph.crossings else Text(moved(document)),
        Text(),
    ]
    if document.pipeline is not None and document.pipeline.traffic:
        parts += [_traffic(document.pipeline), Text()]
    parts += [Text(f"constraint: {text}") for text in document.constraints]
    parts += [Text(f"note: {text}", style="dim") for text in (*assumptions(document), *notes)]
    return Group(*parts)


def comparison_renderable(
    rows: Sequence[ComparisonRow], objective: str = "latency"
) -> RenderableType:
    """Placements side by side for a rich console, the best in the objective first."""
    ranked = sorted(rows, key=lambda row: (not row.fits, row.objective))
    best = min((row.objective for row in rows if row.fits), default=0.0)
    names = list(dict.fromkeys(device for row in ranked for device in row.peak_nbytes))
    peaks = [f"peak {name}" for name in names] if len(names) <= PEAKS else ["highest peak"]
    table = plain_table("placement", objective, "of best", "step", "bottleneck", "moved", *peaks)
    for row in ranked:
        held = [row.peak_nbytes.get(name, 0) for name in names]
        table.add_row(
            row.name,
            objective_text(objective, row.objective),
            (f"{row.objective / best:.3f}" if best else "1.000") if row.fits else "does not fit",
            format_seconds(row.step_seconds),
            format_seconds(row.bottleneck_seconds),
            format_nbytes(row.moved_nbytes),
            *map(format_nbytes, held if len(names) <= PEAKS else [max(held)]),
        )
    return table


def as_text(renderable: RenderableType, width: int = WIDTH) -> str:
    """What a console of `width` columns without colours shows."""
    console = Console(
        file=io.StringIO(),
        width=width,
        color_system=None,
        force_terminal=False,
        legacy_windows=False,
        _environ={},
    )
    console.print(renderable)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in lines).strip("\n")


@dataclass(frozen=True)
class _Fitting:
    """The wide table where there is room for it, else the narrow one."""

    wide: Table
    narrow: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        needed = Measurement.get(console, options.update(max_width=10**4), self.wide).maximum
        yield self.wide if needed <= options.max_width else self.narrow


def _devices(document: PlanDocument) -> _Fitting:
    names = ("device", "kind", "memory", "peak", "limit", "busy")
    parts = ("weights", "gradients", "optimizer", "activations")
    wide = plain_table(*names, *parts, left=names[:3])
    narrow = plain_table(*names, left=names[:3])
    busy = busy_seconds(document)
    same = like_it(document)
    for device, style in zip(document.devices, _styles(document.devices), strict=True):
        if device not in same:
            continue
        use = document.memory[device]
        bar: RenderableType = Text()
        if use.limit:
            bar = ProgressBar(use.limit, use.peak, 8, complete_style=style, finished_style=style)
        row = (
            Text(device + f" and {len(same[device])} more" * bool(same[device]), style=style),
            kind_text(document, device),
            bar,
            format_nbytes(use.peak),
            format_nbytes(use.limit) if use.limit is not None else "none",
            format_seconds(busy[device]) if busy[device] else "-",
        )
        narrow.add_row(*row)
        held = (use.parameters, use.gradients, use.optimizer, use.activations)
        wide.add_row(*row, *map(_some, held))
    return _Fitting(wide, narrow)


def _placement(graph: PartitionGraph) -> Table:
    table = plain_table("what", "device", "operations", "weights", "time", left=("what", "device"))
    style_of = dict(zip(graph.devices, _styles(graph.devices), strict=True))
    boxes = [box for box in whole_modules(graph) if any(o.role in WORK for o in box.operations)]
    total = sum(box.seconds for box in boxes)
    small = [box for box in boxes if not box.state_nbytes and box.seconds < SMALL * total]
    if len(boxes) <= FEW:
        small = []
    large = [box for box in boxes if box not in small]
    for box in large[:ROWS]:
        table.add_row(
            box.full_name,
            Text(f"→ {box.device}", style=style_of[box.device or ""]),
            str(len(box.operations)),
            _some(box.state_nbytes),
            format_seconds(box.seconds),
        )
    for what, rest in (("more", large[ROWS:]), ("small ones between them", small)):
        if rest:
            table.add_row(
                f"… and {len(rest)} {what}",
                "",
                str(sum(len(box.operations) for box in rest)),
                _some(sum(box.state_nbytes for box in rest)),
                format_seconds(sum(box.seconds for box in rest)),
            )
    return table


def _transfers(document: PlanDocument, crossings: Sequence[Crossing]) -> Table:
    cluster = document.virtual_cluster()
    over = any(cluster.detour(t.source, t.destination) for t in document.transfers)
    ends = ("moved", "from", "over", "to") if over else ("moved", "from", "to")
    table = plain_table(*ends, "forward", "gradient back", "time", left=ends)
    forward = {(t.tensor, t.destination): t for t in document.transfers if t.phase == "forward"}
    seconds = {
        (t.tensor, t.source, t.destination): t.seconds
        for t in document.transfers
        if t.phase == "backward"
    }
    largest = set(sorted(crossings, key=lambda crossing: -crossing.nbytes)[:MOVES])
    for crossing in crossings:
        if crossing not in largest:
            continue
        destination = crossing.destination
        there = forward[crossing.tensor, destination]
        source = there.source
        back = seconds.get((crossing.tensor, destination, source), 0.0)
        detour = cluster.detour(source, destination)
        table.add_row(
            crossing.tensor,
            source,
            *((detour or "",) if over else ()),
            destination,
            format_nbytes(crossing.nbytes),
            _some(crossing.gradient_nbytes),
            format_seconds(there.seconds + back),
        )
    if len(crossings) > MOVES:
        table.add_row(f"… and {len(crossings) - MOVES} smaller ones; {moved(document)}")
    return table


def _traffic(pipeline: PipelineRecord) -> Table:
    """The busiest links in a step of all replicas."""
    table = plain_table("in a step", "to", "moved", "time", left=("in a step", "to"))
    busiest = sorted(pipeline.traffic, key=lambda link: -link.seconds)
    for link in busiest[:MOVES]:
        table.add_row(
            link.source,
            link.destination,
            format_nbytes(link.nbytes),
            format_seconds(link.seconds),
        )
    if len(busiest) > MOVES:
        rest = busiest[MOVES:]
        table.add_row(
            f"… and {len(rest)} more links",
            "",
            format_nbytes(sum(link.nbytes for link in rest)),
            f"up to {format_seconds(rest[0].seconds)}",
        )
    return table


def _some(nbytes: int) -> str:
    return format_nbytes(nbytes) if nbytes else "-"


def _styles(devices: Sequence[str]) -> Iterable[str]:
    return (STYLES[i % len(STYLES)] for i in range(len(devices)))


def plain_table(*columns: str, left: Sequence[str] = ()) -> Table:
    """A table of these columns; those in `left`, else the first, are of text."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for column in columns:
        first = column in (left or columns[:1])
        table.add_column(column, justify="left" if first else "right", overflow="fold")
    return table
