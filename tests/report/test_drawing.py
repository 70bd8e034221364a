"""Plans drawn into files."""

from __future__ import annotations

import json
import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

from partitioner.errors import SpecError
from partitioner.placement import PlanDocument
from partitioner.report import DRAWINGS, draw, html, svg
from partitioner.report.model_explorer import (
    render_device_overlay,
    render_explorer_graph,
    render_time_overlay,
)

Make = Callable[..., PlanDocument]


ALL = [(what, suffix) for what, suffixes in DRAWINGS.items() for suffix in suffixes]
BEGIN = {
    ".svg": b"<?xml",
    ".png": b"\x89PNG\r\n",
    ".pdf": b"%PDF-",
    ".dot": b"digraph",
    ".graphml": b"<?xml",
    ".json": b"{",
    ".html": b"<!DOCTYPE",
}


@pytest.mark.parametrize(("what", "suffix"), [*ALL, ("graph", ".SVG")])
def test_equal_plans_give_equal_files(
    plan_with_curves: Make, tmp_path: Path, what: str, suffix: str
) -> None:
    for name in ("first", "second"):
        draw(plan_with_curves(), tmp_path / f"{name}{suffix}", what)
    first, second = ((tmp_path / f"{name}{suffix}").read_bytes() for name in ("first", "second"))
    assert first == second
    assert first.lstrip().startswith(BEGIN[suffix.lower()])
    assert len(os.listdir(tmp_path)) == 2
    if suffix == ".pdf":
        assert b"CreationDate" not in first or b"D:1970" in first


@pytest.mark.parametrize("name", ["graph.gif", "graph", "graph.svg.txt", ".svg"])
def test_another_suffix_is_told_and_nothing_is_written(
    plan_of: Make, tmp_path: Path, name: str
) -> None:
    with pytest.raises(SpecError, match=r"use '\.svg', '\.png', '\.pdf', '\.dot', '\.graphml'"):
        draw(plan_of(), tmp_path / name)
    assert os.listdir(tmp_path) == []


def test_memory_over_time_of_an_older_plan_is_told_to_be_missing(
    plan_of: Make, tmp_path: Path
) -> None:
    with pytest.raises(SpecError, match="plan again with this version"):
        draw(plan_of(), tmp_path / "memory.svg", "memory")
    with pytest.raises(SpecError, match=r"there is no drawing 'memry'; did you mean 'memory'"):
        draw(plan_of(), tmp_path / "memory.svg", "memry")
    assert os.listdir(tmp_path) == []


def test_the_pictures_of_a_step_name_what_they_show(plan_with_curves: Make, tmp_path: Path) -> None:
    for what, texts in {
        "timeline": ("cuda:0", "→ cuda:1", "lin1", "forward", "50 KiB to cuda:1 in"),
        "memory": ("cuda:0: peak 3 MiB, limit 4 MiB", "activations", "workspace"),
    }.items():
        draw(plan_with_curves(), tmp_path / "a.svg", what)
        drawn = (tmp_path / "a.svg").read_text(encoding="utf-8")
        ElementTree.fromstring(drawn.encode())
        for text in texts:
            assert text in drawn.replace("&#45;", "-"), text


def test_the_overlay_names_nodes_of_the_explorer_graph(plan_of: Make) -> None:
    (graph,) = json.loads(render_explorer_graph(plan_of()))["graphs"]
    known = {node["id"] for node in graph["nodes"]}
    edges = {edge["sourceNodeId"] for node in graph["nodes"] for edge in node["incomingEdges"]}
    assert edges < known
    devices = json.loads(render_device_overlay(plan_of()))["results"]
    times = json.loads(render_time_overlay(plan_of()))["results"]
    assert set(devices) == set(times) == known - {"output"}
    assert devices["lin2"]["value"] == "cuda:1"
    assert times["lin1"]["value"] == pytest.approx(16e-6)


def test_the_picture_of_a_plan(plan_of: Make, golden: Callable[[str, str], None]) -> None:
    drawn = svg(plan_of())
    ElementTree.fromstring(drawn.encode())
    assert "SeqNet on cuda:0 and cuda:1, training with adam" in drawn
    for text in ("lin1", "50 KiB", "3 MiB of 4 MiB (75%)", "proved best for latency"):
        assert text in drawn


def test_the_page_loads_nothing_and_is_well_formed(plan_of: Make, tmp_path: Path) -> None:
    draw(plan_of(), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    seen = Tags()
    seen.feed(page)
    assert seen.open == []
    assert not {"img", "iframe", "object"} & seen.all
    assert "src=" not in page.replace("img-src", "")
    assert "sourceMappingURL" not in page
    assert seen.loaded == {"data:,"}
    assert "Memory forces the split" in page
    assert "This plan does not tell what devices hold over time" in page


def test_a_name_cannot_break_out_of_the_page(plan_of: Make, tmp_path: Path) -> None:
    nasty = "a.</script><script>alert(1)</script>"
    document = plan_of()
    model = msgspec.structs.replace(document.model, class_name=nasty)
    program = msgspec.structs.replace(
        document.program,
        nodes=tuple(msgspec.structs.replace(n, line=nasty) for n in document.program.nodes),
    )
    draw(plan_of(model=model, program=program), tmp_path / "page.html")
    assert "<script>alert" not in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_the_notebook_gets_an_element(plan_of: Make) -> None:
    element = html(plan_of())
    assert element.startswith("<div")
    assert element.count("<svg ") == 1
    assert "<html" not in element


class Tags(HTMLParser):
    """Which tags there are, and which of them are not closed."""

    VOID = ("meta", "br", "link", "input")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.all: set[str] = set()
        self.loaded: set[str | None] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.all.add(tag)
        if tag == "link":
            self.loaded.update(value for name, value in attrs if name == "href")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
