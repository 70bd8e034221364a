"""The benchmark runs."""

import subprocess
import sys


def test_a_small_model_is_planned_from_its_configuration():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.large_models", "--smoke"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "one step" in done.stdout, done.stdout
