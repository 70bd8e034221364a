"""Pictures of a step: who works when, and how full each device is."""

from __future__ import annotations

from collections.abc import Iterator

from partitioner.errors import SpecError
from partitioner.placement import MemoryCurve, PlanDocument
from partitioner.report.canvas import LETTER, Canvas, bytes_text, legend, ticks, time_axis
from partitioner.report.palette import INK, palette
from partitioner.report.step import Sending, Work, lanes, merged, step_of
from partitioner.report.wording import curve_note, title, verdict
from partitioner.spec import format_nbytes, format_seconds

WIDTH = 760.0
"""Points of the time axis."""
NARROWEST = 3.0
"""Points of a box; neighbours that are narrower are drawn as one."""
ROW, LANE, GAP = 24.0, 11.0, 7.0
"""Height of a device's row and of a link's, and what is between devices."""
PANEL = 120.0
"""Height of one device's memory."""
FAR = 3.0
"""A limit of more than so many times the peak is told, not drawn."""
ROLE_COLOURS = {
    "parameters": "#0072B2",
    "optimizer": "#CC79A7",
    "gradients": "#E69F00",
    "activations": "#56B4E9",
    "workspace": "#999999",
}
"""Of Okabe and Ito; in the order of the pile, what stays longest at the bottom."""


def render_timeline(document: PlanDocument, form: str) -> bytes:
    """One step: devices as rows, below each the links on which it sends."""
    step = step_of(document)
    canvas = Canvas()
    colours = palette(document.devices)
    per_second = WIDTH / step.seconds if step.seconds else 0.0
    left = 12 + LETTER * 10 * max(map(len, _row_names(document, step.sendings)))
    top = _heading(canvas, document)
    rows: list[tuple[float, float, str, float]] = []
    tracks = lanes(step.sendings)
    start = bottom = top + 8
    places: dict[object, float] = {}
    for device in dict.fromkeys((*document.devices, *(source for source, _, _ in tracks))):
        rows.append((bottom, ROW, device, 10))
        places[device] = bottom
        bottom += ROW + 2
        for source, destination, track in tracks:
            if source == device:
                rows.append((bottom, LANE, "" if track else f"→ {destination}", 9))
                places[source, destination, track] = bottom
                bottom += LANE + 2
        bottom += GAP
    time_axis(canvas, left, start, bottom, WIDTH, step.seconds)
    for at, height, name, size in rows:
        canvas.text(left - 8, at + (height - size) / 2, name, size, align="right")
    for group in merged(step.work, NARROWEST / per_second if per_second else 0.0):
        begin, end = group[0].start_seconds, group[-1].end_seconds
        if end <= begin:
            continue
        shade = colours[group[0].device]
        fill = shade.full if group[0].phase == "forward" else shade.fill
        canvas.box(
            left + begin * per_second,
            places[group[0].device],
            (end - begin) * per_second,
            ROW,
            fill,
            _label(group),
            _tooltip(group),
        )
    for lane, members in tracks.items():
        for i in members:
            item = step.sendings[i]
            shade = colours.get(item.destination) or colours[document.devices[0]]
            batch = "" if item.micro_batch is None else f", micro-batch {item.micro_batch}"
            canvas.box(
                left + item.start_seconds * per_second,
                places[lane],
                max(1.0, (item.end_seconds - item.start_seconds) * per_second),
                LANE,
                shade.line,
                "",
                f"{item.what}{batch}, {item.phase}: {format_nbytes(item.nbytes)} to "
                f"{item.destination} in {format_seconds(item.end_seconds - item.start_seconds)}",
            )
    first = colours[document.devices[0]]
    phases = [(first.full, "forward"), (first.fill, "backward")]
    told = [*(phases if document.mode == "train" else phases[:1]), (first.line, "sending")]
    legend(canvas, left, bottom + 20, told)
    return canvas.render(form, f"Timeline. {title(document)}. {verdict(document)}")


def _row_names(document: PlanDocument, sendings: tuple[Sending, ...]) -> Iterator[str]:
    yield from document.devices
    yield from (f"→ {sending.destination}" for sending in sendings)
    yield from (sending.source for sending in sendings)


def _label(group: tuple[Work, ...]) -> str:
    if len(group) > 1:
        return ""
    (item,) = group
    return item.what if item.micro_batch is None else str(item.micro_batch)


def _tooltip(group: tuple[Work, ...]) -> str:
    first, last = group[0], group[-1]
    what = first.what if len(group) == 1 else f"{first.what} … {last.what} ({len(group)} nodes)"
    batch = "" if first.micro_batch is None else f", micro-batch {first.micro_batch}"
    seconds = last.end_seconds - first.start_seconds
    return f"{what}{batch}, {first.phase}: {format_seconds(seconds)} on {first.device}"


def render_memory(document: PlanDocument, form: str) -> bytes:
    """What each device holds in the course of a step, by role, with its limit.

    Raises:
        SpecError: the plan was made by an older version and does not tell.
    """
    if not document.memory_curves:
        raise SpecError(
            "this plan does not tell what devices hold over time, as older ones did not; plan "
            "again with this version"
        )
    canvas = Canvas()
    left = 80.0
    top = _heading(canvas, document)
    legend(canvas, left, top + 4, [(colour, role) for role, colour in ROLE_COLOURS.items()])
    top += 26
    for device in document.devices:
        use, curve = document.memory[device], document.memory_curves[device]
        highest = max(use.peak, max(map(sum, zip(*_rows(curve), strict=True)), default=0), 1)
        near = use.limit is not None and use.limit <= FAR * highest
        scale = PANEL / (1.06 * (max(highest, use.limit or 0) if near else highest))
        limit = "no limit" if use.limit is None else f"limit {format_nbytes(use.limit)}"
        canvas.text(left, top, f"{device}: peak {format_nbytes(use.peak)}, {limit}", 11)
        top += 18
        bottom = top + PANEL
        for at in ticks(PANEL / scale, binary=True, most=4):
            canvas.box(left, bottom - at * scale - 0.3, WIDTH, 0.6, "#DDDDDD")
            canvas.text(left - 6, bottom - at * scale - 5, bytes_text(at), 9, align="right")
        _areas(canvas, curve, document.step_seconds, left, bottom, scale)
        if near and use.limit is not None:
            for i in range(0, int(WIDTH), 8):
                canvas.box(left + i, bottom - use.limit * scale - 0.6, 5, 1.2, "#D55E00")
        canvas.box(left, bottom - 0.4, WIDTH, 0.8, INK)
        top = bottom + 12
    seconds = document.step_seconds
    for at in ticks(seconds):
        x = left + WIDTH * at / seconds
        canvas.text(x, top - 8, format_seconds(at) if at else "0", 9, align="middle")
    canvas.text(left, top + 10, f"Dashed: the limit. {curve_note(document)}", 9)
    return canvas.render(form, f"Memory over time. {title(document)}. {verdict(document)}")


def _rows(curve: MemoryCurve) -> list[tuple[int, ...]]:
    return [getattr(curve, role) for role in ROLE_COLOURS]


def _areas(
    canvas: Canvas, curve: MemoryCurve, seconds: float, left: float, bottom: float, scale: float
) -> None:
    """One box for each stretch in which a role's place in the pile stays the same."""
    base = [0] * len(curve.seconds)
    ends = (*curve.seconds[1:], max(seconds, *curve.seconds[-1:]))
    for role, values in zip(ROLE_COLOURS, _rows(curve), strict=True):
        start = 0
        for i in range(len(values)):
            here, after = (base[i], values[i]), i + 1 < len(values)
            if after and (base[i + 1], values[i + 1]) == here:
                continue
            if values[i]:
                x = left + WIDTH * curve.seconds[start] / seconds
                width = max(WIDTH * (ends[i] - curve.seconds[start]) / seconds, 1.5)
                height = values[i] * scale
                y = bottom - base[i] * scale - height
                canvas.box(x, y, width, height, ROLE_COLOURS[role], outlined=False)
            start = i + 1
        base = [under + value for under, value in zip(base, values, strict=True)]


def _heading(canvas: Canvas, document: PlanDocument) -> float:
    canvas.text(0, 0, title(document), 14)
    canvas.text(0, 20, verdict(document), 10)
    return 38.0
