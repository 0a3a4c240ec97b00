"""JSON Schema of the documents, for editors and for checks without Muster."""

from __future__ import annotations

from typing import Any

from muster.fields import Document
from muster.release import Release
from muster.strategy import Strategy

DIALECT = "https://json-schema.org/draft/2020-12/schema"

KINDS: dict[str, type[Document]] = {"release": Release, "strategy": Strategy}
"""The documents that have a schema, by the word for them on the command line."""


def json_schema(kind: str) -> dict[str, Any]:
    """Give the JSON Schema of a kind of document.

    :param kind: a key of :data:`KINDS`.
    """
    schema = {"$schema": DIALECT, **KINDS[kind].model_json_schema()}
    _close(schema)
    return schema


def _close(schema: Any) -> None:
    """Refuse keys that no pattern fits: pydantic does, but leaves it out of the schema."""
    if isinstance(schema, dict):
        if "patternProperties" in schema:
            schema.setdefault("additionalProperties", False)
        for value in schema.values():
            _close(value)
    elif isinstance(schema, list):
        for value in schema:
            _close(value)
