"""A plan as one HTML page that loads nothing, and as an element for notebooks.

Tables and reasons are in the page as they stand; the graph, the timeline and the memory are drawn
by its script from the data that it carries.
"""

from __future__ import annotations

import html as markup
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.resources import files

from partitioner.placement import DeviceRecord, LinkRecord, MemoryCurve, PlanDocument
from partitioner.report.charts import ROLE_COLOURS
from partitioner.report.explain import explain, reasons
from partitioner.report.page_data import page_data
from partitioner.report.text import plan_table
from partitioner.report.wording import (
    busy_seconds,
    curve_note,
    kind_text,
    moved,
    objective_text,
    percent,
    quality,
    title,
    verdict,
)
from partitioner.spec import format_bandwidth, format_nbytes, format_seconds

LIBRARIES = ("dagre.min.js", "uPlot.iife.min.js")
"""What the script of the page builds on; see `assets/README.md`."""
SCRIPTS = (
    "texts.js",
    "modules.js",
    "layout.js",
    "scene.js",
    "view.js",
    "colours.js",
    "selecting.js",
    "outline.js",
    "details.js",
    "search.js",
    "step.js",
)
"""The parts of the page's script, which share one scope."""
SOURCE_MAP = "//# sourceMappingURL="
"""Begins a line that would make a browser's tools look for a file."""
ROWS = 300
"""How many transfers the table has before the rest is summed up."""
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"
"""Nothing may be loaded from anywhere."""

Cell = str | int | float | None


def page(document: PlanDocument) -> str:
    """The plan as a self-contained page."""
    name, told = markup.escape(title(document)), markup.escape(verdict(document))
    style = _asset("uPlot.min.css") + _asset("report.css")
    libraries = "\n".join(f"<script>{_asset(library)}</script>" for library in LIBRARIES)
    script = '"use strict";\n(() => {\n' + "\n".join(map(_asset, SCRIPTS)) + "\n})();"
    body = _asset("report.html").format(
        title=name,
        verdict=told,
        why=_list(reasons(document)),
        devices=_devices(document),
        timeline=_timeline_note(document),
        memory=_memory(document),
        transfers=_transfers(document),
        certificate=_certificate(document),
        constraints=_constraints(document),
        cluster=_cluster(document),
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f'<title>{name}</title>\n<link rel="icon" href="data:,">\n<style>{style}</style>\n</head>\n'
        f"<body>\n{body}\n"
        f'<script type="application/json" id="plan">{page_data(document)}</script>\n'
        f"{libraries}\n<script>{script}</script>\n</body>\n</html>\n"
    )


def fragment(document: PlanDocument, picture: str) -> str:
    """The plan as an element of a page, for notebooks; `picture` is an SVG document."""
    svg = picture[picture.index("<svg ") :]
    return (
        '<div class="plan" style="overflow-x:auto">\n'
        f"{svg}\n<details><summary>Why</summary><pre>{markup.escape(explain(document))}</pre>"
        f"</details>\n<details><summary>What</summary><pre>"
        f"{markup.escape(plan_table(document, width=120))}</pre></details>\n</div>"
    )


@cache
def _asset(name: str) -> str:
    text = files("partitioner.report").joinpath("assets", name).read_text(encoding="utf-8")
    return "\n".join(line for line in text.splitlines() if not line.startswith(SOURCE_MAP))


def _devices(document: PlanDocument) -> str:
    busy = busy_seconds(document)
    rows = []
    for device, use in document.memory.items():
        share = busy[device] / document.step_seconds if document.step_seconds else 0.0
        rows.append(
            (
                device,
                kind_text(document, device),
                f"{format_seconds(busy[device])} ({percent(share)})" if busy[device] else "idle",
                format_nbytes(use.peak),
                "none" if use.limit is None else format_nbytes(use.limit),
                percent(use.peak / use.limit) if use.limit else "",
                *(_some(getattr(use, role)) for role in ROLE_COLOURS),
            )
        )
    heads = ("device", "kind", "busy in a step", "peak", "limit", "full", *ROLE_COLOURS)
    return _table("Devices: time and memory", heads, rows, text=2)


def _timeline_note(document: PlanDocument) -> str:
    if document.pipeline is None:
        return "Forward, then backward; what is sent is on thin rows below the device that sends."
    return (
        "Each box is a stage's work on one micro-batch, with its number; what is sent is on thin "
        "rows below the device that sends."
    )


def _memory(document: PlanDocument) -> str:
    if not document.memory_curves:
        return (
            '<p class="missing">This plan does not tell what devices hold over time, as older ones '
            "did not. Plan again with this version to see it; the table of devices has the "
            "peaks.</p>"
        )
    parts = [f"<p>{markup.escape(curve_note(document))}</p>"]
    for device, curve in document.memory_curves.items():
        rows = [(held.what, held.role, format_nbytes(held.nbytes)) for held in curve.at_peak]
        if curve.others:
            rows.append((f"{curve.others} more", "", format_nbytes(curve.others_nbytes)))
        caption = f"What {device} holds at its fullest, {format_nbytes(_top(curve))}"
        table = _table(caption, ("what", "role", "bytes"), rows, text=2, hidden=True)
        parts.append(
            f'<div class="device-memory"><h3>{markup.escape(device)}</h3>'
            f'<div class="chart" data-curve="{markup.escape(device, quote=True)}"></div>'
            f"<details><summary>{markup.escape(caption)}</summary>{table}</details></div>"
        )
    return "\n".join(parts)


def _top(curve: MemoryCurve) -> int:
    columns = [getattr(curve, role) for role in ROLE_COLOURS]
    return max(map(sum, zip(*columns, strict=True)), default=0)


def _transfers(document: PlanDocument) -> str:
    shown = sorted(document.transfers, key=lambda transfer: -transfer.nbytes)[:ROWS]
    rows: list[Sequence[Cell]] = [
        (
            transfer.tensor,
            transfer.phase if transfer.phase == "forward" else "gradient back",
            transfer.source,
            transfer.destination,
            format_nbytes(transfer.nbytes),
            format_seconds(transfer.seconds),
        )
        for transfer in shown
    ]
    rest = len(document.transfers) - len(shown)
    if rest:
        rows.append((f"{rest} smaller ones", "", "", "", "", ""))
    told = f"<p>In one step: {markup.escape(moved(document))}.</p>"
    if not rows:
        return told
    heads = ("value", "what", "from", "to", "bytes", "time alone on its way")
    each = (
        "Transfers of one micro-batch" if document.pipeline is not None else "Transfers of a step"
    )
    return told + _table(f"{each}, the largest first", heads, rows, text=4)


def _certificate(document: PlanDocument) -> str:
    certificate = document.certificate
    rows = [
        ("verdict", quality(certificate)),
        ("objective", document.objective),
        ("this plan", objective_text(document.objective, certificate.objective)),
        ("no plan can be below", objective_text(document.objective, certificate.bound)),
        ("gap", percent(certificate.gap)),
        ("found by", certificate.solver),
    ]
    return _table("How good the plan is, and who says so", ("", ""), rows, text=2)


def _constraints(document: PlanDocument) -> str:
    if not document.constraints:
        return "<p>None: the plan was free in all.</p>"
    return _list(f"{text}" for text in document.constraints)


def _cluster(document: PlanDocument) -> str:
    devices = [_device_row(record, document) for record in document.cluster.devices]
    links = [_link_row(record) for record in document.cluster.links]
    heads = ("device", "kind", "memory", "FLOP/s", "memory bandwidth")
    found = _table("Devices as they were declared", heads, devices, text=2)
    if links:
        link_heads = ("link", "bandwidth", "latency", "remarks")
        found += _table("Links as they were declared", link_heads, links, text=1)
    return found


def _device_row(record: DeviceRecord, document: PlanDocument) -> Sequence[Cell]:
    flops, bandwidth = record.flops_per_second, record.memory_bandwidth
    return (
        record.name,
        kind_text(document, record.name),
        "none declared" if record.memory is None else format_nbytes(record.memory),
        "of its kind" if flops is None else f"{flops:.4g}",
        "of its kind" if bandwidth is None else format_bandwidth(bandwidth),
    )


def _link_row(record: LinkRecord) -> Sequence[Cell]:
    if record.between is not None:
        ends = f"{record.between[0]} ↔ {record.between[1]}"
    else:
        ends = f"{record.source} → {record.destination}"
    remarks = [f"over {record.via}"] if record.via else []
    remarks += [f"shares {', '.join(record.shared)}"] if record.shared else []
    remarks += ["broken"] if record.broken else []
    bandwidth = "" if record.bandwidth is None else format_bandwidth(record.bandwidth)
    return (ends, bandwidth, format_seconds(record.latency), "; ".join(remarks))


def _some(nbytes: int) -> str:
    return format_nbytes(nbytes) if nbytes else "-"


def _list(items: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{markup.escape(item)}</li>" for item in items) + "</ul>"


def _table(
    caption: str,
    heads: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    *,
    text: int,
    hidden: bool = False,
) -> str:
    """A table whose first `text` columns are words; the others are numbers."""
    kind = ' class="visually-hidden"' if hidden else ""
    told = f"<caption{kind}>{markup.escape(caption)}</caption>"
    head = "".join(
        f'<th scope="col"{_number(i, text)}>{markup.escape(name)}</th>'
        for i, name in enumerate(heads)
    )
    top = f"<thead><tr>{head}</tr></thead>" if any(heads) else ""
    body = "".join(
        "<tr>"
        + "".join(
            f'<th scope="row">{markup.escape(str(cell))}</th>'
            if i == 0
            else f"<td{_number(i, text)}>{markup.escape(str(cell))}</td>"
            for i, cell in enumerate(row)
        )
        + "</tr>"
        for row in rows
    )
    return f'<div class="wide" tabindex="0"><table>{told}{top}<tbody>{body}</tbody></table></div>'


def _number(column: int, text: int) -> str:
    return ' class="number"' if column >= text else ""
