"""`partitioner measure`, and planning with the times that it wrote."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cost_models import MeasuredCostModel
from partitioner import Plan
from partitioner.cli import INTERRUPTED, cli
from partitioner.spec import format_seconds

SEQNET = "examples.seqnet:model"
ROOT = Path(__file__).parent.parent
INPUT = ("--input", "f32[4,1,28,28]")


@pytest.fixture(autouse=True)
def _in_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def bad(result: Result) -> str:
    """The message of a command that was given bad input."""
    assert result.exit_code == 2, (result.exit_code, result.output, result.exception)
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return " ".join(result.stderr.split())


@pytest.fixture(scope="module")
def times(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Times of SeqNet's training step on the CPU."""
    path = tmp_path_factory.mktemp("times") / "times.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        result = run("measure", SEQNET, *INPUT, "--mode", "train", "-o", path)
    assert (result.exit_code, result.output) == (0, ""), result.output
    return path


def scaled(times: Path, target: Path, factor: float, kind: str = "generic-cpu") -> Path:
    """The file of a machine that is so many times slower, of another kind."""
    document = json.loads(times.read_text())
    (table,) = document["measurements"].values()
    for entry in table.values():
        entry["median_seconds"] *= factor
    (overhead,) = document["overhead_seconds"].values()
    document["measurements"] = {kind: table}
    document["overhead_seconds"] = {kind: overhead * factor}
    target.write_text(json.dumps(document))
    return target


def planned(times: Path, output: Path, devices: str = "cpu") -> float:
    """Seconds of a step by a file of times."""
    result = run(
        "plan", SEQNET, *INPUT, "--devices", devices, "--mode", "train", "--cost-model", times,
        "-o", output,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    return Plan.load(output).step_seconds


def test_times_decide_what_a_plan_promises(times: Path, tmp_path: Path) -> None:
    promised = planned(times, tmp_path / "plan.json")
    slower = scaled(times, tmp_path / "slower.json", 1000)
    assert planned(slower, tmp_path / "plan.json") == pytest.approx(1000 * promised)


def test_compare_judges_by_the_times_too(times: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    promised = planned(times, plan)
    result = run("compare", SEQNET, plan, "--cost-model", scaled(times, tmp_path / "s.json", 1000))
    assert result.exit_code == 0, result.output
    assert format_seconds(1000 * promised) in result.stdout
    assert format_seconds(promised) not in result.stdout


def test_without_a_file_the_times_are_on_stdout(times: Path, tmp_path: Path) -> None:
    result = run("measure", SEQNET, *INPUT, "--mode", "inference", "--add-to", times)
    assert result.exit_code == 0, result.output
    assert result.stdout == times.read_text()


def test_adding_to_a_file_measures_only_what_is_new(times: Path, tmp_path: Path) -> None:
    path = tmp_path / "more.json"
    arguments = ("--input", "f32[5,1,28,28]", "--mode", "inference", "--add-to", times, "-o", path)
    assert run("measure", SEQNET, *arguments).exit_code == 0
    before = MeasuredCostModel.load(times).measurements["generic-cpu"]
    after = MeasuredCostModel.load(path).measurements["generic-cpu"]
    assert len(after) > len(before)
    assert {signature: after[signature] for signature in before} == before


def test_a_terminal_sees_how_far_it_is() -> None:
    arguments = ["measure", SEQNET, "--input", "f32[2,1,28,28]", "--mode", "inference"]
    result = CliRunner().invoke(cli, arguments, env={"FORCE_COLOR": "1"})
    done, total = re.findall(r"(\d+)/(\d+)", result.stderr)[-1]
    assert done == total == str(len(json.loads(result.stdout)["measurements"]["generic-cpu"]))


def test_what_cannot_be_measured_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bags.py").write_text("import torch\nmodel = torch.nn.EmbeddingBag(8, 4)\n")
    monkeypatch.syspath_prepend(tmp_path)
    result = run("measure", "bags:model", "--input", "i64[3,2]", "--mode", "train")
    assert result.exit_code == 0, result.output
    assert "embedding_bag" in result.stderr
    assert "was not measured" in result.stderr


def test_interrupted_it_leaves_every_file_as_it_was(
    times: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "times.json"
    path.write_bytes(times.read_bytes())

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cost_models.measured.time_call", interrupted)
    result = run("measure", SEQNET, "--input", "f32[6,1,28,28]", "--add-to", path, "-o", path)
    assert result.exit_code == INTERRUPTED
    assert path.read_bytes() == times.read_bytes()
    assert os.listdir(tmp_path) == ["times.json"]


PLAN = ("plan", SEQNET, "--devices", "cpu", "--cost-model")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no JSON"),
        ('{"schema": 1, "placement": {}}', "'measurements' must be an object"),
        ('{"schema": 7}', "schema 7"),
        ("\x00\xff", "is no JSON"),
    ],
)
def test_a_file_that_holds_no_times_is_told(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "times.json"
    path.write_text(text, encoding="latin-1")
    output = tmp_path / "plan.json"
    assert message in bad(run(*PLAN, path, "-o", output))
    assert message in bad(run("measure", SEQNET, *INPUT, "--add-to", path, "-o", output))
    assert not output.exists()


def test_a_file_that_is_not_there_is_told() -> None:
    assert "nowhere.json" in bad(run(*PLAN, "nowhere.json"))


def test_a_device_that_is_not_there_is_told() -> None:
    assert "no device 'cuda:99'" in bad(run("measure", SEQNET, "--device", "cuda:99"))
    assert "no device 'gpu'" in bad(run("measure", SEQNET, "--device", "gpu"))


def test_times_of_other_devices_are_told(times: Path, tmp_path: Path) -> None:
    message = bad(run("plan", SEQNET, "--devices", "2xa100-40gb", "--cost-model", times))
    assert "has times of 'generic-cpu', and the devices are of kind 'a100-40gb'" in message
    some = scaled(times, tmp_path / "some.json", 1, kind="t4")
    cluster = tmp_path / "cluster.toml"
    cluster.write_text(
        '[[device]]\nname = "cuda:0"\nkind = "t4"\n\n'
        '[[device]]\nname = "cuda:1"\nkind = "v100-16gb"\n'
    )
    result = run("plan", SEQNET, "--devices", cluster, "--cost-model", some)
    assert result.exit_code == 0, result.output
    assert "'v100-16gb' is reckoned from its datasheet" in " ".join(result.stderr.split())
