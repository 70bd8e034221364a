"""`Canvas`: boxes and texts at given places, as SVG, PNG or PDF."""

from __future__ import annotations

import html as markup
import math
from collections.abc import Iterator, Sequence

import pygraphviz

from partitioner.report.graphviz import FONT, rendered
from partitioner.report.palette import INK, PAPER
from partitioner.spec import format_nbytes, format_seconds

LETTER = 0.56
"""Width of a letter, as a share of the font's size; most are narrower."""


class Canvas:
    """A drawing; x goes to the right and y down, in points."""

    def __init__(self) -> None:
        self._graph = pygraphviz.AGraph(directed=False, strict=False)
        self._graph.graph_attr.update(bgcolor=PAPER, pad="0.2", outputorder="nodesfirst")
        self._graph.node_attr.update(fontname=FONT, fontcolor=INK, shape="box", margin="0")
        self._count = 0

    def box(
        self,
        left: float,
        top: float,
        width: float,
        height: float,
        fill: str,
        label: str = "",
        tooltip: str = "",
        *,
        outlined: bool = True,
    ) -> None:
        """A filled box; its label is shown where there is room for it."""
        size = min(10.0, 0.7 * height)
        outlined = outlined and width > 2 and height > 2
        fits = len(label) * LETTER * size <= width
        self._add(
            pos=f"{left + width / 2:.2f},{-(top + height / 2):.2f}",
            width=f"{max(width, 0.1) / 72:.5f}",
            height=f"{max(height, 0.1) / 72:.5f}",
            fixedsize="true",
            style="filled",
            fillcolor=fill,
            color=PAPER if outlined else fill,
            penwidth="0.4" if outlined else "0",
            fontsize=f"{size:.1f}",
            label=label if fits else "",
            tooltip=tooltip or label or " ",
        )

    def text(
        self, left: float, top: float, text: str, size: float = 10, *, align: str = "left"
    ) -> None:
        """A line of text; `left` is its left end, or its `"right"` one or `"middle"`."""
        width = len(text) * LETTER * size
        shift = {"left": width / 2, "middle": 0.0, "right": -width / 2}[align]
        to = {"left": "LEFT", "middle": "CENTER", "right": "RIGHT"}[align]
        cell = (
            f'<<TABLE BORDER="0" CELLBORDER="0" CELLPADDING="0" CELLSPACING="0"><TR>'
            f'<TD WIDTH="{width:.0f}" HEIGHT="{size:.0f}" FIXEDSIZE="TRUE" ALIGN="{to}">'
            f"{markup.escape(text)}</TD></TR></TABLE>>"
        )
        self._add(
            pos=f"{left + shift:.2f},{-(top + size / 2):.2f}",
            shape="plain",
            fontsize=f"{size:.1f}",
            label=cell,
            tooltip=" ",
        )

    def render(self, form: str, description: str) -> bytes:
        """The drawing in a format; an SVG is described for screen readers."""
        content = rendered(self._graph, form, positioned=True)
        if form != "svg":
            return content
        label = markup.escape(description, quote=True)
        return content.replace(b"<svg ", f'<svg role="img" aria-label="{label}" '.encode(), 1)

    def _add(self, **attributes: str) -> None:
        self._graph.add_node(f"n{self._count}", **attributes)
        self._count += 1


def ticks(top: float, *, binary: bool = False, most: int = 6) -> Iterator[float]:
    """Round numbers from 0 to `top`; of a power of 1024 each where they are `binary`."""
    if top <= 0:
        return
    unit = 1024.0 ** math.floor(math.log(top, 1024)) if binary else 1.0
    decade = 10.0 ** math.floor(math.log10(top / unit / most))
    steps = (unit * decade * factor for factor in (1, 2, 5, 10))
    step = next(step for step in steps if top / step <= most)
    for i in range(int(top / step + 1e-9) + 1):
        yield i * step


def time_axis(
    canvas: Canvas, left: float, top: float, bottom: float, width: float, seconds: float
) -> None:
    """Faint lines from `top` to `bottom` with their times below."""
    for at in ticks(seconds):
        x = left + width * at / seconds
        canvas.box(x - 0.3, top, 0.6, bottom - top, "#DDDDDD")
        canvas.text(x, bottom + 3, format_seconds(at) if at else "0", 9, align="middle")


def legend(canvas: Canvas, left: float, top: float, items: Sequence[tuple[str, str]]) -> None:
    """Swatches in a row: `(colour, what it is)`."""
    for colour, what in items:
        canvas.box(left, top, 14, 10, colour)
        canvas.text(left + 18, top, what, 10)
        left += 30 + len(what) * LETTER * 10


def bytes_text(nbytes: float) -> str:
    """A tick of an axis of bytes."""
    return format_nbytes(round(nbytes)) if nbytes else "0"
