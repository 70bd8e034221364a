"""What is in this machine: `local_device`."""

from __future__ import annotations

import os
import re
from dataclasses import replace

import torch

from cost_models.devices import DEVICE_KINDS, GIB
from cost_models.interface import DeviceKind


def local_device(name: str) -> DeviceKind | None:
    """What this machine has under a name such as `"cuda:0"` or `"cpu"`; `None` without it.

    A GPU gets the figures of the catalogue's kind that its name tells, or of `"generic-gpu"`, and
    its true memory. Also inside `partitioner.virtual_gpus`, whose GPUs `torch.cuda` then reports.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        return None
    if device.type == "cpu":
        return replace(DEVICE_KINDS["generic-cpu"], memory_nbytes=_host_nbytes())
    index = device.index or 0
    if device.type != "cuda" or not torch.cuda.is_available():
        return None
    if index >= torch.cuda.device_count():
        return None
    properties = torch.cuda.get_device_properties(index)
    memory = int(properties.total_memory)
    kind = kind_by_product_name(str(properties.name), memory) or DEVICE_KINDS["generic-gpu"]
    return replace(kind, memory_nbytes=memory)


def kind_by_product_name(product: str, memory_nbytes: int) -> DeviceKind | None:
    """The catalogue's kind of a product name, such as `"NVIDIA A100-SXM4-40GB"`.

    Among variants of one name that differ in memory, the one nearest to `memory_nbytes`.
    """
    words = re.findall(r"[a-z]+|\d+", product.lower())
    if "max" in words or "mobile" in words or "laptop" in words:
        return None
    found = [kind for kind in DEVICE_KINDS.values() if _names(kind.name, words)]
    if not found:
        return None
    longest = max(len(_model_words(kind.name)) for kind in found)
    found = [kind for kind in found if len(_model_words(kind.name)) == longest]
    form = "pcie" if "pcie" in words else "sxm"
    return min(
        found,
        key=lambda kind: (
            abs(kind.memory_nbytes - memory_nbytes) // (4 * GIB),
            not kind.name.endswith(form),
        ),
    )


def _names(kind: str, words: list[str]) -> bool:
    """Whether the words of a kind's model stand in a row in the words of a product's name."""
    model = _model_words(kind)
    runs = range(len(words) - len(model) + 1)
    for start in runs:
        if words[start : start + len(model)] == model:
            after = words[start + len(model) : start + len(model) + 1]
            return after not in (["ti"], ["super"], ["s"], ["d"], ["x"], ["xt"], ["ada"])
    return False


def _model_words(kind: str) -> list[str]:
    model = re.sub(r"-(\d+gb|pcie|sxm)$", "", kind)
    return re.findall(r"[a-z]+|\d+", model)


def _host_nbytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
