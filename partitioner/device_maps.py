"""Other people's device maps: read, checked and turned into the placement that they mean.

A device map of Hugging Face accelerate names modules and their devices. Its hooks run each named
module on its device, and what lies between them where most of its operands are.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from partitioner.capture import Captured
from partitioner.errors import PlanError, SpecError
from partitioner.placement import infer_placement
from partitioner.spec import Cluster, device_name, enclosing, hint
from partitioner.virtual import virtual_gpus

OFFLOADED = ("disk", "meta")
"""Devices of accelerate on which nothing can run."""


@dataclass(frozen=True)
class DeviceMap:
    """A device map of Hugging Face accelerate.

    Attributes:
        devices: device name by module path or tensor name; the model itself is `""`.
    """

    devices: Mapping[str, str]

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """The device map in a JSON file.

        Raises:
            PlanError: the file is missing, or holds something else.
        """
        where = os.fspath(path)
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise PlanError(f"cannot read the device map '{where}': {error}") from error
        return cls.of(content, f"'{where}'")

    @classmethod
    def of(cls, content: Any, what: str = "this") -> Self:
        """A device map as accelerate takes it; `what` names it in errors.

        Raises:
            PlanError: it is none, or leaves something where nothing runs.
        """
        if not isinstance(content, Mapping) or not content:
            raise PlanError(f"{what} is no device map, which gives devices by module")
        found = {}
        for module, device in content.items():
            if device in OFFLOADED:
                raise PlanError(
                    f"{what} leaves '{module or 'the whole model'}' on '{device}', where nothing "
                    "runs; only placements on devices can be compared"
                )
            if isinstance(device, bool) or not isinstance(device, str | int | torch.device):
                raise PlanError(f"{what} puts '{module}' on {device!r}, which is no device")
            found[str(module)] = device_name(
                f"cuda:{device}" if isinstance(device, int) else device
            )
        return cls(found)

    def placement(self, captured: Captured) -> dict[str, str]:
        """The device of every node.

        Raises:
            PlanError: an entry names no module or tensor of the model, or some tensor has no entry.
        """
        owners = {
            node.name: str(node.target)
            if node.op == "call_module"
            else captured.nodes[node.name].module_path
            for node in captured.graph.nodes
            if node.op not in ("output", "placeholder", "get_attr")
        }
        tensors = {
            name: state
            for state in captured.state.values()
            if state.role != "constant"
            for name in state.names
        }
        paths = dict.fromkeys(path for name in (*owners.values(), *tensors)
                              for path in enclosing(name) if path)  # fmt: skip
        for entry in self.devices:
            if entry and entry not in paths:
                raise PlanError(f"the model has no '{entry}'; {hint(entry, tuple(paths))}")
        homes = {name: self._device_of(name) for name in tensors}
        for state in tensors.values():
            if all(homes[name] is None for name in state.names):
                raise PlanError(f"no entry places the {state.role} '{state.names[0]}'")
        settled = {node: self._device_of(path) for node, path in owners.items()}
        return infer_placement(
            captured,
            {name: device for name, device in homes.items() if device is not None},
            settled={node: device for node, device in settled.items() if device is not None},
        )

    def _device_of(self, path: str) -> str | None:
        """The device of the innermost entry around a module or tensor."""
        around = reversed(enclosing(path))
        return next((self.devices[each] for each in around if each in self.devices), None)


def accelerate_map(model: nn.Module, cluster: Cluster, memory: Mapping[str, int]) -> DeviceMap:
    """The device map that accelerate makes for GPUs with `memory` bytes each, by device name.

    Raises:
        SpecError: accelerate is not installed, or a device is no GPU of the cluster.
        PlanError: it leaves something on disk.
    """
    if importlib.util.find_spec("accelerate") is None:
        raise SpecError("this needs accelerate; install it: pip install 'partitioner[hf]'")
    from accelerate import infer_auto_device_map

    limits = {}
    for name, nbytes in memory.items():
        device = torch.device(cluster.device(name).name)
        limits[device.index or 0 if device.type == "cuda" else device.type] = nbytes
    with virtual_gpus(cluster, limits=False):
        found = infer_auto_device_map(
            model,
            max_memory=limits,
            no_split_module_classes=list(getattr(model, "_no_split_modules", None) or ()),
        )
    return DeviceMap.of(found, "accelerate's own device map")
