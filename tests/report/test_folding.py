"""Folding keeps every operation, never mixes devices, and stays within its limit."""

from __future__ import annotations

import pytest
from made_by_hand import seqnet, transformer

from partitioner.report.folding import Box, fold, whole_modules
from partitioner.report.partition_graph import PartitionGraph

GRAPHS = {
    "seqnet": seqnet(),
    "one device": seqnet(split=False),
    "small": transformer(2),
    "large": transformer(100, 4),
    "scattered": transformer(24, 3, seed=0),
    "scattered wide": transformer(60, 8, seed=1),
}


@pytest.mark.parametrize("limit", [1, 10, 60])
@pytest.mark.parametrize("name", GRAPHS)
def test_each_operation_is_in_one_box_of_its_device(name: str, limit: int) -> None:
    graph = GRAPHS[name]
    boxes = fold(graph, limit)
    shown = [operation.name for box in boxes for operation in box.operations]
    assert sorted(shown) == sorted(operation.name for operation in graph.operations)
    for box in boxes:
        assert {operation.device for operation in box.operations} == {box.device}
    assert len(boxes) <= max(limit, len(graph.devices) + 1)


def test_nothing_is_folded_where_all_can_be_shown() -> None:
    assert [box.title() for box in fold(seqnet(), 60)] == [
        "x",
        "flatten",
        "lin1",
        "log_softmax",
        "lin2",
        "output",
    ]


def test_repeated_modules_become_a_run() -> None:
    boxes = fold(transformer(100, 4), 60)
    runs = [(box.title(), box.device, len(box.modules)) for box in boxes if len(box.modules) > 1]
    assert runs == [
        ("body.layers.0 … body.layers.24", "cuda:0", 25),
        ("body.layers.25 … body.layers.49", "cuda:1", 25),
        ("body.layers.50 … body.layers.74", "cuda:2", 25),
        ("body.layers.75 … body.layers.99", "cuda:3", 25),
    ]
    inside = next(box for box in boxes if len(box.modules) > 1)
    assert inside.title("body") == "layers.0 … layers.24"


def test_a_module_that_differs_ends_a_run() -> None:
    graph = transformer(4, 1)
    odd = tuple(
        operation
        for operation in graph.operations
        if operation.name != "act_2"  # its layer is without an activation
    )
    boxes = whole_parts(PartitionGraph(odd, (), ("cuda:0", "cuda:1")))
    assert [box.title() for box in boxes if "layers" in box.title()] == [
        "body.layers.0 … body.layers.1",
        "body.layers.2",
        "body.layers.3",
    ]


def whole_parts(graph: PartitionGraph) -> tuple[Box, ...]:
    """Fold until layers are boxes, and no further."""
    return next(boxes for limit in range(200, 0, -1) if len(boxes := fold(graph, limit)) < 10)


def test_the_largest_modules_on_one_device_are_named() -> None:
    found = [(box.title(), box.device) for box in whole_modules(transformer(4, 2))]
    assert found == [
        ("ids", "cuda:0"),
        ("body.embedding", "cuda:0"),
        ("body.layers.0 … body.layers.1", "cuda:0"),
        ("body.layers.2 … body.layers.3", "cuda:1"),
        ("head", "cuda:1"),
        ("output", None),
    ]


def test_a_model_on_one_device_is_one_row() -> None:
    assert [box.modules for box in whole_modules(seqnet(split=False))] == [("",), ()]


def test_loose_operations_are_listed_or_counted() -> None:
    graph = transformer(1, 2, seed=None)
    lone = tuple(
        operation
        for operation in graph.operations
        if operation.module_path in ("", "body.layers.0") or operation.role == "output"
    )
    titles = [box.title() for box in whole_modules(PartitionGraph(lone, (), ("cuda:0", "cuda:1")))]
    assert titles == ["(root)", "output"]
