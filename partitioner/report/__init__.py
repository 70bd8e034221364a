"""Plans go in; text, pictures and pages for people come out. Pure functions."""

from partitioner.report.drawing import check_suffix, draw, html, svg
from partitioner.report.explain import explain
from partitioner.report.files import write_whole
from partitioner.report.text import (
    ComparisonRow,
    comparison_renderable,
    comparison_table,
    plan_renderable,
    plan_table,
)
from partitioner.report.wording import objective_text, percent

__all__ = [
    "ComparisonRow",
    "check_suffix",
    "comparison_renderable",
    "comparison_table",
    "draw",
    "explain",
    "html",
    "objective_text",
    "percent",
    "plan_renderable",
    "plan_table",
    "svg",
    "write_whole",
]
