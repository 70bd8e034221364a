"""Plans go in; text, pictures and pages for people come out. Pure functions."""

from partitioner.report.difference import Difference, difference, difference_renderable
from partitioner.report.drawing import DRAWINGS, draw, html, renderer, svg
from partitioner.report.explain import explain
from partitioner.report.files import write_whole
from partitioner.report.network import network
from partitioner.report.sweep_table import Cell, Sweep, check_sweep_suffix, sweep_renderable
from partitioner.report.text import (
    ComparisonRow,
    as_text,
    comparison_renderable,
    comparison_table,
    plan_renderable,
    plan_table,
)
from partitioner.report.wording import objective_text, percent

__all__ = [
    "DRAWINGS",
    "Cell",
    "ComparisonRow",
    "Difference",
    "Sweep",
    "as_text",
    "check_sweep_suffix",
    "comparison_renderable",
    "comparison_table",
    "difference",
    "difference_renderable",
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
    "sweep_renderable",
    "write_whole",
]
