"""The page in a browser without a screen: what a person sees and can do with it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
import torch
from playwright.sync_api import Page, expect, sync_playwright
from torch import Tensor, nn

from partitioner import Pin, Plan, plan
from partitioner.report import draw

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 800}


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(8, 16)
        self.down = nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(x)))


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def browser_path() -> str:
    found = os.environ.get("PARTITIONER_BROWSER") or next(
        filter(None, map(shutil.which, NAMES)), None
    )
    if found is None:
        pytest.skip(
            "NO BROWSER: the page is not tested. Install one ('apt-get install chromium') or name "
            "it in PARTITIONER_BROWSER; 'make test' installs it where it may"
        )
    return found


@contextmanager
def opened(page: Page, document: Plan, folder: Path) -> Iterator[Page]:
    """A plan's page, in which nothing may be loaded or go wrong unseen."""
    draw(document, folder / "report.html")
    own = (folder / "report.html").as_uri()
    troubles: list[str] = []
    page.on("console", lambda message: troubles.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("request", lambda request: troubles.append(request.url))
    page.goto(own)
    yield page
    assert [line for line in troubles if line != own] == []
    page.close()


def boxes(page: Page) -> int:
    return int(page.locator("#canvas").get_attribute("data-boxes") or 0)


def click_on(page: Page, name: str, clicks: int = 1) -> None:
    """Click on what stands for a node or module on the canvas."""
    page.locator("#canvas").scroll_into_view_if_needed()
    at = page.evaluate("name => document.getElementById('canvas').positionOf(name)", name)
    page.mouse.click(at["x"], at["y"], click_count=clicks)


def test_the_page_folds_searches_selects_and_fits_every_screen(tmp_path: Path) -> None:
    document = plan(
        Blocks(),
        "2x16GiB",
        (torch.empty(4, 8),),
        mode="train",
        optimizer="adam",
        constraints=[Pin("blocks.0", "cuda:0"), Pin("blocks.2", "cuda:1")],
    )
    older = msgspec.structs.replace(document, memory_curves={})
    path = browser_path()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        with opened(browser.new_page(viewport=DESK), document, tmp_path) as page:
            expect(page).to_have_title("Blocks on cuda:0 and cuda:1, training with adam")
            it_folds_and_unfolds(page)
            it_finds_and_selects(page)
            it_is_worked_by_keyboard(page)
            it_shows_the_step(page)
        for theme, size in (("light", PHONE), ("dark", DESK)):
            tab = browser.new_page(viewport=size, color_scheme=theme)  # type: ignore[arg-type]
            with opened(tab, older if theme == "dark" else document, tmp_path) as page:
                width = page.evaluate("document.documentElement.scrollWidth")
                assert width <= size["width"]
                paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
                assert (paper == "rgb(255, 255, 255)") == (theme == "light")
                missing = page.get_by_text("This plan does not tell what devices hold over time")
                assert missing.count() == (theme == "dark")
        browser.close()


def it_folds_and_unfolds(page: Page) -> None:
    page.get_by_role("button", name="Fold all").click()
    assert boxes(page) == 4  # x, blocks, head, output
    page.get_by_role("button", name="Unfold a level").click()
    assert boxes(page) == 6
    page.get_by_role("button", name="Unfold a level").click()
    assert boxes(page) == 15  # up, relu, down and add of each block
    page.get_by_role("button", name="Fold all").click()
    click_on(page, "blocks", clicks=2)
    assert boxes(page) == 6
    click_on(page, "blocks")
    expect(page.locator("#details")).to_contain_text("It is split")
    page.get_by_role("button", name="Fold it").click()
    assert boxes(page) == 4


def it_finds_and_selects(page: Page) -> None:
    page.keyboard.press("/")
    page.keyboard.type("blocks.2.up")
    expect(page.locator("#found-count")).to_have_text("1 match")
    page.keyboard.press("Enter")
    details = page.locator("#details")
    expect(details.locator("h3").first).to_have_text("blocks_2_up")
    assert boxes(page) == 9  # only what is around it was unfolded
    for text in ("cuda:1", "test_page_in_browser.py:", "self.down(torch.relu(self.up(x)))"):
        expect(details).to_contain_text(text)
    expect(page.locator("#why-there")).to_contain_text("You demanded: pin blocks.2=cuda:1.")
    expect(page.locator("#why-there")).to_contain_text("Alone on cuda:0 it takes")
    page.get_by_role("button", name="Fit", exact=True).click()
    click_on(page, "head")
    expect(details.locator("h3").first).to_have_text("head")
    details.get_by_role("button", name="blocks_2").or_(
        details.get_by_role("button", name="add_2")
    ).first.click()
    expect(page.get_by_role("treeitem", selected=True)).to_have_count(1)
    page.get_by_label("Colour by").select_option("memory")
    expect(page.locator("#legend")).to_contain_text("weights and value of a box")
    page.get_by_label("Search").fill("no such thing")
    expect(page.locator("#found-count")).to_have_text("Nothing was found.")
    page.get_by_label("Search").press("Escape")
    expect(page.locator("#found")).to_be_hidden()


def it_is_worked_by_keyboard(page: Page) -> None:
    page.get_by_role("button", name="Fold all").click()
    tree = page.get_by_role("tree")
    tree.get_by_role("treeitem", name="x, on cuda:0").focus()
    page.keyboard.press("ArrowDown")
    chosen = page.get_by_role("treeitem", selected=True)
    expect(chosen).to_have_attribute("aria-expanded", "false")
    page.keyboard.press("ArrowRight")
    expect(chosen).to_have_attribute("aria-expanded", "true")
    page.keyboard.press("ArrowDown")
    expect(chosen).to_have_attribute("aria-label", "0, 4 operations, on cuda:0")
    page.keyboard.press("Enter")
    assert boxes(page) == 9
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#details h3").first).to_have_text("blocks")


def it_shows_the_step(page: Page) -> None:
    spans = page.locator("#spans .u-over")
    spans.scroll_into_view_if_needed()
    area = spans.bounding_box()
    assert area is not None
    told = set()
    for i in range(12):
        page.mouse.move(area["x"] + area["width"] * (i + 0.5) / 12, area["y"] + 8)
        told.add(page.locator("#span").inner_text())
    assert any("forward: " in text and "on cuda:0" in text for text in told), told
    assert page.locator("[data-curve] canvas").count() == 2
    page.get_by_role("button", name="Closer in time").click()
    page.get_by_role("button", name="Whole step").click()
    page.get_by_text("What cuda:0 holds at its fullest").first.click()
    expect(page.locator("#memory table").first).to_contain_text("blocks.0.up.weight")
