"""A step in the trace event format that Perfetto and chrome://tracing open.

Each device is a process: a thread computes, and one for each link sends. Arrows lead from what
makes a value over its transfer to what waits for it; counters tell the memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from partitioner.placement import NodeCosts, PlanDocument
from partitioner.placement.memory import LEVELS
from partitioner.report.step import Step, Work, lanes, step_of
from partitioner.report.wording import kind_text, title, verdict

MICROSECONDS = 1e6


def render_trace(document: PlanDocument) -> str:
    """The step as a JSON document, times in microseconds."""
    step = step_of(document)
    events = [*_names(document, step), *_work(document, step), *_sendings(step)]
    events += _memory(document)
    content = {
        "displayTimeUnit": "ns",
        "otherData": {"title": title(document), "verdict": verdict(document)},
        "traceEvents": events,
    }
    lines = ",\n".join(json.dumps(event, ensure_ascii=False) for event in events)
    head = json.dumps({**content, "traceEvents": []}, ensure_ascii=False)
    return f"{head[:-2]}\n{lines}\n]}}\n"


def _processes(step: Step) -> dict[str, int]:
    """The process of each device, and of each host that is only passed through."""
    ends = (end for sending in step.sendings for end in (sending.source, sending.destination))
    return {name: i + 1 for i, name in enumerate(dict.fromkeys((*step.devices, *ends)))}


def _names(document: PlanDocument, step: Step) -> Iterator[dict[str, Any]]:
    processes = _processes(step)
    for name, process in processes.items():
        kind = kind_text(document, name)
        yield _named("process_name", process, 0, f"{name} ({kind})" if kind else name)
        yield {
            "ph": "M",
            "name": "process_sort_index",
            "pid": process,
            "args": {"sort_index": process},
        }
        if name in step.devices:
            yield _named("thread_name", process, 1, "compute")
    for thread, (source, destination, track) in enumerate(lanes(step.sendings), 2):
        more = f" ({track + 1})" if track else ""
        yield _named("thread_name", processes[source], thread, f"to {destination}{more}")


def _named(what: str, process: int, thread: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": what, "pid": process, "tid": thread, "args": {"name": name}}


def _work(document: PlanDocument, step: Step) -> Iterator[dict[str, Any]]:
    processes = _processes(step)
    for item in step.work:
        batch = "" if item.micro_batch is None else f", micro-batch {item.micro_batch}"
        yield {
            "ph": "X",
            "name": item.what + batch,
            "cat": item.phase,
            "pid": processes[item.device],
            "tid": 1,
            "ts": item.start_seconds * MICROSECONDS,
            "dur": (item.end_seconds - item.start_seconds) * MICROSECONDS,
            "args": {"phase": item.phase, **_details(document.costs.get(item.what), item)},
        }


def _details(costs: NodeCosts | None, item: Work) -> dict[str, Any]:
    if costs is None:
        return {"micro_batch": item.micro_batch}
    return {
        "operator": costs.operator,
        "module": costs.module_path,
        "value_nbytes": costs.nbytes,
        "flops": costs.flops,
    }


def _sendings(step: Step) -> Iterator[dict[str, Any]]:
    processes = _processes(step)
    for thread, ((source, _, _), members) in enumerate(lanes(step.sendings).items(), 2):
        for i in members:
            item = step.sendings[i]
            batch = "" if item.micro_batch is None else f", micro-batch {item.micro_batch}"
            start, end = item.start_seconds * MICROSECONDS, item.end_seconds * MICROSECONDS
            yield {
                "ph": "X",
                "name": item.what + batch,
                "cat": "transfer",
                "pid": processes[source],
                "tid": thread,
                "ts": start,
                "dur": end - start,
                "args": {
                    "phase": item.phase,
                    "nbytes": item.nbytes,
                    "from": source,
                    "to": item.destination,
                },
            }
            here = (processes[source], thread)
            if item.made_by is not None:
                maker = step.work[item.made_by]
                at = maker.end_seconds * MICROSECONDS
                yield from _arrow(2 * i, (processes[maker.device], 1), at, here, start)
            if item.awaited_by is not None:
                waiting = step.work[item.awaited_by]
                at = waiting.start_seconds * MICROSECONDS
                yield from _arrow(2 * i + 1, here, end, (processes[waiting.device], 1), at)


def _arrow(
    identity: int, source: tuple[int, int], left: float, target: tuple[int, int], reached: float
) -> Iterator[dict[str, Any]]:
    shared = {"cat": "flow", "name": "moved", "id": identity}
    yield {"ph": "s", **shared, "pid": source[0], "tid": source[1], "ts": left}
    yield {"ph": "f", "bp": "e", **shared, "pid": target[0], "tid": target[1], "ts": reached}


def _memory(document: PlanDocument) -> Iterator[dict[str, Any]]:
    for process, device in enumerate(document.devices, 1):
        curve = document.memory_curves.get(device)
        for i, seconds in enumerate(curve.seconds if curve is not None else ()):
            yield {
                "ph": "C",
                "name": "memory (bytes, reckoned)",
                "pid": process,
                "ts": seconds * MICROSECONDS,
                "args": {role: getattr(curve, role)[i] for role in LEVELS},
            }
