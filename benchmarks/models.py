"""What can be placed: `python -m benchmarks.models [-o docs/models.md] [--resume] [--models A,B]`.

Every architecture of `tests.architectures` and every model of `tests.zoo`, small and with random
weights, is planned in training mode for 2 and for 4 devices with the objective `memory`, which
splits whatever can be split; with `--library torchvision,timm,diffusers` those of
`tests.libraries`, which `pip install 'partitioner[models]'` brings. The placed module then runs on
virtual GPUs beside the original, in train and in eval mode: outputs and their type, gradients,
buffers and `state_dict` keys must be equal. At another batch size it must do the same, or refuse
the call. The page is written after each model, so that a run can be stopped: it then names what was
not run, and `--resume` goes on from there, keeping every row of the page that is right.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from itertools import zip_longest
from pathlib import Path

from partitioner import PlacedModule, PlanError, partition
from partitioner.virtual import virtual_gpus
from tests.architectures import ARCHITECTURES
from tests.emit.side_by_side import Outcome, assert_same, step
from tests.libraries import LIBRARIES
from tests.zoo import ZOO, Case

LISTS: Mapping[str, Mapping[str, Case]] = {
    "transformers": ARCHITECTURES,
    "plain": ZOO,
    **LIBRARIES,
}
SMOKE = ("seqnet", "mlp")
COUNTS = (2, 4)
MEMORY = "16GiB"
OTHER_BATCH = 3


@dataclass(frozen=True)
class Finding:
    """How one plan of one model fared.

    Attributes:
        used: how many devices hold a part of it.
        runs: by kind of run, `"equal"` or what went wrong.
        seconds: of the processor, for recording, planning and placing.
    """

    used: int
    runs: Mapping[str, str]
    seconds: float

    @property
    def right(self) -> bool:
        """Nothing differs, and only another batch size may be refused."""
        return bool(self.runs) and all(
            found == "equal" or (run == "other batch" and found == "refused")
            for run, found in self.runs.items()
        )

    @property
    def trouble(self) -> str:
        """What is not equal, for the table."""
        return "; ".join(f"{run}: {text}" for run, text in self.runs.items() if text != "equal")


def examine(case: Case) -> dict[int, Finding]:
    """Plan, place and compare, for each number of devices."""
    runs = {"train": (case, True), "eval": (case, False)}
    if case.batched:
        args, kwargs = case.args(OTHER_BATCH), case.kwargs(OTHER_BATCH)
        other = replace(case, args=lambda: args, kwargs=lambda: kwargs)
        runs["other batch"] = (other, True)
    original = case.build()
    expected = {
        run: step(original, called, training=training) for run, (called, training) in runs.items()
    }
    found: dict[int, Finding] = {}
    for count in COUNTS:
        started = time.process_time()
        with virtual_gpus(count):
            try:
                placed = partition(
                    case.build(), f"{count}x{MEMORY}", case.args(), example_kwargs=case.kwargs(),
                    mode="train", objective="memory",
                )  # fmt: skip
            except Exception as error:
                found[count] = Finding(0, {"plan": _short(error)}, time.process_time() - started)
                continue
            seconds = time.process_time() - started
            used = len({*placed.plan.placement.values()})
            compared = {
                run: _compared(expected[run], placed, called, training)
                for run, (called, training) in runs.items()
            }
        found[count] = Finding(used, compared, seconds)
    return found


def _compared(expected: Outcome, placed: PlacedModule, case: Case, training: bool) -> str:
    try:
        assert_same(expected, step(placed, case, training=training))
    except PlanError as error:
        return (
            "refused" if "differs from the one that was recorded" in str(error) else _short(error)
        )
    except Exception as error:
        return _short(error)
    return "equal"


def _short(error: Exception) -> str:
    lines = f"{type(error).__name__}: {error}".splitlines() or [""]
    return lines[0].replace("|", "/")[:160]


def rounds(cases: Iterable[Case]) -> list[Case]:
    """One of each kind, then another of each: a run that is stopped has seen every kind."""
    kinds: dict[str, list[Case]] = {}
    for case in cases:
        kinds.setdefault(_kind(case), []).append(case)
    return [case for each in zip_longest(*kinds.values()) for case in each if case is not None]


def row(case: Case, findings: Mapping[int, Finding]) -> str:
    """A line of the table."""
    return f"| {case.name} | {_kind(case)} | {_row(findings)} |"


def page(cases: Sequence[Case], rows: Mapping[str, str]) -> str:
    """The table of what was run so far, in the order of `cases`, with a summary."""
    waiting = [case.name for case in cases if case.name not in rows]
    run = [rows[case.name] for case in cases if case.name in rows]
    right = sum(map(_is_right, run))
    lines = [*_head(), *TABLE, *run, "", f"Right: {right} of {len(run)}."]
    if waiting:
        lines += ["", f"Not run: {', '.join(waiting)}."]
    return "\n".join(lines) + "\n"


def rows_of(text: str, names: Iterable[str]) -> dict[str, str]:
    """The rows of a page that are right, by model."""
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in text.splitlines()}
    return {name: rows[name] for name in names if name in rows and _is_right(rows[name])}


def _is_right(row: str) -> bool:
    *_, compared, other, _ = row.split(" | ")
    return compared == "equal" and "differs" not in other


def _row(findings: Mapping[int, Finding]) -> str:
    runs = [finding.runs for finding in findings.values()]
    troubles = {f.trouble for f in findings.values() if not f.right}
    others = {run.get("other batch", "takes one only") for run in runs}
    same = "equal" if not troubles else " / ".join(sorted(troubles))
    return " | ".join(
        (
            ", ".join(str(finding.used) for finding in findings.values()),
            same,
            " / ".join(sorted(other if other in SHORT else "differs" for other in others)),
            f"{sum(finding.seconds for finding in findings.values()):.1f}",
        )
    )


SHORT = ("equal", "refused", "takes one only")


def _kind(case: Case) -> str:
    return ", ".join(sorted(case.tags - {"hf"})) or "plain"


def main() -> None:
    """Print the table, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a few models only")
    parser.add_argument("--models", help="names, with commas between")
    parser.add_argument(
        "--library",
        default="transformers,plain",
        help=f"of {', '.join(LISTS)}, with commas between",
    )
    parser.add_argument("--resume", action="store_true", help="keep what the page has right")
    parser.add_argument("-o", "--output", type=Path, help="write a page to this file")
    options = parser.parse_args()
    every = {name: case for cases in LISTS.values() for name, case in cases.items()}
    libraries = options.library.split(",")
    for library in libraries:
        if library not in LISTS or (library != "plain" and find_spec(library) is None):
            parser.error(f"{library} is not installed: pip install 'partitioner[models]'")
    chosen = [name for library in libraries for name in LISTS[library]]
    names = options.models.split(",") if options.models else SMOKE if options.smoke else chosen
    page_path: Path | None = options.output
    rows: dict[str, str] = {}
    if options.resume and page_path is not None and page_path.exists():
        rows = rows_of(page_path.read_text(), every)
    cases = [case for name, case in every.items() if name in names or name in rows]
    print("\n".join([*TABLE, *rows.values()]))
    for case in rounds(case for case in cases if case.name not in rows):
        rows[case.name] = row(case, examine(case))
        print(rows[case.name], flush=True)
        if page_path is not None:
            page_path.write_text(page(cases, rows))


TABLE = (
    "| model | kind | devices used of 2, of 4 | outputs, gradients, state | other batch | s |",
    "| --- | --- | --- | --- | --- | ---: |",
)


def _head() -> tuple[str, ...]:
    libraries = (name for name in ("torch", "transformers", *LIBRARIES) if find_spec(name))
    versions = ", ".join(f"{name} {version(name)}" for name in libraries)
    return (
        "# Models that can be placed",
        "",
        "Made by `python -m benchmarks.models -o docs/models.md` (and `--resume --library",
        "torchvision,timm,diffusers`, an optional run) with",
        f"{versions}, on Python {platform.python_version()};",
        "small models with random weights.",
        "Each is planned in training mode for 2 and for 4 devices with the objective `memory`,",
        "which splits what can be split, and runs on virtual GPUs beside the original. *Equal*:",
        "outputs and their type, gradients, buffers after the step and `state_dict` keys, in train",
        "mode and, after the switch, in eval mode. *Other batch*: the same plan at another batch",
        "size, equal too or refused with an error. Seconds are the processor's, for recording,",
        "planning and placing, both plans together.",
        "",
    )


if __name__ == "__main__":
    main()
