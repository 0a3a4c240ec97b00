"""Where Muster keeps things."""

from __future__ import annotations

import os
from pathlib import Path

from muster.errors import InputError

COLLECTION_ROOT = Path(__file__).resolve().parent.parent
"""The checkout: parent of ``roles/``, ``deploys/``, ``files/`` and ``group_vars/``."""


def cache_dir() -> Path:
    """Folder of everything that is costly to make and can be made again."""
    return _folder("MUSTER_CACHE_DIR", "XDG_CACHE_HOME", ".cache")


def state_dir() -> Path:
    """Folder of what must be kept: the journal and what it needs."""
    return _folder("MUSTER_STATE_DIR", "XDG_STATE_HOME", ".local/state")


def _folder(own: str, xdg: str, below_home: str) -> Path:
    if value := os.environ.get(own):
        path = Path(value)
    elif value := os.environ.get(xdg):
        path = Path(value) / "muster"
    else:
        path = Path.home() / below_home / "muster"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: expected a folder to write to; {error.strerror}") from None
    return path
