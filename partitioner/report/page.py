"""A plan as one HTML page, or as a part of one: the picture and the tables. It loads nothing."""

from __future__ import annotations

import html as markup

from partitioner.placement import PlanDocument
from partitioner.report.explain import explain
from partitioner.report.text import plan_table
from partitioner.report.wording import title

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem;
       color: #222; background: #fff; }
.plan svg { max-width: 100%; height: auto; }
.plan pre { overflow-x: auto; font-size: 0.85rem; line-height: 1.35; }
@media (prefers-color-scheme: dark) {
  body { color: #ddd; background: #16181c; }
  .plan svg { border-radius: 0.5rem; }
}
"""


def fragment(document: PlanDocument, picture: str) -> str:
    """The plan as an element of a page; `picture` is an SVG document."""
    svg = picture[picture.index("<svg ") :]
    return (
        f'<div class="plan">\n{svg}\n'
        f"<h2>Why</h2>\n<pre>{markup.escape(explain(document))}</pre>\n"
        f"<h2>What</h2>\n<pre>{markup.escape(plan_table(document, width=120))}</pre>\n</div>"
    )


def page(document: PlanDocument, picture: str) -> str:
    """The plan as a self-contained page."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{markup.escape(title(document))}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n{fragment(document, picture)}\n</body>\n</html>\n"
    )
