"""Sweeps: each cell is what a plan of its own says, and what does not fit is told as such."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import partitioner
from partitioner import Cluster, InfeasibleError, SpecError
from partitioner.cli import cli
from partitioner.report import Cell, Sweep
from partitioner.spec import counted

BATCHES = (8, 128)
INPUT = torch.empty(8, 64)


def layers() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())


@pytest.fixture(scope="module")
def swept() -> Sweep:
    return partitioner.sweep(layers(), "1..2x90KiB", INPUT, batches=BATCHES, optimizer="adam")


def test_every_cell_is_what_its_own_plan_says(swept: Sweep) -> None:
    assert {cell.fits for cell in swept.cells} == {True, False}
    unfit, fit = swept.cells[:2]
    with pytest.raises(InfeasibleError) as caught:
        partitioner.plan(layers(), unfit.devices, INPUT, optimizer="adam")
    assert unfit.outcome == "does not fit"
    assert unfit.lacks_nbytes == caught.value.shortfall["total"]
    plan = partitioner.plan(layers(), fit.devices, INPUT, optimizer="adam")
    assert fit.outcome == plan.certificate.status
    assert fit.step_seconds == plan.step_seconds
    assert fit.bottleneck_seconds == plan.bottleneck_seconds
    assert fit.peak_nbytes == max(use.peak for use in plan.memory.values())
    assert fit.used == len(set(plan.placement.values()))


def test_the_smallest_cluster_of_each_batch_is_told(swept: Sweep) -> None:
    assert [(c.devices, c.batch) for c in swept.cells] == [
        (devices, batch) for batch in BATCHES for devices in ("1x90KiB", "2x90KiB")
    ]
    smallest = swept.smallest[8]
    assert smallest is not None
    assert smallest.devices == "2x90KiB"
    assert swept.smallest[128] is None
    text = str(swept)
    assert "the smallest that fits batch 8: 2x90KiB" in text
    assert "the smallest that fits batch 128: nothing here" in text
    assert text.count("does not fit, lacks") == 3


@given(
    st.lists(
        st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.booleans()),
        max_size=8,
    )
)
def test_the_frontier_is_what_no_other_plan_beats(
    figures: list[tuple[int, int, int, bool]],
) -> None:
    cells = tuple(
        Cell(f"{count}x1GiB", count, 1, "optimal" if fits else "does not fit",
             step_seconds=float(seconds), peak_nbytes=peak)
        for count, seconds, peak, fits in figures
    )  # fmt: skip
    worth = Sweep("Any", "train", "latency", cells).frontier
    fitting = [figure for figure in figures if figure[3]]
    expected = [
        figure
        for figure in fitting
        if not any(
            all(a <= b for a, b in zip(other[:3], figure[:3], strict=True)) and other != figure
            for other in fitting
        )
    ]
    assert [(c.count, c.step_seconds, c.peak_nbytes) for c in worth] == [f[:3] for f in expected]


def test_a_sweep_over_pipelines_has_their_timetable() -> None:
    options = {"objective": "throughput", "micro_batches": 4}
    (cell,) = partitioner.sweep(layers(), ["2x1MiB"], INPUT, **options).cells  # type: ignore[arg-type]
    plan = partitioner.plan(layers(), "2x1MiB", INPUT, **options)  # type: ignore[arg-type]
    assert (cell.step_seconds, cell.used) == (plan.step_seconds, 2)


def test_an_interruption_leaves_what_there_is() -> None:
    def stop(line: str) -> None:
        if line.startswith("2x1MiB, batch 8") and "interrupted" not in line:
            raise KeyboardInterrupt

    found = partitioner.sweep(layers(), "1..3x1MiB", INPUT, progress=stop)
    assert [cell.outcome for cell in found.cells] == ["optimal", "not tried", "not tried"]


def test_what_the_time_does_not_suffice_for_is_not_tried() -> None:
    found = partitioner.sweep(layers(), "1..2x1MiB", INPUT, time_limit=1e-9)
    assert {cell.outcome for cell in found.cells} == {"not tried"}


def test_it_is_written_and_drawn_by_the_suffix(swept: Sweep, tmp_path: Path) -> None:
    for suffix, begin in ((".svg", b"<?xml"), (".png", b"\x89PNG"), (".pdf", b"%PDF")):
        swept.save(tmp_path / f"sweep{suffix}")
        assert (tmp_path / f"sweep{suffix}").read_bytes().startswith(begin)
    drawn = (tmp_path / "sweep.svg").read_bytes()
    swept.save(tmp_path / "sweep.svg")
    assert (tmp_path / "sweep.svg").read_bytes() == drawn
    swept.save(tmp_path / "sweep.csv")
    rows = list(csv.DictReader((tmp_path / "sweep.csv").read_text().splitlines()))
    assert [row["outcome"] for row in rows] == [cell.outcome for cell in swept.cells]
    swept.save(tmp_path / "sweep.json")
    found = json.loads((tmp_path / "sweep.json").read_text())
    assert found["cells"][1]["step_seconds"] == swept.cells[1].step_seconds
    with pytest.raises(SpecError, match=r"did you mean '\.csv'"):
        swept.save(tmp_path / "sweep.cvs")


def test_a_range_is_one_cluster_for_each_count() -> None:
    assert counted("1..3x24GiB") == ("1x24GiB", "2x24GiB", "3x24GiB")
    assert counted("2xa100-40gb") == ("2xa100-40gb",)
    assert [len(Cluster.of(each).devices) for each in counted("2..3xa100-40gb")] == [2, 3]
    for empty in ("0..2x1GiB", "3..2x1GiB"):
        with pytest.raises(SpecError, match="a smaller count to a larger one"):
            counted(empty)


def test_the_command_prints_the_table_and_writes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "sweep.csv"
    arguments = ["sweep", "examples.seqnet:model", "--devices", "1x4MiB", "--devices", "1x2KiB"]
    result = CliRunner().invoke(cli, [*arguments, "--batch", "64", "-o", str(path)])
    assert result.exit_code == 0, result.stderr
    assert "the smallest that fits batch 64: 1x4MiB" in result.stdout
    assert len(path.read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--devices", "2..1x1GiB"), "a smaller count"),
        (("--devices", "1x1GiB", "--batch", "some"), "whole numbers"),
        (("--devices", "1x1GiB", "--batch", "0"), "at least 1"),
        (("--devices", "1x1GiB", "-o", "sweep.xlsx"), "'.csv'"),
    ],
)
def test_bad_input_is_told(options: tuple[str, ...], told: str) -> None:
    result = CliRunner().invoke(cli, ["sweep", "examples.seqnet:model", *options])
    assert (result.exit_code, result.stdout) == (2, "")
    assert told in result.stderr
