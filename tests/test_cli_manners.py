"""How the command line behaves: interruptions, how much it says, completion, spelling."""

from __future__ import annotations

import os
import re
import signal
import textwrap
import time
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner, Result

from partitioner import Plan
from partitioner.cli import cli
from tests.forks import Forked, program

SEQNET = "examples.seqnet:model"


def run(*arguments: str, **options: object) -> Result:
    return CliRunner().invoke(cli, list(arguments), **options)  # type: ignore[arg-type]


def completions(arguments: list[str], incomplete: str) -> list[str]:
    found = ShellComplete(cli, {}, "partitioner", "_PARTITIONER_COMPLETE")
    return [item.value for item in found.get_completions(arguments, incomplete)]


def test_an_interruption_while_it_solves_gives_the_best_plan_so_far(tmp_path: Path) -> None:
    """Layers that no division over five GPUs balances, so that no proof ends the search."""
    (tmp_path / "uneven.py").write_text(
        textwrap.dedent("""
            from torch import nn
            sizes = [23 + 37 * i * i % 101 for i in range(40)]
            model = nn.Sequential(*(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:])))
        """)
    )
    asked = "plan uneven:model --devices 5x1GiB --objective throughput --time-limit 300 -v"
    command = (*asked.split(), "-o", "plan.json")
    job = Forked(tmp_path, program, "partitioner", command, str(tmp_path), (str(tmp_path),))
    while not re.search(r"plan of .* gap", job.err.read_text()):
        assert job.process.is_alive(), job.finished()
        time.sleep(0.1)
    assert job.process.pid is not None
    os.kill(job.process.pid, signal.SIGINT)
    code, shown, told = job.finished(300)
    assert code == 0, told
    assert "interrupted: the best plan so far" in told
    plan = Plan.load(tmp_path / "plan.json")
    assert plan.certificate.status == "feasible"
    assert shown.startswith("Sequential")
    assert [name for name in os.listdir(tmp_path) if "json" in name] == ["plan.json"]


def test_an_interruption_with_nothing_found_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("partitioner.cli.planning.make_plan", interrupted)
    path = tmp_path / "plan.json"
    result = run("plan", SEQNET, "--devices", "1x1GiB", "-o", str(path))
    assert (result.exit_code, result.stdout) == (130, "")
    assert os.listdir(tmp_path) == []


def test_it_says_as_much_as_is_wanted() -> None:
    asked = ("plan", SEQNET, "--devices", "1x1GiB")
    plain, quiet, verbose = run(*asked), run(*asked, "--quiet"), run(*asked, "-v")
    assert plain.stdout == quiet.stdout == verbose.stdout
    assert plain.stderr == quiet.stderr == ""
    assert " s  recording the model" in verbose.stderr
    assert "solving" in verbose.stderr


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ("show", "nowhere.json")
    assert "\x1b[31m" in run(*asked, color=True).stderr
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in run(*asked, color=True).stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--mode", "trian"), "Did you mean 'train'?"),
        (("--objective", "througput"), "Did you mean 'throughput'?"),
        (("--schedule", "1f2b"), "Did you mean '1f1b'?"),
        (("--optimiser", "adam"), "--optimizer"),
        (("--devices", "2xa100-40g"), "did you mean 'a100-40gb'"),
    ],
)
def test_the_nearest_spelling_is_told(arguments: tuple[str, ...], told: str) -> None:
    result = run("plan", SEQNET, "--devices", "1x1GiB", *arguments)
    assert result.exit_code == 2
    assert told in result.stderr


def test_it_completes_what_one_types() -> None:
    assert "sweep" in completions([], "s")
    assert "2xa100-40gb" in completions(["plan", SEQNET, "--devices"], "2xa100")
    assert all(name.startswith("3x") for name in completions(["plan", "m", "--devices"], "3x"))
    assert completions(["plan", SEQNET, "--objective"], "th") == ["throughput"]
    assert completions(["plan", SEQNET, "--optimizer"], "adam") == ["adam", "adamax", "adamw"]
    finder = ShellComplete(cli, {}, "partitioner", "_PARTITIONER_COMPLETE")
    assert [item.type for item in finder.get_completions(["show"], "plan")] == ["file"]


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_help_has_an_example_with_options_that_there_are(name: str) -> None:
    command = cli.commands[name]
    text = run(name, "--help").stdout
    assert f"  partitioner {name} " in text
    known = {
        option
        for each in cli.commands.values()
        for parameter in each.params
        if isinstance(parameter, click.Option)
        for option in parameter.opts
    }
    examples = [line for line in (command.help or "").splitlines() if "partitioner " in line]
    for example in examples:
        assert {word for word in example.split() if word.startswith("--")} <= known
