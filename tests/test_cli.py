"""The command line: what each command prints and writes, and its exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from partitioner import Cluster, Device, Link, Plan, virtual_gpus
from partitioner.cli import cli
from tests.forks import Forked, program

SEQNET = "examples.seqnet:model"
ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _in_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def seqnet_plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plan of SeqNet for two GPUs, of which one cannot hold it."""
    path = tmp_path_factory.mktemp("plans") / "plan.json"
    training = ("--optimizer", "adam", "--loss", "cross_entropy")
    alone = run("plan", SEQNET, "--devices", "2x16GiB", *training, "--json")
    needs = max(use["peak"] for use in json.loads(alone.stdout)["memory"].values())
    limit = f"cuda:0={needs - 512}B,cuda:1={needs - 512}B"
    result = run("plan", SEQNET, "--devices", limit, *training, "-o", path)
    assert result.exit_code == 0, result.stderr
    return path


def bad(result: Result, code: int = 2) -> str:
    """The message of a command that had to fail, and did so in the user's words."""
    assert result.exit_code == code, (result.exit_code, result.output, result.exception)
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return " ".join(result.stderr.split())


# What the commands do


def test_plan_prints_a_table() -> None:
    result = run("plan", SEQNET, "--devices", "2x16GiB", "--optimizer", "adam")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("SeqNet on cuda:0 (1 more left empty), training with adam")
    assert "proved best for latency" in result.stdout
    assert "the whole model" in result.stdout


def test_plan_splits_where_memory_demands_it(seqnet_plan: Path) -> None:
    plan = Plan.load(seqnet_plan)
    assert plan.parameters["lin1.weight"] != plan.parameters["lin2.weight"]
    assert plan.optimizer == "adam"
    assert plan.loss is not None
    assert plan.loss.name == "cross_entropy"


def test_json_is_all_that_is_on_stdout() -> None:
    result = run("plan", SEQNET, "--devices", "2x16GiB", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["schema"] == 1
    assert Plan.from_json(result.stdout).to_json() == result.stdout


def test_what_a_model_prints_stays_off_stdout(tmp_path: Path) -> None:
    (tmp_path / "chatty.py").write_text(
        textwrap.dedent("""
            import os
            import torch
            print("python says hello")
            os.system("echo the shell says hello")
            model = torch.nn.Linear(4, 2)
        """)
    )
    asked = ("plan", "chatty:model", "--devices", "1x1GiB", "--json")
    job = Forked(tmp_path, program, "partitioner", asked, str(ROOT), (str(tmp_path),))
    result = job.finished()
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["schema"] == 1
    assert "python says hello" in result.stderr
    assert "the shell says hello" in result.stderr


def test_output_and_json_agree(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    result = run("plan", SEQNET, "--devices", "2x16GiB", "--json", "-o", path)
    assert path.read_text() == result.stdout
    assert os.listdir(tmp_path) == ["plan.json"]


def test_options_reach_the_plan(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    arguments = [
        "plan",
        SEQNET,
        "--devices",
        "cuda:0,cuda:1",
        "--memory",
        "cuda:0=1GiB,cuda:1=2GiB",
    ]
    arguments += ["--mode", "inference", "--objective", "throughput", "--input", "f32[8,1,28,28]"]
    arguments += ["--constraint", "pin lin2=cuda:1", "--constraint", "contiguous"]
    result = run(*arguments, "--time-limit", 60, "--seed", 3, "-o", path)
    assert result.exit_code == 0, result.stderr
    plan = Plan.load(path)
    assert (plan.mode, plan.objective) == ("inference", "throughput")
    assert [plan.memory[device].limit for device in plan.devices] == [2**30, 2**31]
    assert plan.parameters["lin2.weight"] == "cuda:1"
    assert plan.constraints == ("pin lin2=cuda:1", "contiguous")
    assert "8" in result.stdout


def test_inputs_come_from_python_too() -> None:
    result = run(
        "plan", "inputs_for_cli:Adder", "--inputs", "inputs_for_cli:call", "--devices", "1x1GiB"
    )
    assert result.exit_code == 0, result.stderr


def test_show_prints_the_same_table(seqnet_plan: Path) -> None:
    result = run("show", seqnet_plan)
    assert result.exit_code == 0, result.stderr
    assert "SeqNet on cuda:0 and cuda:1, training with adam" in result.stdout
    assert "lin2" in result.stdout


def test_show_explains(seqnet_plan: Path) -> None:
    result = run("show", seqnet_plan, "--explain")
    assert result.stdout.strip() == Plan.load(seqnet_plan).explain().strip()


@pytest.mark.parametrize(
    ("name", "begin"),
    [
        ("a.svg", b"<?xml"),
        ("a.png", b"\x89PNG"),
        ("a.pdf", b"%PDF"),
        ("a.dot", b"digraph"),
        ("a.html", b"<!DOCTYPE"),
        ("a.graphml", b"<?xml"),
        ("a.json", b'{"displayTimeUnit"'),
    ],
)
def test_draw_goes_by_the_suffix(
    seqnet_plan: Path, tmp_path: Path, name: str, begin: bytes
) -> None:
    result = run("draw", seqnet_plan, "-o", tmp_path / name)
    assert (result.exit_code, result.stdout) == (0, ""), result.stderr
    assert (tmp_path / name).read_bytes().lstrip().startswith(begin)


def test_report_is_the_page_that_draw_gives(seqnet_plan: Path, tmp_path: Path) -> None:
    for command in ("report", "draw"):
        result = run(command, seqnet_plan, "-o", tmp_path / f"{command}.html")
        assert (result.exit_code, result.stdout) == (0, ""), result.stderr
    page = (tmp_path / "report.html").read_bytes()
    assert page == (tmp_path / "draw.html").read_bytes()
    refused = run("report", seqnet_plan, "-o", tmp_path / "report.pdf")
    assert refused.exit_code == 2
    assert "cannot draw the page" in refused.stderr
    assert not (tmp_path / "report.pdf").exists()


def test_draw_takes_what_is_drawn(seqnet_plan: Path, tmp_path: Path) -> None:
    result = run("draw", seqnet_plan, "--what", "memory", "-o", tmp_path / "memory.svg")
    assert result.exit_code == 0, result.stderr
    assert "activations" in (tmp_path / "memory.svg").read_text(encoding="utf-8")
    refused = run("draw", seqnet_plan, "--what", "overlay", "-o", tmp_path / "overlay.svg")
    assert (refused.exit_code, "use '.json'" in refused.stderr) == (2, True)


def test_emit_gives_source_that_compiles(seqnet_plan: Path, tmp_path: Path) -> None:
    shown = run("emit", seqnet_plan)
    assert shown.exit_code == 0, shown.stderr
    compile(shown.stdout, "placed.py", "exec")
    assert ".to(" in shown.stdout
    run("emit", seqnet_plan, "-o", tmp_path / "placed.py")
    assert (tmp_path / "placed.py").read_text().strip() == shown.stdout.strip()


def test_verify_runs_both_on_virtual_gpus(seqnet_plan: Path) -> None:
    result = run("verify", SEQNET, seqnet_plan)
    assert result.exit_code == 0, result.stderr
    assert "gradients: equal" in result.stdout
    assert "cuda:1: measured peak" in result.stdout


def test_compare_puts_plan_and_hand_split_side_by_side(seqnet_plan: Path) -> None:
    result = run("compare", SEQNET, seqnet_plan, "examples.seqnet:HandSplitSeqNet")
    assert result.exit_code == 0, result.stderr
    assert "HandSplitSeqNet" in result.stdout
    assert "1.000" in result.stdout


def test_compare_needs_no_plan() -> None:
    result = run("compare", SEQNET, "examples.seqnet:HandSplitSeqNet", "--devices", "2x16GiB")
    assert result.exit_code == 0, result.stderr


def test_devices_writes_a_cluster_file_that_plan_reads(tmp_path: Path) -> None:
    path = tmp_path / "cluster.toml"
    assert run("devices").stdout.strip()
    assert run("devices", "-o", path).exit_code == 0
    result = run("plan", SEQNET, "--devices", path)
    assert result.exit_code == 0, result.stderr


def test_a_hugging_face_configuration_is_planned_on_meta(tmp_path: Path) -> None:
    config = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_layer": 1}
    config |= {"n_embd": 16, "n_head": 2, "n_positions": 32, "vocab_size": 64}
    (tmp_path / "config.json").write_text(json.dumps(config))
    plan = tmp_path / "plan.json"
    arguments = ["--devices", "2x1GiB", "--input", "input_ids=i64[2,8]", "-o", plan]
    result = run("plan", f"hf:{tmp_path}", *arguments)
    assert result.exit_code == 0, result.stderr
    assert "GPT2LMHeadModel" in result.stdout
    verified = run("verify", f"hf:{tmp_path}", plan)
    assert verified.exit_code == 0, verified.stderr


def test_help_has_examples() -> None:
    assert "partitioner plan examples.seqnet:model" in run("--help").stdout


def test_what_does_not_fit_is_told_with_what_does(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(
        json.dumps(
            {
                "model_type": "gpt2",
                "n_embd": 32,
                "n_head": 2,
                "n_layer": 3,
                "vocab_size": 64,
                "n_positions": 64,
                "resid_pdrop": 0.0,
                "embd_pdrop": 0.0,
                "attn_pdrop": 0.0,
            }
        )
    )
    asked = (f"hf:{config}", "--input", "input_ids=i64[8,32]")
    planned = ("--mode", "train", "--optimizer", "adam", "--devices")
    refused = run("plan", *asked, *planned, "1x3MiB")
    lines = refused.stderr.splitlines()
    assert "no placement fits" in bad(refused, code=3)
    tried = [line.removeprefix("  try: ") for line in lines if line.startswith("  try: ")]
    flags = "--checkpoint 'transformer.h.*'"
    assert any(flags in text for text in tried)
    assert any("--dtype bf16" in text for text in tried)
    plan_file = tmp_path / "plan.json"
    lean = ("--checkpoint", "transformer.h.*")
    followed = run("plan", *asked, *planned, "1x3MiB", *lean, "-o", plan_file)
    assert followed.exit_code == 0, followed.stderr
    verified = run("verify", asked[0], plan_file, *lean)
    assert verified.exit_code == 0, verified.stderr
    assert "gradients: equal" in verified.stdout
    cast = run("plan", *asked, *planned, "1x3MiB", "--dtype", "bf16", "--json")
    assert cast.exit_code == 0, cast.stderr
    types = {state["tensor"]["dtype"] for state in json.loads(cast.stdout)["model"]["state"]}
    assert "bfloat16" in types
    assert "float32" not in types
    assert "another model" in bad(run("verify", asked[0], plan_file))


# Bad input: exit code 2, a message without traceback, nothing written


@pytest.mark.parametrize("measure", [(), ("--measure",)])
def test_devices_writes_the_links_of_virtual_gpus(tmp_path: Path, measure: tuple[str, ...]) -> None:
    path = tmp_path / "cluster.toml"
    links = (Link(("cuda:0", "cuda:1"), via="cpu"),)
    machine = Cluster(tuple(Device(f"cuda:{i}", memory="512KiB") for i in range(2)), links)
    with virtual_gpus(machine):
        result = run("devices", *measure, "-o", path)
    assert (result.exit_code, result.stdout) == (0, "")
    read = Cluster.of(path)
    assert read.names == machine.names
    if not measure:
        assert read.links == links
    assert read.transfer_seconds("cuda:0", "cuda:1", 1000) > 0


def test_devices_tells_of_a_broken_link_and_the_plan_goes_round_it(tmp_path: Path) -> None:
    path, plan = tmp_path / "cluster.toml", tmp_path / "plan.json"
    broken = Link(source="cuda:0", destination="cuda:1", broken=True)
    machine = Cluster(tuple(Device(f"cuda:{i}", memory="8MiB") for i in range(2)), (broken,))
    with virtual_gpus(machine):
        result = run("devices", "--measure", "-o", path)
    assert result.exit_code == 0
    assert "the link from 'cuda:0' to 'cuda:1' is broken" in result.stderr
    assert broken in Cluster.of(path).links
    apart = ("--constraint", "pin lin1=cuda:0", "--constraint", "pin lin2=cuda:1")
    shown = run("plan", SEQNET, "--devices", path, *apart, "-o", plan)
    assert shown.exit_code == 0, shown.stderr
    assert "the link from 'cuda:0' to 'cuda:1' is broken" in " ".join(shown.stdout.split())
    assert run("verify", SEQNET, plan).exit_code == 0
    assert ".to('cpu')" in run("emit", plan).stdout


def test_devices_without_a_gpu_has_nothing_to_measure() -> None:
    assert "no GPU that PyTorch can see" in bad(run("devices", "--measure"))


PLAN = ("plan", SEQNET, "--devices", "2x16GiB")
ONE = ("--devices", "1x1GiB")
MALFORMED: dict[str, tuple[tuple[str, ...], str]] = {
    "no command like it": (("pln",), "did you mean 'plan'"),
    "no option like it": ((*PLAN, "--objectve", "latency"), "--objective"),
    "no devices": (("plan", SEQNET), "--devices"),
    "no model": (("plan",), "MODEL"),
    "unknown loss": ((*PLAN, "--loss", "cross_entropi"), "did you mean 'cross_entropy'"),
    "named target": ((*PLAN, "--loss", "mse_loss", "--target", "y=f32[8,10]"), "not a name ('y')"),
    "model without colon": (("plan", "examples.seqnet", *ONE), "package.module:name"),
    "no such module": (("plan", "exmples.seqnet:model", *ONE), "exmples"),
    "no such name": (("plan", "examples.seqnet:modle", *ONE), "did you mean 'model'"),
    "not a model": (("plan", "os:sep", *ONE), "is a str"),
    "gives no model": (("plan", "os:getcwd", *ONE), "gives a str"),
    "needs arguments": (("plan", "torch.nn:Linear", *ONE), "needs in_features"),
    "no configuration": (("plan", "hf:nowhere", *ONE), "nowhere"),
    "no such cluster file": (("plan", SEQNET, "--devices", "nowhere.toml"), "nowhere.toml"),
    "no such kind": (("plan", SEQNET, "--devices", "2xa100-41gb"), "a100-40gb"),
    "memory of nothing": (("plan", SEQNET, "--devices", "2x0GiB"), "above 0"),
    "negative memory": ((*PLAN, "--memory", "-1GiB"), "-1GiB"),
    "memory without unit": ((*PLAN, "--memory", "lots"), "lots"),
    "memory of another device": ((*PLAN, "--memory", "cuda:7=1GiB"), "cuda:7"),
    "no such mode": ((*PLAN, "--mode", "training"), "train"),
    "no such objective": ((*PLAN, "--objective", "speed"), "latency"),
    "no such type": ((*PLAN, "--dtype", "bf17"), "bf16"),
    "a type that is no floating one": ((*PLAN, "--dtype", "i64"), "floating"),
    "nothing to checkpoint": ((*PLAN, "--checkpoint", "lin3"), "lin1"),
    "no such optimizer": ((*PLAN, "--optimizer", "adamm"), "adam"),
    "no such constraint": ((*PLAN, "--constraint", "pim lin1=cuda:0"), "did you mean 'pin'"),
    "pattern without match": ((*PLAN, "--constraint", "pin lin3=cuda:0"), "lin2"),
    "pin to no device": ((*PLAN, "--constraint", "pin lin1=cuda:9"), "cuda:9"),
    "pins that clash": (
        (*PLAN, "--constraint", "pin lin1=cuda:0", "--constraint", "pin lin1=cuda:1"),
        "contradict",
    ),
    "input without sizes": ((*PLAN, "--input", "f32"), "f32[64,1,28,28]"),
    "input of no type": ((*PLAN, "--input", "f33[1]"), "did you mean 'f32'"),
    "input that does not fit": ((*PLAN, "--input", "f32[3,5]"), "3"),
    "input of another name": ((*PLAN, "--input", "y=f32[64,784]"), "'x'"),
    "input twice": ((*PLAN, "--input", "x=f32[1,784]", "--input", "x=f32[1,784]"), "twice"),
    "both kinds of inputs": ((*PLAN, "--input", "f32[1,784]", "--inputs", "os:sep"), "not both"),
    "inputs that are none": ((*PLAN, "--inputs", "os:sep"), "inputs are"),
    "no time": ((*PLAN, "--time-limit", "0"), "above 0"),
    "time that is no number": ((*PLAN, "--time-limit", "nan"), "above 0"),
    "output in no folder": ((*PLAN, "-o", "nowhere/plan.json"), "no folder"),
    "output is a folder": ((*PLAN, "-o", "tests"), "is a folder"),
    "no such plan": (("show", "nowhere.json"), "nowhere.json"),
    "plan that is none": (("show", "README.md"), "README.md"),
    "picture of no kind": (("draw", "plan.json", "-o", "graph.jpg"), ".png"),
    "picture without file": (("draw", "plan.json"), "--output"),
    "emit of no plan": (("emit", "nowhere.json"), "nowhere.json"),
    "verify without plan": (("verify", SEQNET), "PLAN"),
    "compare with nothing": (("compare", SEQNET), "PLAN_OR_HANDSPLIT"),
    "compare without devices": (
        ("compare", SEQNET, "examples.seqnet:HandSplitSeqNet"),
        "--devices",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_bad_input_is_told(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, expected = MALFORMED[name]
    before = sorted(os.listdir(ROOT))
    assert expected in bad(run(*arguments))
    assert sorted(os.listdir(ROOT)) == before


def test_nothing_is_written_when_nothing_fits(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    result = run("plan", SEQNET, "--devices", "2x64KiB", "--optimizer", "adam", "-o", path)
    message = bad(result, 3)
    assert "KiB" in message
    assert not path.exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("raise ValueError('no weights here')", "no weights here (broken.py:1: raise ValueError"),
        ("import torch\n\nmodel = torch.nn.Linear(3)\n", "broken.py:3: model = torch.nn.Linear(3)"),
        ("model = (\n", "broken.py:1"),
        ("import not_installed_anywhere", "not_installed_anywhere"),
        ("import sys\nsys.exit(5)", "broken.py:2: sys.exit(5)"),
        ("def model():\n    return 1 / 0\n", "broken.py:2: return 1 / 0"),
    ],
)
def test_a_model_that_fails_is_told_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, expected: str
) -> None:
    (tmp_path / "broken.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "broken", raising=False)
    assert expected in bad(run("plan", "broken:model", "--devices", "1x1GiB"))


def test_a_plan_of_another_model_is_told(seqnet_plan: Path) -> None:
    message = bad(run("verify", "inputs_for_cli:wider", seqnet_plan))
    assert "another model" in message


def test_a_damaged_plan_is_told_and_nothing_is_drawn(seqnet_plan: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "plan.json"
    damaged.write_text(seqnet_plan.read_text().replace('"cuda:1"', '"cuda:7"', 1))
    assert "cuda:7" in bad(run("draw", damaged, "-o", tmp_path / "graph.svg"))
    assert os.listdir(tmp_path) == ["plan.json"]


def test_our_own_fault_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr("partitioner.cli.planning.make_plan", broken)
    message = bad(run(*PLAN), 1)
    assert "ZeroDivisionError: planted" in message
    assert "report" in message
    debug = run("--debug", *PLAN)
    assert debug.exit_code == 1
    assert "Traceback" in debug.stderr


# As a process


def test_a_closed_pipe_is_no_error(seqnet_plan: Path) -> None:
    command = f"'{sys.executable}' -m partitioner show '{seqnet_plan}' | head -n 1"
    result = subprocess.run(
        command, shell=True, capture_output=True, text=True, cwd=ROOT, check=False, timeout=300
    )
    assert result.stdout.startswith("SeqNet")
    assert result.stderr == ""


def test_a_pipe_without_unicode_and_colors_gets_a_plain_table(seqnet_plan: Path) -> None:
    plain = {"NO_COLOR": "1", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    result = subprocess.run(
        [sys.executable, "-m", "partitioner", "show", str(seqnet_plan)],
        env={**os.environ, **plain}, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "lin1" in result.stdout
    assert "\x1b" not in result.stdout


def test_a_pipeline_from_plan_to_verify(tmp_path: Path) -> None:
    """Every command takes the plan of a pipeline."""
    path, shape = tmp_path / "plan.json", "f32[8,1,28,28]"
    result = run(
        "plan", SEQNET, "--devices", "2x16GiB", "--input", shape, "--mode", "train",
        "--objective", "throughput", "--micro-batches", 4, "--schedule", "gpipe", "-o", path,
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert "4 micro-batches through" in result.stdout
    assert Plan.load(path).pipeline is not None
    for arguments in (
        ("show", path),
        ("show", path, "--explain"),
        ("emit", path),
        ("draw", path, "-o", tmp_path / "plan.svg"),
        ("verify", SEQNET, path),
    ):
        result = run(*arguments)
        assert result.exit_code == 0, (arguments, result.stderr)
    assert "gradients: equal" in result.stdout


def test_micro_batches_need_throughput() -> None:
    result = run("plan", SEQNET, "--devices", "2x16GiB", "--micro-batches", 4)
    assert "objective='throughput'" in bad(result)
