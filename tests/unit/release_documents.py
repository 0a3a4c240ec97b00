"""Release documents for tests."""

from __future__ import annotations

from typing import Any

from muster.release import Release

IMAGE = "models/digits@sha256:" + "ab" * 32


def release_document(**changes: Any) -> dict[str, Any]:
    """Give a small valid release document; a change to None leaves the key out."""
    document: dict[str, Any] = {
        "apiVersion": "muster/v1",
        "kind": "Release",
        "model": "digits",
        "version": "1.1",
        "variants": {"hw_coral": {"image": IMAGE}},
        "gates": [{"name": "ready", "type": "readiness"}],
    }
    return {key: value for key, value in (document | changes).items() if value is not None}


def make_release(*variants: str) -> Release:
    """Make a release with these variants."""
    return Release.model_validate(
        release_document(variants={name: {"image": IMAGE} for name in variants})
    )
