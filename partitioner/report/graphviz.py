"""Graphviz, which lays out graphs and turns drawings into SVG, PNG and PDF."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pygraphviz

FONT = "Helvetica,Arial,sans-serif"
CREATED = re.compile(rb"(/CreationDate \(D:)\d{14}([^)]*\))")
"""The time of day in a PDF, for which equal plans would not give equal bytes."""


def rendered(graph: pygraphviz.AGraph, form: str, *, positioned: bool = False) -> bytes:
    """A graph as `"svg"`, `"pdf"`, or `"png"` at twice the 72 points an inch of a screen.

    Args:
        graph: what is drawn.
        form: the format's name.
        positioned: everything in it has its place already.
    """
    if form == "png":
        graph.graph_attr["dpi"] = "144"
    graph.has_layout = positioned
    with _silent():
        content: bytes = graph.draw(format=form, prog=None if positioned else "dot")
    return CREATED.sub(lambda found: found[1] + b"19700101000000" + found[2], content)


@contextmanager
def _silent() -> Iterator[None]:
    """Keep what Graphviz's libraries in C write about fonts off the user's terminal."""
    try:
        saved = os.dup(2)
    except OSError:
        yield
        return
    with tempfile.TemporaryFile() as sink:
        os.dup2(sink.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
