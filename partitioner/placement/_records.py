"""Stand-in for the records of a captured graph."""

from __future__ import annotations

from typing import Any

import msgspec


class NodeRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One node."""

    name: str
    op: str


class Program(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The recorded graph."""

    nodes: tuple[NodeRecord, ...]


Inputs = Any


def records(captured: Any) -> Program:
    """The graph as records."""
    return Program(tuple(NodeRecord(node.name, node.op) for node in captured.graph.nodes))
