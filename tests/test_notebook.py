"""The example notebook runs from top to bottom in a kernel of its own, and shows what it says."""

from __future__ import annotations

import asyncio
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parent.parent / "examples" / "notebook.ipynb"


@pytest.mark.filterwarnings("ignore")  # Jupyter's own, of its event loop and ports
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parent.parent))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(notebook, resources={"metadata": {"path": str(tmp_path)}}, timeout=300)
    asyncio.run(client.async_execute())
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", ())]
    shown = [out["data"] for out in outputs if "data" in out]
    assert any("<svg " in data.get("text/html", "") for data in shown)
    assert sum("image/svg+xml" in data for data in shown) == 3  # the plan's own, and two drawn
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "timeline.svg",
        "memory.svg",
        "report.html",
        "trace.json",
    }
    assert "promised at most" in "".join(out.get("text", "") for out in outputs)
