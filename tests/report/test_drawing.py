"""Plans drawn into files."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from partitioner.errors import SpecError
from partitioner.placement import PlanDocument
from partitioner.report import draw, html, svg

Make = Callable[..., PlanDocument]


@pytest.mark.parametrize("suffix", [".svg", ".png", ".dot", ".html", ".SVG"])
def test_equal_plans_give_equal_files(plan_of: Make, tmp_path: Path, suffix: str) -> None:
    for name in ("first", "second"):
        draw(plan_of(), tmp_path / f"{name}{suffix}")
    first, second = ((tmp_path / f"{name}{suffix}").read_bytes() for name in ("first", "second"))
    assert first == second
    assert len(os.listdir(tmp_path)) == 2


@pytest.mark.parametrize("name", ["graph.pdf", "graph", "graph.svg.txt", ".svg"])
def test_another_suffix_is_told_and_nothing_is_written(
    plan_of: Make, tmp_path: Path, name: str
) -> None:
    with pytest.raises(SpecError, match=r"use '\.svg', '\.png', '\.dot', '\.html'"):
        draw(plan_of(), tmp_path / name)
    assert os.listdir(tmp_path) == []


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
    assert not {"script", "link", "img", "iframe"} & seen.all
    assert "src=" not in page
    assert "Memory forces the split" in page


def test_the_notebook_gets_an_element(plan_of: Make) -> None:
    element = html(plan_of())
    assert element.startswith("<div")
    assert element.count("<svg ") == 1
    assert "<html" not in element


class Tags(HTMLParser):
    """Which tags there are, and which of them are not closed."""

    VOID = ("meta", "br")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.all: set[str] = set()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.all.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
