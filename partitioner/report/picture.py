"""The partition graph as a picture, laid out by Graphviz.

Modules are nested frames, devices are colours, and what moves between devices is drawn apart from
what stays: dashed, heavy, with its size. Large models are folded until they can be read.
"""

from __future__ import annotations

import html as markup
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pygraphviz

from partitioner.report.diagram import Diagram, Move, diagram
from partitioner.report.folding import Box, parent
from partitioner.report.graphviz import FONT, rendered
from partitioner.report.palette import INK, NEUTRAL, PAPER, Colours, palette
from partitioner.report.partition_graph import PartitionGraph
from partitioner.spec import format_nbytes, format_seconds

BOXES = 60
"""How many boxes a picture may have before it is folded further."""
BAR_POINTS = 110
"""Width of a full memory bar in the legend."""
_BREAK = '<BR ALIGN="LEFT"/>'


@dataclass(frozen=True, slots=True)
class LegendRow:
    """One device in the legend; its bar is filled by `peak_nbytes / limit_nbytes`."""

    device: str
    kind: str
    peak_nbytes: int
    limit_nbytes: int | None


@dataclass(frozen=True)
class Sheet:
    """All that is drawn: the graph, and what stands above it."""

    graph: PartitionGraph
    title: str
    subtitle: str = ""
    legend: tuple[LegendRow, ...] = ()


def render_dot(sheet: Sheet, boxes: int = BOXES) -> str:
    """Graphviz source, not laid out."""
    source: str = _agraph(sheet, boxes).to_string()
    return source


def render_svg(sheet: Sheet, boxes: int = BOXES) -> str:
    """A self-contained SVG document."""
    text = rendered(_agraph(sheet, boxes), "svg").decode()
    start = text.index("<svg ")
    label = markup.escape(f"{sheet.title}. {sheet.subtitle}", quote=True)
    return text[:start] + f'<svg role="img" aria-label="{label}" ' + text[start + 5 :]


def render_png(sheet: Sheet, boxes: int = BOXES) -> bytes:
    """A PNG."""
    return rendered(_agraph(sheet, boxes), "png")


def render_pdf(sheet: Sheet, boxes: int = BOXES) -> bytes:
    """A PDF page."""
    return rendered(_agraph(sheet, boxes), "pdf")


def _agraph(sheet: Sheet, limit: int) -> pygraphviz.AGraph:
    drawn = diagram(sheet.graph, limit)
    colours = palette(sheet.graph.devices)
    graph = pygraphviz.AGraph(directed=True, strict=False)
    graph.graph_attr.update(
        rankdir="TB",
        newrank="true",
        bgcolor=PAPER,
        fontname=FONT,
        fontcolor=INK,
        fontsize="11",
        labelloc="t",
        labeljust="l",
        nodesep="0.25",
        ranksep="0.35",
        pad="0.25",
        label=_heading(sheet),
    )
    graph.node_attr.update(
        shape="box", style="rounded,filled", fontname=FONT, fontsize="12", fontcolor=INK,
        margin="0.14,0.07", height="0.3", penwidth="1.2",
    )  # fmt: skip
    graph.edge_attr.update(
        fontname=FONT, fontsize="11", color="#8A8A8A", arrowsize="0.6", penwidth="1.0"
    )
    legend = _legend(sheet, colours)
    body = graph.add_subgraph(name="clusterall", label=legend, labeljust="l", peripheries="0")
    inside = _add_frames(body, drawn)
    _add_boxes(inside, drawn, colours)
    _add_edges(graph, inside, drawn, colours)
    return graph


def _add_frames(body: pygraphviz.AGraph, drawn: Diagram) -> dict[str, pygraphviz.AGraph]:
    """A subgraph for each frame, by its path; what is around all is at `""`."""
    inside = {"": body}
    for i, path in enumerate(drawn.frames):
        around = drawn.frame(parent(path))
        inside[path] = inside[around].add_subgraph(
            name=f"cluster{i}",
            label=path[len(around) + 1 :] if around else path,
            labeljust="l",
            fontsize="12",
            fontcolor="#444444",
            style="rounded,filled",
            color="#BBBBBB",
            peripheries="1",
            fillcolor="#00000008",
            margin="10",
        )
    return inside


def _add_boxes(
    inside: Mapping[str, pygraphviz.AGraph], drawn: Diagram, colours: Mapping[str, Colours]
) -> None:
    for i, box in enumerate(drawn.boxes):
        around = drawn.frame(box.around)
        shade = colours[box.device] if box.device is not None else NEUTRAL
        role = box.operations[0].role if len(box.operations) == 1 else "operator"
        inside[around].add_node(
            _name(i),
            label=_label(box, around),
            tooltip=_tooltip(box),
            fillcolor=shade.fill,
            color=shade.line,
            penwidth="1.2" if not shade.again else f"{1.2 + 1.6 * shade.again}",
            shape={"input": "oval", "output": "oval", "state": "cylinder"}.get(role, "box"),
            style="rounded,filled" if role == "operator" else "filled",
            peripheries="2" if len(box.modules) > 1 else "1",
        )


def _add_edges(
    graph: pygraphviz.AGraph,
    inside: Mapping[str, pygraphviz.AGraph],
    drawn: Diagram,
    colours: Mapping[str, Colours],
) -> None:
    for source, target in drawn.edges:
        graph.add_edge(_name(source), _name(target))
    for i, move in enumerate(drawn.moves):
        colour = colours[move.destination].line
        style = {"color": colour, "style": "dashed", "penwidth": "2.4"}
        label = {"label": _sizes(move), "fontcolor": colour}
        if len(move.targets) == 1:
            graph.add_edge(_name(move.source), _name(move.targets[0]), **style, **label)
            continue
        fork = f"move{i}"
        inside[drawn.common_frame((move.source, *move.targets))].add_node(
            fork, shape="point", width="0.09", color=colour, label="",
            tooltip=f"moved once to {move.destination}",
        )  # fmt: skip
        graph.add_edge(_name(move.source), fork, arrowhead="none", **style, **label)
        for target in move.targets:
            graph.add_edge(fork, _name(target), **style)


def _name(box: int) -> str:
    """Graphviz's name of a box."""
    return f"box{box}"


def _sizes(move: Move) -> str:
    """The label of a move: bytes there, and in training the gradient's bytes back."""
    count = f"{len(move.crossings)} values, " if len(move.crossings) > 1 else ""
    lines = [f"&#160;<B>{count}{format_nbytes(move.nbytes)}</B>"]
    if move.gradient_nbytes:
        back = format_nbytes(move.gradient_nbytes)
        lines.append(f'&#160;<FONT POINT-SIZE="10">gradient back {back}</FONT>')
    return f"<{_BREAK.join(lines)}>"


def _label(box: Box, around: str) -> str:
    operation = box.operations[0]
    if len(box.operations) == 1:
        details = [operation.role] if operation.role in ("input", "state") else []
        if operation.role == "operator" and operation.operator != operation.name:
            details.append(operation.operator)
        details += [operation.value] if operation.value else []
    else:
        details = [f"{len(box.operations)} operations"]
    if box.state_nbytes:
        details.append(format_nbytes(box.state_nbytes))
    if box.seconds:
        details.append(format_seconds(box.seconds))
    title = markup.escape(box.title(around))
    if len(box.modules) > 1:
        title += f" (\u00d7{len(box.modules)})"
    if not box.whole:
        title += f", part on {box.device}"
    if not details:
        return f"<<B>{title}</B>>"
    small = markup.escape(" · ".join(details))
    return (
        "<"
        + _table(
            (
                f'<TD ALIGN="CENTER"><B>{title}</B></TD>',
                f'<TD ALIGN="CENTER"><FONT POINT-SIZE="10">{small}</FONT></TD>',
            )
        )
        + ">"
    )


def _tooltip(box: Box) -> str:
    where = f" on {box.device}" if box.device else ""
    lines = [f"{box.title()}{where}", box.operations[0].line if len(box.operations) == 1 else ""]
    return markup.escape("\n".join(line for line in lines if line))


def _heading(sheet: Sheet) -> str:
    """Title and subtitle."""
    title = f'<FONT POINT-SIZE="16"><B>{markup.escape(sheet.title)}</B></FONT>'
    lines = [title, markup.escape(sheet.subtitle)] if sheet.subtitle else [title]
    return f"<{_table([f'<TD>{line}</TD>' for line in lines], padding=3)}>"


def _legend(sheet: Sheet, colours: Mapping[str, Colours]) -> str:
    rows = [_legend_row(row, colours[row.device]) for row in sheet.legend]
    return f"<{_table(rows, spacing=5)}>" if rows else ""


def _legend_row(row: LegendRow, shade: Colours) -> str:
    text, bar = format_nbytes(row.peak_nbytes), ""
    if row.limit_nbytes:
        share = row.peak_nbytes / row.limit_nbytes
        text += f" of {format_nbytes(row.limit_nbytes)} ({share:.0%})"
        filled = min(BAR_POINTS - 1, max(1, round(share * BAR_POINTS)))
        parts = ((shade.line, filled), ("#E4E4E4", BAR_POINTS - filled))
        bar = _table(["".join(map(_bar_part, parts))])
    swatch = f'BGCOLOR="{shade.fill}" BORDER="1" COLOR="{shade.line}" WIDTH="20" HEIGHT="14"'
    return (
        f'<TD {swatch} FIXEDSIZE="TRUE"></TD>'
        f"<TD>{markup.escape(f'{row.device}  {row.kind}'.strip())}</TD>"
        f"<TD>{bar}</TD><TD>{markup.escape(text)}</TD>"
    )


def _bar_part(part: tuple[str, int]) -> str:
    colour, width = part
    return f'<TD BGCOLOR="{colour}" WIDTH="{width}" HEIGHT="8" FIXEDSIZE="TRUE"></TD>'


def _table(rows: Sequence[str], padding: int = 0, spacing: int = 0) -> str:
    """Rows of `<TD>` cells as one of Graphviz's tables."""
    content = "".join(f"<TR>{row}</TR>" for row in rows).replace("<TD>", '<TD ALIGN="LEFT">')
    return (
        f'<TABLE BORDER="0" CELLBORDER="0" CELLSPACING="{spacing}" CELLPADDING="{padding}">'
        f"{content}</TABLE>"
    )
