"""Models larger than memory: `python -m benchmarks.large_models [--smoke] [NAME...]`.

Plans of published Llama and Mixtral configurations from their configuration alone, in bfloat16, by
the command line in a process of its own: CPU seconds and peak resident memory of all of it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

_LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 128_256,
    "max_position_embeddings": 8_192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500_000.0,
    "num_key_value_heads": 8,
}


def _llama(hidden: int, intermediate: int, layers: int, heads: int) -> dict[str, Any]:
    return {
        **_LLAMA,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }


MODELS: dict[str, tuple[dict[str, Any], str]] = {
    "llama-8b": (_llama(4_096, 14_336, 32, 32), "2x24GiB"),
    "llama-70b": (_llama(8_192, 28_672, 80, 64), "4x80GiB"),
    "llama-405b": (_llama(16_384, 53_248, 126, 128), "16x80GiB"),
    "mixtral-8x7b": (
        {
            **_LLAMA,
            "model_type": "mixtral",
            "architectures": ["MixtralForCausalLM"],
            "vocab_size": 32_000,
            "hidden_size": 4_096,
            "intermediate_size": 14_336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
        },
        "4x48GiB",
    ),
}
"""Configuration and devices."""
SMALL = (_llama(64, 128, 2, 8) | {"vocab_size": 100}, "2x16MiB")


def planned(config: dict[str, Any], devices: str, folder: Path) -> tuple[str, float, int]:
    """What the plan's second line says, CPU seconds, and peak resident bytes."""
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    child = subprocess.Popen(
        [
            *(sys.executable, "-m", "partitioner", "plan", f"hf:{path}", "--devices", devices),
            *("--mode", "inference", "--dtype", "bf16", "--input", "input_ids=i64[1,2048]"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert child.stdout is not None
    lines = [line for line in child.stdout.read().splitlines() if line and line[0] != "["]
    _, status, usage = os.wait4(child.pid, 0)
    verdict = lines[1] if os.waitstatus_to_exitcode(status) == 0 else lines[0]
    return verdict, usage.ru_utime + usage.ru_stime, 1024 * usage.ru_maxrss


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(MODELS)}; all when none is given")
    parser.add_argument("--smoke", action="store_true", help="one small model")
    options = parser.parse_args()
    chosen = {name: MODELS[name] for name in options.names or MODELS}
    if options.smoke:
        chosen = {"small": SMALL}
    print("| model | devices | CPU seconds | peak memory | plan |")
    print("| --- | --- | ---: | ---: | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for name, (config, devices) in chosen.items():
            verdict, seconds, nbytes = planned(config, devices, Path(folder))
            memory = f"{nbytes / 2**30:.2f} GiB"
            print(f"| {name} | {devices} | {seconds:.0f} | {memory} | {verdict} |", flush=True)


if __name__ == "__main__":
    main()
