"""The emitted training script: losses, resuming, and what a failure tells."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from partitioner import Cluster, Device, Link, Plan, plan
from partitioner.cli import cli
from partitioner.distributed import resume_checkpoint
from tests.distributed.launch import Done, launch, script
from tests.distributed.scripted import Chain

ROOT = Path(__file__).parents[2]
BATCH = 8


def planned(ranks: int) -> Plan:
    names = tuple(f"cuda:{i}" for i in range(ranks))
    cluster = Cluster(
        tuple(Device(name, memory="1GiB") for name in names),
        tuple(Link((a, b), bandwidth="1000000GB/s") for a in names for b in names if a < b),
    )
    found = plan(
        Chain(),
        cluster,
        torch.zeros(BATCH, 8),
        mode="train",
        optimizer="adamw",
        objective="throughput",
        micro_batches=4,
    )
    assert found.pipeline is not None
    assert len(found.pipeline.ranks) == ranks
    return found


@pytest.fixture(scope="module")
def plan_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plans") / "plan.json"
    planned(2).save(path)
    return path


def emitted(plan_file: Path, folder: Path, model: str = "Chain", *options: str) -> str:
    path = folder / "train_pipeline.py"
    result = CliRunner().invoke(
        cli,
        ["emit", str(plan_file), "--target", "pipeline", "-o", str(path), "--model",
         f"tests.distributed.scripted:{model}", *options],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    return str(path)


def losses(text: str) -> dict[int, float]:
    return {int(n): float(x) for n, x in re.findall(r"step (\d+): loss ([\d.]+)", text)}


def trained(folder: Path, processes: int, path: str, *options: str) -> dict[int, float]:
    """Losses of a run that ends well."""
    done = launch(folder, processes, script, path, "--folder", str(folder / "saved"), *options)
    assert done.returncode == 0, done.stderr[-3000:]
    return losses(done.stdout)


def single(steps: int, replicas: int = 1) -> dict[int, float]:
    """Losses of the whole model in this process, on the batches of the script."""
    torch.manual_seed(0)
    model = Chain()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    found = {}
    for step in range(steps):
        optimizer.zero_grad()
        total = 0.0
        for replica in range(replicas):
            torch.manual_seed(1000 * step + replica)
            loss = model(torch.randn([BATCH, 8])) / replicas
            loss.backward()
            total += float(loss.detach())
        optimizer.step()
        found[step] = total
    return found


def test_a_run_whose_launcher_is_killed_leaves_nothing_behind_and_resumes(
    plan_file: Path, tmp_path: Path
) -> None:
    path, saved = emitted(plan_file, tmp_path), tmp_path / "saved"
    job = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         path, "--steps", "100000", "--every", "1", "--folder", str(saved)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )  # fmt: skip
    assert job.stdout is not None
    first = losses("".join(job.stdout.readline() for _ in range(3)))
    job.send_signal(signal.SIGKILL)
    first |= losses(job.communicate()[0])
    assert _nothing_runs(path)
    last = max(int(file.parent.name[5:]) for file in saved.glob("step-*/.metadata"))
    assert last >= 2
    (saved / f"step-{last + 1:08d}").mkdir(exist_ok=True)  # as half written, whatever was there
    second = trained(tmp_path, 2, path, "--steps", str(last + 2))
    assert list(second) == [last, last + 1]
    assert {**first, **second} == pytest.approx(single(max(*first, *second) + 1), abs=2e-6)


def test_a_checkpoint_is_read_by_another_number_of_stages(plan_file: Path, tmp_path: Path) -> None:
    expected = single(6)
    first = trained(tmp_path, 2, emitted(plan_file, tmp_path), "--steps", "2", "--every", "2")
    four = tmp_path / "four.json"
    planned(4).save(four)
    path = emitted(four, tmp_path)
    second = trained(tmp_path, 4, path, "--steps", "4", "--every", "2")
    assert list(second) == [2, 3]
    for ranks in (1, 2):
        pipeline = planned(ranks).pipeline_on(Chain(), devices=["cpu"] * ranks)
        optimizer = torch.optim.AdamW(pipeline.parameters(), lr=1.0)
        third = {}
        for step in range(resume_checkpoint(tmp_path / "saved", pipeline, optimizer), 6):
            torch.manual_seed(1000 * step)
            pipeline.zero_grad()
            given: list[torch.Tensor] = []
            pipeline.step(torch.randn([BATCH, 8]), losses=given)
            optimizer.step()
            third[step] = float(sum(given)) / len(given)
        assert list(third) == [4, 5]
        assert {**first, **second, **third} == pytest.approx(expected, abs=2e-6)


def test_what_is_saved_is_a_checkpoint_of_the_model(plan_file: Path, tmp_path: Path) -> None:
    path = emitted(plan_file, tmp_path)
    trained(tmp_path, 2, path, "--steps", "1", "--every", "1")
    saved = (tmp_path / "saved").rename(tmp_path / "weights") / "step-00000001"
    with torch.device("meta"):
        model = Chain()
    found = Plan.load(plan_file).pipeline_on(model, devices=["cpu"] * 2, checkpoint=saved)
    torch.manual_seed(0)
    whole = Chain()
    optimizer = torch.optim.AdamW(whole.parameters(), lr=1e-3)
    torch.manual_seed(0)
    batch = torch.randn([BATCH, 8])
    whole(batch).backward()
    optimizer.step()
    torch.testing.assert_close(found.state_dict(), dict(whole.state_dict()))
    begun = trained(tmp_path, 2, path, "--steps", "1", "--weights", str(saved))
    assert begun == pytest.approx({0: float(whole(batch).detach())}, abs=2e-6)


def test_replicas_train_together(plan_file: Path, tmp_path: Path) -> None:
    path = emitted(plan_file, tmp_path, "Chain", "--replicas", "2")
    assert trained(tmp_path, 4, path, "--steps", "2") == pytest.approx(single(2, 2), abs=2e-6)


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("dying", "rank 1, stage 1: its process ended"),
        ("hanging", r"rank 1, stage 1: hangs for \d+ s in the backward of stage 1, micro-batch 1, "
                    r"at tests/distributed/scripted.py:\d+: .*time.sleep"),
        ("stopping", "rank 1, stage 1: its process does not answer; last it was "),
        ("running_out_of_memory", "rank 1, stage 1: RuntimeError: .* can't allocate memory"),
        ("differing", "the processes differ in their model: rank 0 has "),
    ],
)  # fmt: skip
def test_a_failure_is_told_once_and_ends_the_job(
    plan_file: Path, tmp_path: Path, model: str, told: str
) -> None:
    path = emitted(plan_file, tmp_path, model)
    done = launch(
        tmp_path, 2, script, path, "--steps", "3", "--timeout", "5", "--every", "1", "--folder",
        str(tmp_path / "saved"),
    )  # fmt: skip
    assert re.search(told, _error(done))
    assert _nothing_runs(path)
    if model == "dying":  # in the second step
        again = trained(tmp_path, 2, emitted(plan_file, tmp_path), "--steps", "3")
        assert {**losses(done.stdout), **again} == pytest.approx(single(3), abs=2e-6)
        assert list(again) == [1, 2]


def _error(done: Done) -> str:
    """The one message of a job that failed."""
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, done.stderr[-3000:]
    return lines[0]


def _nothing_runs(path: str) -> bool:
    """Whether all processes of a job end within some seconds."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        if not any(path in line for line in _command_lines()):
            return True
        time.sleep(0.5)
    return False


def _command_lines() -> list[str]:
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(file.read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


def test_another_number_of_processes_is_refused(plan_file: Path, tmp_path: Path) -> None:
    done = launch(tmp_path, 1, script, emitted(plan_file, tmp_path))
    assert done.returncode != 0
    assert "start 2 processes, not 1" in done.stderr


def test_emit_refuses_what_is_no_pipeline(plan_file: Path) -> None:
    result = CliRunner().invoke(cli, ["emit", str(plan_file), "--target", "pipeline"])
    assert result.exit_code == 2
    assert "--model" in result.stderr
