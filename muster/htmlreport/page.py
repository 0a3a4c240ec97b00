"""Render the page. All text is escaped; nothing is loaded from anywhere."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from muster.htmlreport.axis import lasting
from muster.htmlreport.view import Page
from muster.rollout.words import words


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("muster.htmlreport", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["words"] = words
    environment.filters["lasting"] = lasting
    return environment.get_template("page.html.j2")


def render(page: Page) -> str:
    """The page as HTML text."""
    return _template().render(page=page)
