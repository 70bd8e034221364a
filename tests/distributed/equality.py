"""Every schedule on 2 and 4 processes against the whole model.

`python -m tests.distributed.equality` prints, by model and processes, the largest difference of a
loss, a gradient or a parameter after 3 steps under each schedule. It ends at the first one that is
larger than rounding.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

from tests.distributed.launch import launch
from tests.distributed.worker import SCHEDULES, train

MODELS = {
    "GPT-2": "hf_gpt2_labels",
    "Llama": "hf_llama_labels",
    "BERT": "hf_bert_labels",
    "T5": "hf_t5_labels",
    "ResNet": "residual_cnn",
    "U-Net": "unet",
}


def main() -> int:
    """Print the table."""
    heads = [name if stages == 1 else f"{name}, {stages} a rank" for name, stages in SCHEDULES]
    print("| model | processes |", " | ".join(heads), "|")
    print("| --- | --- |", " | ".join("---" for _ in heads), "|")
    for title, name in MODELS.items():
        for processes in (2, 4):
            with tempfile.TemporaryDirectory() as folder:
                done = launch(Path(folder), processes, train, {name: SCHEDULES}, seconds=1000)
            found = re.findall(rf"right: {name} \S+ \d (\S+)", done.stdout)
            cells = " | ".join(f"{float(difference):.0e}" for difference in found)
            print(f"| {title} | {processes} | {cells} |", flush=True)
            if done.returncode or len(found) != len(SCHEDULES):
                print(done.stderr, file=sys.stderr)
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
