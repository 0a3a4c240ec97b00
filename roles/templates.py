"""Rendering a role's templates on the controller."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

_ROLES = Path(__file__).resolve().parent
# What comes out are configuration files, not HTML.
_ENVIRONMENT = Environment(  # noqa: S701
    loader=FileSystemLoader(_ROLES),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def render(template: str, **values: Any) -> str:
    """Render ``<role>/templates/<name>``, given as ``<role>/<name>``."""
    role, name = template.split("/", 1)
    return _ENVIRONMENT.get_template(f"{role}/templates/{name}.j2").render(values)
