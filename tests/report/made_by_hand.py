"""Planned graphs made by hand: a network of four steps, and transformers of any depth."""

from __future__ import annotations

import random

from partitioner.report.partition_graph import Crossing, Operation, PartitionGraph


def seqnet(split: bool = True) -> PartitionGraph:
    second = "cuda:1" if split else "cuda:0"
    return PartitionGraph(
        operations=(
            Operation("x", "input", "", "cuda:0", "input", value="f32[64,1,28,28]"),
            Operation("flatten", "flatten", "", "cuda:0", seconds=2e-6, value="f32[64,784]"),
            Operation("lin1", "Linear", "lin1", "cuda:0", "operator", 9e-6, 628_000, "f32[64,200]"),
            Operation("log_softmax", "log_softmax", "", "cuda:0", seconds=4e-6),
            Operation("lin2", "Linear", "lin2", second, "operator", 5e-6, 8_040, "f32[64,10]"),
            Operation("output", "output", "", None, "output"),
        ),
        edges=(
            ("x", "flatten"),
            ("flatten", "lin1"),
            ("lin1", "log_softmax"),
            ("log_softmax", "lin2"),
            ("lin2", "output"),
        ),
        devices=("cuda:0", "cuda:1"),
        crossings=(Crossing("log_softmax", "cuda:1", 51_200, 51_200),) if split else (),
    )


def transformer(layers: int, devices: int = 2, seed: int | None = None) -> PartitionGraph:
    """Layers in equal shares on the devices, or, with a seed, every operation anywhere."""
    names = tuple(f"cuda:{i}" for i in range(devices))
    anywhere = random.Random(seed)
    operations: list[Operation] = []
    edges: list[tuple[str, str]] = []

    def add(name: str, operator: str, path: str, layer: int, *sources: str) -> str:
        device = names[layer * devices // layers] if seed is None else anywhere.choice(names)
        role = "operator" if sources else "input"
        operations.append(Operation(name, operator, path, device, role, 1e-5, 1024, "f32[2,128]"))
        edges.extend((source, name) for source in sources)
        return name

    value = add("ids", "input", "", 0)
    value = add("embedding", "Embedding", "body.embedding", 0, value)
    for i in range(layers):
        block = f"body.layers.{i}"
        before = value
        value = add(f"norm_{i}", "LayerNorm", f"{block}.norm", i, value)
        heads = [add(f"head_{i}_{k}", "Linear", f"{block}.attn.{k}", i, value) for k in range(3)]
        value = add(f"attention_{i}", "attention", f"{block}.attn", i, *heads)
        value = add(f"add_{i}", "add", block, i, before, value)
        for name in ("up", "act", "down"):
            value = add(f"{name}_{i}", "Linear", f"{block}.mlp.{name}", i, value)
    value = add("head", "Linear", "head", layers - 1, value)
    operations.append(Operation("output", "output", "", None, "output"))
    edges.append((value, "output"))
    device_of = {operation.name: operation.device for operation in operations}
    crossings = {
        (source, device_of[target]): Crossing(source, str(device_of[target]), 4096)
        for source, target in edges
        if device_of[target] not in (None, device_of[source])
    }
    return PartitionGraph(tuple(operations), tuple(edges), names, tuple(crossings.values()))
