"""Real processes on gloo against the whole model."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def torchrun(processes: int, *arguments: str, seconds: int = 300) -> subprocess.CompletedProcess:
    """Run a script of this folder in several processes."""
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone",
         "--nproc-per-node", str(processes), *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )  # fmt: skip


def test_two_processes_train_as_one_does():
    names = "unet,hf_gpt2_labels,hf_bert_labels,hf_llama_no_cache"
    done = torchrun(2, "tests/distributed/worker.py", names)
    assert done.returncode == 0, done.stderr[-3000:]
    right = [line for line in done.stdout.splitlines() if line.startswith("right:")]
    assert len(right) == 4 * 5


def test_four_processes_train_as_one_does():
    done = torchrun(4, "tests/distributed/worker.py", "unet")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("right:") == 5
