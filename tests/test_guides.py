"""The pages of `docs/`: their Python runs, their commands work, and the site names them all."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from partitioner.cli import cli

ROOT = Path(__file__).parent.parent
PAGES = ("start", "steering", "training", "interop")
ELSEWHERE = {
    "checkpoints",
    "declaring_devices",
    "pipelines",
    "reading_a_plan",
    "writing_a_cost_model",
}
"""Pages whose snippets have tests of their own."""


def fences(page: str, language: str) -> list[str]:
    text = (ROOT / "docs" / f"{page}.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES)
def test_its_python_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": page}
    for block in fences(page, "python"):
        exec(compile(block, f"{page}.md", "exec"), names)


@pytest.mark.parametrize("page", [page for page in PAGES if fences(page, "console")])
def test_its_commands_work(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "examples" / "seqnet", tmp_path / "examples" / "seqnet")
    monkeypatch.chdir(tmp_path)
    lines = [line for block in fences(page, "console") for line in block.splitlines()]
    commands = [line.removeprefix("$ partitioner ") for line in lines if "$ partitioner" in line]
    assert commands
    for command in commands:
        result = CliRunner().invoke(cli, shlex.split(command))
        assert result.exit_code == 0, (command, result.output)


def test_every_page_is_in_the_site_and_every_snippet_is_run() -> None:
    named = set(re.findall(r"(\w+)\.md", (ROOT / "mkdocs.yml").read_text()))
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert pages == named
    with_python = {page for page in pages if fences(page, "python")}
    assert with_python <= {*PAGES, *ELSEWHERE}


def test_links_lead_to_pages_and_pictures() -> None:
    for page in (ROOT / "docs").glob("*.md"):
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / link).exists(), (page.name, link)


def test_every_name_of_the_reference_exists() -> None:
    from pydoc import locate

    names = re.findall(r"^::: (\S+)$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    assert names
    for name in names:
        module, _, attribute = name.rpartition(".")
        found = locate(name) or getattr(__import__(module, fromlist=[attribute]), attribute)
        assert found is not None, name
