"""What is drawn: frames, edges, and each value moved once to each device."""

from __future__ import annotations

from made_by_hand import seqnet, transformer

from partitioner.report.diagram import diagram
from partitioner.report.partition_graph import Crossing, Operation, PartitionGraph


def test_edges_stay_within_a_device_and_moves_cross() -> None:
    drawn = diagram(seqnet(), 60)
    assert drawn.edges == ((0, 1), (1, 2), (2, 3), (4, 5))
    (move,) = drawn.moves
    assert (move.source, move.targets, move.destination) == (3, (4,), "cuda:1")
    assert (move.nbytes, move.gradient_nbytes) == (51_200, 51_200)


def test_a_value_with_many_readers_on_a_device_is_one_move() -> None:
    graph = PartitionGraph(
        operations=tuple(Operation(n, n, "", d) for n, d in zip("abcd", "0111", strict=True)),
        edges=(("a", "b"), ("a", "c"), ("a", "d"), ("b", "d")),
        devices=("0", "1"),
        crossings=(Crossing("a", "1", 8),),
    )
    drawn = diagram(graph, 60)
    (move,) = drawn.moves
    assert (move.targets, move.nbytes) == ((1, 2, 3), 8)
    assert drawn.edges == ((1, 3),)


def test_what_is_read_across_without_a_move_is_an_edge() -> None:
    graph = PartitionGraph(
        operations=(Operation("size", "size", "", "0"), Operation("view", "view", "", "1")),
        edges=(("size", "view"),),
        devices=("0", "1"),
    )
    drawn = diagram(graph, 60)
    assert (drawn.edges, drawn.moves) == (((0, 1),), ())


def test_modules_that_hold_two_things_are_frames() -> None:
    drawn = diagram(transformer(2), 60)
    assert drawn.frames == (
        "body",
        "body.layers",
        "body.layers.0",
        "body.layers.1",
        "body.layers.0.attn",
        "body.layers.0.mlp",
        "body.layers.1.attn",
        "body.layers.1.mlp",
    )
    assert drawn.frame("body.layers.0.attn.2") == "body.layers.0.attn"
    assert drawn.frame("head") == ""


def test_folded_modules_are_no_frames() -> None:
    assert diagram(transformer(40), 60).frames == ("body", "body.layers")
    assert diagram(seqnet(), 60).frames == ()


def test_the_common_frame_of_two_boxes_holds_both() -> None:
    drawn = diagram(transformer(2), 60)
    place = {box.title(): i for i, box in enumerate(drawn.boxes)}
    norms = place["body.layers.0.norm"], place["body.layers.1.norm"]
    assert drawn.common_frame(norms) == "body.layers"
    assert drawn.common_frame((norms[0], place["body.layers.0.mlp.up"])) == "body.layers.0"
    assert drawn.common_frame((norms[0], place["head"])) == ""
