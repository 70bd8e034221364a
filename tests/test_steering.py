"""Steering: plans that begin at old ones, and what moved between two plans."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from torch import nn

import partitioner
from partitioner import Pin, Plan
from partitioner.cli import cli

SEQNET = "examples.seqnet:model"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plan of SeqNet with everything asked for that can be kept."""
    path = tmp_path_factory.mktemp("plans") / "old.json"
    asked = ("--devices", "cuda:0=1GiB,cuda:1=2GiB", "--optimizer", "adam", "--mode", "train")
    result = run("plan", SEQNET, *asked, "--input", "f32[16,784]", "--objective", "memory",
                 "--pin", "lin1=cuda:0", "--pin", "lin2=cuda:0", "-o", path)  # fmt: skip
    assert result.exit_code == 0, result.stderr
    return path


def test_what_is_not_said_is_as_it_was(old: Path, tmp_path: Path) -> None:
    path = tmp_path / "new.json"
    result = run("plan", SEQNET, "--from", old, "-o", path)
    assert result.exit_code == 0, result.stderr
    assert path.read_text() == old.read_text()
    assert "nothing moved" in result.stdout


def test_a_pin_takes_the_place_of_the_old_one_and_what_moved_is_told(
    old: Path, tmp_path: Path
) -> None:
    path = tmp_path / "new.json"
    result = run("plan", SEQNET, "--from", old, "--pin", "lin2=cuda:1", "-o", path)
    assert result.exit_code == 0, result.stderr
    before, after = Plan.load(old), Plan.load(path)
    assert after.constraints == ("pin lin1=cuda:0", "pin lin2=cuda:1")
    assert (after.objective, after.optimizer) == (before.objective, before.optimizer)
    assert (after.inputs, after.cluster) == (before.inputs, before.cluster)
    assert {name for name, home in after.parameters.items() if home == "cuda:1"} == {
        "lin2.weight",
        "lin2.bias",
    }
    assert "lin2 cuda:0 → cuda:1" in words(result.stdout)
    compared = run("compare", old, path)
    assert compared.exit_code == 0, compared.stderr
    assert "lin2 cuda:0 → cuda:1" in words(compared.stdout)


def test_json_stays_alone_on_stdout(old: Path) -> None:
    result = run("plan", SEQNET, "--from", old, "--pin", "lin2=cuda:1", "--json")
    assert json.loads(result.stdout)["schema"] == 1
    assert "→ cuda:1" in result.stderr


def test_the_difference_counts_what_the_plans_say(old: Path) -> None:
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    inputs = torch.empty(4, 16)
    first = partitioner.plan(model, "2x1GiB", inputs, constraints=[Pin("*", "cuda:0")])
    second = partitioner.plan(model, "3x1GiB", inputs, start=first,
                              constraints=[Pin("2", "cuda:2"), Pin("0", "cuda:0")])  # fmt: skip
    found = second.changes_from(first)
    moved = {name for name, home in second.placement.items() if first.placement[name] != home}
    assert sum(row.operations for row in found.moved) == len(moved) > 0
    assert {row.what: row.state_nbytes for row in found.moved}["2"] == 4 * (16 * 4 + 4)
    assert (found.step_seconds.old, found.step_seconds.new) == (
        first.step_seconds,
        second.step_seconds,
    )
    assert found.peak_nbytes["cuda:2"].old is None
    assert found.peak_nbytes["cuda:2"].new == second.memory["cuda:2"].peak
    assert found.moved_nbytes.new == sum(transfer.nbytes for transfer in second.transfers)
    assert not second.changes_from(second).moved


def test_plans_need_devices_or_an_old_plan() -> None:
    result = run("plan", SEQNET)
    assert result.exit_code == 2
    assert "--devices" in result.stderr
    assert "--from" in result.stderr
