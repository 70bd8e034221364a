"""A plan drawn into a file: what, by a word, and how, by the file's suffix."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from partitioner.errors import SpecError
from partitioner.placement import PlanDocument
from partitioner.report.charts import render_memory, render_timeline
from partitioner.report.files import write_whole
from partitioner.report.model_explorer import (
    render_device_overlay,
    render_explorer_graph,
    render_time_overlay,
)
from partitioner.report.network import render_graphml
from partitioner.report.page import fragment, page
from partitioner.report.picture import (
    LegendRow,
    Sheet,
    render_dot,
    render_pdf,
    render_png,
    render_svg,
)
from partitioner.report.reading import partition_graph
from partitioner.report.trace import render_trace
from partitioner.report.wording import kind_text, title, verdict
from partitioner.spec import hint, nearest

Renderer = Callable[[PlanDocument], str | bytes]


def sheet(document: PlanDocument) -> Sheet:
    """What is drawn of a plan's graph."""
    return Sheet(
        graph=partition_graph(document),
        title=title(document),
        subtitle=verdict(document),
        legend=tuple(
            LegendRow(device, kind_text(document, device), use.peak, use.limit)
            for device, use in document.memory.items()
        ),
    )


DRAWINGS: dict[str, dict[str, Renderer]] = {
    "graph": {
        ".svg": lambda document: render_svg(sheet(document)),
        ".png": lambda document: render_png(sheet(document)),
        ".pdf": lambda document: render_pdf(sheet(document)),
        ".dot": lambda document: render_dot(sheet(document)),
        ".graphml": render_graphml,
        ".json": render_explorer_graph,
    },
    "timeline": {
        **{f".{form}": partial(render_timeline, form=form) for form in ("svg", "png", "pdf")},
        ".json": render_trace,
    },
    "memory": {f".{form}": partial(render_memory, form=form) for form in ("svg", "png", "pdf")},
    "overlay": {".json": render_device_overlay},
    "overlay-time": {".json": render_time_overlay},
    "page": {".html": page},
}
"""By what is drawn and the suffix."""
USUAL = {".html": "page", ".json": "timeline"}
"""What is drawn where nobody says: by the suffix, or else the graph."""


def draw(document: PlanDocument, path: str | os.PathLike[str], what: str | None = None) -> None:
    """Draw a plan into a file; equal plans, equal bytes.

    The file is written whole or not at all.

    Args:
        document: the plan.
        path: its suffix tells the format.
        what: one of `DRAWINGS`; `None` is the page for `.html`, a trace of the timeline for
            `.json`, else the graph.

    Raises:
        SpecError: there is no such drawing, or not in this format; or the plan is of an older
            version and lacks what is drawn.
        OSError: the file cannot be written.
    """
    content = renderer(path, what)(document)
    write_whole(path, content.encode() if isinstance(content, str) else content)


def renderer(path: str | os.PathLike[str], what: str | None = None) -> Renderer:
    """What makes the content of a file.

    Raises:
        SpecError: nothing does; the message names what there is.
    """
    suffix = Path(path).suffix.lower()
    what = what or USUAL.get(suffix, "graph")
    if what not in DRAWINGS:
        raise SpecError(f"there is no drawing {what!r}; {hint(what, tuple(DRAWINGS))}")
    found = DRAWINGS[what].get(suffix)
    if found is None:
        known = tuple(DRAWINGS[what]) + ((".html",) if what == "graph" else ())
        texts = ", ".join(f"'{each}'" for each in known)
        given = f"'{suffix}'" if suffix else "no suffix"
        close = nearest(suffix, known, count=1)
        more = f"; did you mean '{close[0]}'?" if close else ""
        raise SpecError(
            f"cannot draw the {what} into '{os.fspath(path)}' with {given}; use {texts}{more}"
        )
    return found


def svg(document: PlanDocument) -> str:
    """The partition graph as an SVG document."""
    return render_svg(sheet(document))


def html(document: PlanDocument) -> str:
    """The partition graph and the tables as an HTML element, for notebooks."""
    return fragment(document, svg(document))
