"""The page on devices says what is true: its files are read, its Python is run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from partitioner import Cluster
from partitioner.spec import parse_constraint

PAGE = (Path(__file__).parent.parent / "docs" / "declaring_devices.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_its_python_runs() -> None:
    names: dict[str, object] = {}
    found = blocks("python")
    assert found
    for block in found:
        exec(block, names)


@pytest.mark.parametrize("text", blocks("toml"))
def test_its_cluster_files_are_read(text: str, tmp_path: Path) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text(text)
    assert Cluster.of(path).links


def test_its_constraints_are_spelt_as_they_are_read() -> None:
    rows = re.findall(
        r"^\| `((?:Pin|Colocate|Separate|Contiguous)\(.*?)` \| `(.*?)` \|", PAGE, re.M
    )
    assert len(rows) == 4
    for call, text in rows:
        spelt = repr(parse_constraint(text))
        assert spelt.partition("(")[0] == call.partition("(")[0]


@pytest.mark.parametrize("text", ["2xa100-40gb", "4x24GiB", "cuda:0=24GiB,cpu=64GiB"])
def test_its_shorthand_is_read(text: str) -> None:
    assert f'"{text}"' in PAGE
    assert Cluster.of(text).devices
