"""Plans go in; text, pictures and pages for people come out. Pure functions."""

from partitioner.report.drawing import DRAWINGS, draw, html, renderer, svg
from partitioner.report.explain import explain
from partitioner.report.files import write_whole
from partitioner.report.network import network
from partitioner.report.text import (
    ComparisonRow,
    comparison_renderable,
    comparison_table,
    plan_renderable,
    plan_table,
)
from partitioner.report.wording import objective_text, percent

__all__ = [
    "DRAWINGS",
    "ComparisonRow",
    "comparison_renderable",
    "comparison_table",
    "draw",
    "explain",
    "html",
    "network",
    "objective_text",
    "percent",
    "plan_renderable",
    "plan_table",
    "renderer",
    "svg",
    "write_whole",
]
