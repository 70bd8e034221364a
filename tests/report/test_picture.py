"""Pictures: what is in them, and that equal graphs give equal bytes."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest
from made_by_hand import seqnet, transformer

from partitioner.report.palette import palette
from partitioner.report.partition_graph import PartitionGraph
from partitioner.report.picture import LegendRow, Sheet, render_dot, render_png, render_svg

SVG = "{http://www.w3.org/2000/svg}"


def sheet(graph: PartitionGraph) -> Sheet:
    rows = tuple(LegendRow(device, "a100-40gb", 2**30, 2**31) for device in graph.devices)
    return Sheet(graph, "A <title> & more", "proved best", rows)


def texts(svg: str) -> list[str]:
    root = ElementTree.fromstring(svg.encode())
    return [(element.text or "").strip() for element in root.iter(f"{SVG}text")]


def test_a_small_picture_shows_every_operation_the_transfer_and_the_legend() -> None:
    found = texts(render_svg(sheet(seqnet())))
    for expected in ("x", "flatten", "lin1", "log_softmax", "lin2", "output"):
        assert expected in found
    assert "50 KiB" in found
    assert "gradient back 50 KiB" in found
    assert "A <title> & more" in found
    assert "1 GiB of 2 GiB (50%)" in found
    assert any("Linear" in text and "f32[64,200]" in text for text in found)


def test_transfers_are_drawn_apart() -> None:
    dashed = [line for line in render_dot(sheet(seqnet())).splitlines() if "dashed" in line]
    assert len(dashed) == 1
    assert "dashed" not in render_dot(sheet(seqnet(split=False)))


def test_a_value_that_moves_once_to_two_readers_has_one_size() -> None:
    graph = seqnet()
    forked = PartitionGraph(
        (*graph.operations[:5], graph.operations[4].__class__("more", "add", "", "cuda:1")),
        (*graph.edges[:4], ("log_softmax", "more")),
        graph.devices,
        graph.crossings,
    )
    found = texts(render_svg(sheet(forked)))
    assert found.count("50 KiB") == 1


def test_each_device_has_a_colour_of_its_own() -> None:
    shades = palette([f"cuda:{i}" for i in range(8)])
    assert len({shade.fill for shade in shades.values()}) == 8
    again = palette([f"cuda:{i}" for i in range(16)])
    assert (again["cuda:0"].again, again["cuda:8"].again) == (0, 1)


@pytest.mark.parametrize(
    "graph",
    [transformer(100, 4), transformer(110, 3, seed=2)],
    ids=["a thousand operations in order", "a thousand operations scattered"],
)
def test_a_thousand_operations_fold_to_a_picture(graph: PartitionGraph) -> None:
    assert len(graph.operations) >= 900
    svg = render_svg(sheet(graph))
    root = ElementTree.fromstring(svg.encode())
    boxes = [g for g in root.iter(f"{SVG}g") if g.get("class") == "node"]
    assert len(boxes) <= 120


def test_equal_graphs_give_equal_bytes() -> None:
    for render in (render_svg, render_png, render_dot):
        assert render(sheet(transformer(3))) == render(sheet(transformer(3)))


def test_png_is_a_png() -> None:
    assert render_png(sheet(seqnet())).startswith(b"\x89PNG\r\n")


def test_graphviz_says_nothing_on_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    render_png(sheet(seqnet()))
    assert capfd.readouterr() == ("", "")


def test_the_svg_is_described_for_screen_readers() -> None:
    root = ElementTree.fromstring(render_svg(sheet(seqnet())).encode())
    assert root.get("role") == "img"
    assert root.get("aria-label") == "A <title> & more. proved best"
