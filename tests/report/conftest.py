"""Plans made by hand: SeqNet with figures that no cost model can change."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch

from examples.seqnet import SeqNet
from partitioner.capture import capture, inputs_of, records
from partitioner.placement import (
    Certificate,
    ClusterRecord,
    Held,
    MemoryCurve,
    MemoryUse,
    ModelIdentity,
    NodeCosts,
    PlanDocument,
    StateRecord,
    TensorRecord,
    Transfer,
)
from partitioner.spec import Cluster, Device, Link

MIB = 2**20
SECONDS = {"x": 0.0, "flatten": 0.0, "lin1": 8e-6, "log_softmax": 4e-6, "lin2": 6e-6}
OPERATORS = {"lin1": "Linear", "lin2": "Linear"}
CAPTURED = capture(SeqNet(), (torch.empty(64, 1, 28, 28),), training=True)
WHOLE = MemoryUse(MIB, MIB, 2 * MIB, MIB // 2, 0, 4 * MIB, 16 * 2**30)
NOTHING = MemoryUse(0, 0, 0, 0, 0, 0, 16 * 2**30)
FIRST = MemoryUse(MIB, MIB, 2 * MIB, MIB // 4, MIB // 8, 3 * MIB, 4 * MIB)
SECOND = MemoryUse(8192, 8192, 16384, 4096, 0, MIB // 4, 4 * MIB)


def made(split: bool = True, **changes: object) -> PlanDocument:
    """A plan of SeqNet for two GPUs, on both of them or on the first."""
    second = "cuda:1" if split else "cuda:0"
    devices = ("cuda:0", "cuda:1")
    placement = dict.fromkeys(SECONDS, "cuda:0") | {"lin2": second}
    step_seconds = 60e-6 if split else 36e-6
    fields: dict[str, object] = {
        "objective": "latency",
        "mode": "train",
        "optimizer": "adam",
        "devices": devices,
        "placement": placement,
        "parameters": {name: placement[name.partition(".")[0]] for name in CAPTURED.state},
        "transfers": (
            Transfer("log_softmax", "cuda:0", "cuda:1", 51_200, 12e-6, "forward"),
            Transfer("log_softmax", "cuda:1", "cuda:0", 51_200, 12e-6, "backward"),
        )
        if split
        else (),
        "memory": dict(zip(devices, (FIRST, SECOND) if split else (WHOLE, NOTHING), strict=True)),
        "step_seconds": step_seconds,
        "bottleneck_seconds": 24e-6 if split else 36e-6,
        "certificate": Certificate("optimal", step_seconds, step_seconds, 0.0, "HiGHS 1.16"),
        "constraints": (),
        "cluster": ClusterRecord.of(
            Cluster(
                tuple(Device(name, kind="a100-40gb", memory="4MiB") for name in devices),
                (Link(devices, "300GB/s", "5us"),),
            )
        ),
        "model": ModelIdentity(
            CAPTURED.model_class,
            tuple(
                StateRecord(
                    state.names,
                    state.role,
                    TensorRecord(state.tensor.shape, "float32", state.tensor.nbytes, True),
                )
                for state in CAPTURED.state.values()
            ),
        ),
        "inputs": inputs_of(CAPTURED),
        "program": records(CAPTURED),
        "costs": {
            name: NodeCosts(
                operator=OPERATORS.get(name, name),
                module_path=CAPTURED.nodes[name].module_path,
                forward_seconds=dict.fromkeys(devices, seconds),
                backward_seconds=dict.fromkeys(devices, seconds),
                nbytes=51_200,
                gradient_nbytes=51_200,
                flops=0,
            )
            for name, seconds in SECONDS.items()
        },
    }
    return PlanDocument(**(fields | changes))  # type: ignore[arg-type]


CURVES = {
    "cuda:0": MemoryCurve(
        seconds=(0.0, 20e-6, 40e-6),
        parameters=(MIB, MIB, MIB),
        gradients=(0, MIB, MIB),
        optimizer=(0, 0, MIB),
        activations=(MIB // 4, MIB // 4, 0),
        workspace=(0, 0, MIB // 8),
        at_peak=(Held("lin1.weight", "parameters", MIB), Held("relu", "activations", 4096)),
        others=2,
        others_nbytes=MIB,
    ),
    "cuda:1": MemoryCurve(
        seconds=(0.0,),
        parameters=(8192,),
        gradients=(8192,),
        optimizer=(16384,),
        activations=(0,),
        workspace=(4096,),
        at_peak=(Held("lin2.weight", "optimizer", 16384),),
        others=0,
        others_nbytes=0,
    ),
}


@pytest.fixture
def plan_with_curves() -> Callable[..., PlanDocument]:
    return functools.partial(made, memory_curves=CURVES)


@pytest.fixture
def plan_of() -> Callable[..., PlanDocument]:
    return made
