"""A plan drawn into a file, by its suffix."""

from __future__ import annotations

import os
from pathlib import Path

from partitioner.errors import SpecError
from partitioner.placement import PlanDocument
from partitioner.report.files import write_whole
from partitioner.report.page import fragment, page
from partitioner.report.picture import LegendRow, Sheet, render_dot, render_png, render_svg
from partitioner.report.reading import partition_graph
from partitioner.report.wording import kind_text, title, verdict
from partitioner.spec import nearest

SUFFIXES = (".svg", ".png", ".dot", ".html")


def draw(document: PlanDocument, path: str | os.PathLike[str]) -> None:
    """Draw the partition graph into `.svg`, `.png`, `.dot` or `.html`; equal plans, equal bytes.

    The file is written whole or not at all.

    Raises:
        SpecError: the suffix is another one.
        OSError: the file cannot be written.
    """
    suffix = check_suffix(path)
    match suffix:
        case ".svg":
            content = svg(document).encode()
        case ".png":
            content = render_png(sheet(document))
        case ".dot":
            content = render_dot(sheet(document)).encode()
        case _:
            content = page(document, svg(document)).encode()
    write_whole(path, content)


def check_suffix(path: str | os.PathLike[str]) -> str:
    """The suffix of a picture's file.

    Raises:
        SpecError: no picture has that suffix; the message names those that there are.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        known = ", ".join(f"'{each}'" for each in SUFFIXES)
        what = f"'{suffix}'" if suffix else "no suffix"
        close = nearest(suffix, SUFFIXES, count=1)
        more = f"; did you mean '{close[0]}'?" if close else ""
        raise SpecError(f"cannot draw into '{os.fspath(path)}' with {what}; use {known}{more}")
    return suffix


def svg(document: PlanDocument) -> str:
    """The partition graph as an SVG document."""
    return render_svg(sheet(document))


def html(document: PlanDocument) -> str:
    """The partition graph and the tables as an HTML element, for notebooks."""
    return fragment(document, svg(document))


def sheet(document: PlanDocument) -> Sheet:
    """What is drawn of a plan."""
    return Sheet(
        graph=partition_graph(document),
        title=title(document),
        subtitle=verdict(document),
        legend=tuple(
            LegendRow(device, kind_text(document, device), use.peak, use.limit)
            for device, use in document.memory.items()
        ),
    )
