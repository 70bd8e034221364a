"""`Sweep`: what one model takes on many clusters and batches, as a table and as files."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import msgspec
from rich.console import Group, RenderableType
from rich.text import Text

from partitioner.errors import SpecError
from partitioner.report.files import write_whole
from partitioner.report.text import as_text, plain_table
from partitioner.report.wording import listed, percent
from partitioner.spec import format_nbytes, format_seconds, hint

SUFFIXES = (".csv", ".json", ".svg", ".png", ".pdf")

Outcome = Literal["optimal", "feasible", "does not fit", "no plan in time", "not tried"]


@dataclass(frozen=True)
class Cell:
    """One batch on one cluster.

    Attributes:
        devices: the cluster, as it was asked for.
        count: how many devices it has.
        batch: leading size of the inputs; `None` where they have none in common.
        outcome: of the search; the figures below are `None` where it gave no plan.
        step_seconds: from input to result, and in training back to the last gradient.
        bottleneck_seconds: of the busiest device or link in one step.
        peak_nbytes: of the fullest device.
        used: on how many devices something runs.
        gap: how far from the best possible it may be, as a share.
        lacks_nbytes: where it does not fit: by how much at least, all devices together.
    """

    devices: str
    count: int
    batch: int | None
    outcome: Outcome
    step_seconds: float | None = None
    bottleneck_seconds: float | None = None
    peak_nbytes: int | None = None
    used: int | None = None
    gap: float | None = None
    lacks_nbytes: int | None = None

    @property
    def fits(self) -> bool:
        """Whether there is a plan."""
        return self.outcome in ("optimal", "feasible")


@dataclass(frozen=True)
class Sweep:
    """One model on many clusters and batches.

    Attributes:
        model: name of its class.
        mode: `"train"` or `"inference"`.
        objective: for which each cell was planned.
        cells: batch by batch, in each in the order of the clusters.
    """

    model: str
    mode: str
    objective: str
    cells: tuple[Cell, ...]

    @property
    def smallest(self) -> dict[int | None, Cell | None]:
        """By batch, the first of the cells with the fewest devices that fits."""
        found: dict[int | None, Cell | None] = {}
        for cell in self.cells:
            best = found.setdefault(cell.batch, None)
            if cell.fits and (best is None or cell.count < best.count):
                found[cell.batch] = cell
        return found

    @property
    def frontier(self) -> tuple[Cell, ...]:
        """The cells that are worth having: none of their batch is better and none as good.

        Judged by the seconds of a step, the bytes of the fullest device and the number of devices.
        """
        worth = []
        for cell in self.cells:
            others = [other for other in self.cells if other.fits and other.batch == cell.batch]
            if cell.fits and not any(_beats(other, cell, self.objective) for other in others):
                worth.append(cell)
        return tuple(worth)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the cells as `.csv` or `.json`, or draw them as `.svg`, `.png` or `.pdf`.

        Raises:
            SpecError: the suffix is another one, or the library that draws is not installed.
        """
        suffix = check_sweep_suffix(path)
        if suffix == ".csv":
            content = _csv(self.cells)
        elif suffix == ".json":
            content = msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"
        else:
            from partitioner.report.sweep_picture import picture

            content = picture(self, suffix.removeprefix("."))
        write_whole(path, content)

    def __str__(self) -> str:
        return as_text(sweep_renderable(self))


def seconds_of(cell: Cell, objective: str) -> float:
    """What a step takes: for throughput, the busiest device or link."""
    found = cell.bottleneck_seconds if objective == "throughput" else cell.step_seconds
    return float("inf") if found is None else found


def check_sweep_suffix(path: str | os.PathLike[str]) -> str:
    """The suffix of a sweep's file.

    Raises:
        SpecError: it is another one than those that there are.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise SpecError(
            f"cannot write a sweep to '{os.fspath(path)}'; the suffix must be "
            f"{listed([repr(each) for each in SUFFIXES], 'or')}; {hint(suffix, SUFFIXES)}"
        )
    return suffix


def sweep_renderable(sweep: Sweep) -> RenderableType:
    """The sweep for a rich console: a row for each cluster, a column for each batch."""
    batches = list(dict.fromkeys(cell.batch for cell in sweep.cells))
    clusters = list(dict.fromkeys((cell.devices, cell.count) for cell in sweep.cells))
    cells = {(cell.devices, cell.count, cell.batch): cell for cell in sweep.cells}
    worth = set(sweep.frontier)
    heads = ["one batch" if batch is None else f"batch {batch}" for batch in batches]
    table = plain_table("devices", *heads)
    for cluster in clusters:
        row = [cells[*cluster, batch] for batch in batches]
        table.add_row(cluster[0], *(_told(cell, sweep.objective, cell in worth) for cell in row))
    step = "busiest device or link" if sweep.objective == "throughput" else "one step"
    lines = [
        "",
        *_smallest(sweep),
        f"{step} · fullest device; * is worth having: no other plan of that batch "
        "is as good in time, memory and devices",
    ]
    if unproven := [cell.gap for cell in sweep.cells if cell.outcome == "feasible" and cell.gap]:
        lines.append(f"~ is not proved best: it may be up to {percent(max(unproven))} above it")
    title = f"{sweep.model}, {'training' if sweep.mode == 'train' else 'inference'}"
    parts = (Text(f"{title}, planned for {sweep.objective}", style="bold"), Text(), table)
    return Group(*parts, *map(Text, lines))


def _told(cell: Cell, objective: str, worth: bool) -> str:
    if not cell.fits:
        lacks = f", lacks {format_nbytes(cell.lacks_nbytes)}" if cell.lacks_nbytes else ""
        return f"{cell.outcome}{lacks}"
    unproven = "~" if cell.outcome == "feasible" else ""
    seconds = format_seconds(seconds_of(cell, objective))
    return f"{unproven}{seconds} · {format_nbytes(cell.peak_nbytes or 0)}{'*' if worth else ' '}"


def _smallest(sweep: Sweep) -> list[str]:
    """For each batch, the smallest cluster; batches of which that is the same share a line."""
    by_cluster: dict[str, list[str]] = {}
    for batch, cell in sweep.smallest.items():
        where = "nothing here" if cell is None else cell.devices
        by_cluster.setdefault(where, []).append("it" if batch is None else str(batch))
    return [
        f"the smallest that fits {'batch ' if batches != ['it'] else ''}{listed(batches)}: {where}"
        for where, batches in by_cluster.items()
    ]


def _beats(one: Cell, other: Cell, objective: str) -> bool:
    """Whether a cell is at least as good in everything and better in something."""
    mine, theirs = (
        (seconds_of(cell, objective), cell.peak_nbytes or 0, cell.count) for cell in (one, other)
    )
    return mine != theirs and all(a <= b for a, b in zip(mine, theirs, strict=True))


def _csv(cells: Sequence[Cell]) -> bytes:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, list(asdict(cells[0])), lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(asdict, cells))
    return file.getvalue().encode()
