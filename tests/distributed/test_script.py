"""The emitted training script under `torchrun`: losses, resuming, and what a failure tells."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from partitioner import Cluster, Device, Link, plan
from partitioner.cli import cli
from tests.distributed.launch import launch, script
from tests.distributed.scripted import Chain
from tests.distributed.test_rank_pipeline import torchrun

NAMES = ("cuda:0", "cuda:1")
BATCH = 8


@pytest.fixture(scope="module")
def plan_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plans") / "plan.json"
    cluster = Cluster(
        tuple(Device(name, memory="1GiB") for name in NAMES),
        (Link(NAMES, bandwidth="1000000GB/s"),),
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
    assert len(found.pipeline.ranks) == 2
    found.save(path)
    return path


def emitted(plan_file: Path, folder: Path, model: str = "Chain", *options: str) -> Path:
    path = folder / "train_pipeline.py"
    result = CliRunner().invoke(
        cli,
        ["emit", str(plan_file), "--target", "pipeline", "-o", str(path), "--model",
         f"tests.distributed.scripted:{model}", *options],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    return path


def losses(done: subprocess.CompletedProcess) -> dict[int, float]:
    assert done.returncode == 0, done.stderr[-3000:]
    return {int(n): float(x) for n, x in re.findall(r"step (\d+): loss ([\d.]+)", done.stdout)}


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


def test_it_trains_as_one_process_does_and_resumes(plan_file: Path, tmp_path: Path) -> None:
    script, folder = str(emitted(plan_file, tmp_path)), str(tmp_path / "checkpoints")
    first = losses(torchrun(2, script, "--steps", "2", "--every", "2", "--folder", folder))
    second = losses(torchrun(2, script, "--steps", "4", "--every", "2", "--folder", folder))
    assert list(first) == [0, 1]
    assert list(second) == [2, 3]
    assert {**first, **second} == pytest.approx(single(4), abs=2e-6)


def test_replicas_train_together(plan_file: Path, tmp_path: Path) -> None:
    script = str(emitted(plan_file, tmp_path, "Chain", "--replicas", "2"))
    assert losses(torchrun(4, script, "--steps", "2")) == pytest.approx(single(2, 2), abs=2e-6)


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("dying", "rank 1, stage 1: its process ended"),
        ("hanging", r"rank 1, stage 1: hangs for \d s in the backward of stage 1, micro-batch 1, at "
                    r"tests/distributed/scripted.py:\d+: .*time.sleep"),
        ("stopping", "rank 1, stage 1: its process does not answer; last it was "),
        ("running_out_of_memory", "rank 1, stage 1: RuntimeError: .* can't allocate memory"),
        ("differing", "the processes differ in their model: rank 0 has "),
    ],
)  # fmt: skip
def test_a_failure_is_told_once_and_ends_the_job(
    plan_file: Path, tmp_path: Path, model: str, told: str
) -> None:
    path = str(emitted(plan_file, tmp_path, model))
    done = launch(tmp_path, 2, script, path, "--steps", "3", "--timeout", "5")
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, done.stderr[-3000:]
    assert re.search(told, lines[0])
    assert not _running(path)


def _running(script: str) -> list[str]:
    """Processes of a job that are left over."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if script in line:
            found.append(line)
    return found


def test_another_number_of_processes_is_refused(plan_file: Path, tmp_path: Path) -> None:
    done = torchrun(1, str(emitted(plan_file, tmp_path)))
    assert done.returncode != 0
    assert "start 2 processes, not 1" in done.stderr


def test_emit_refuses_what_is_no_pipeline(plan_file: Path) -> None:
    result = CliRunner().invoke(cli, ["emit", str(plan_file), "--target", "pipeline"])
    assert result.exit_code == 2
    assert "--model" in result.stderr
