"""The files that variables come from: the collection's defaults, and where a value was set."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from muster.ansible_inventory import inventory_files, inventory_folder
from muster.errors import InputError
from muster.paths import COLLECTION_ROOT


def read_defaults(group: str) -> dict[str, Any]:
    """The collection's defaults for one group.

    :raises InputError: a file that is no mapping.
    """
    values: dict[str, Any] = {}
    for file in _default_files(group):
        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"{file}: can't be read, {error.strerror or error}") from None
        except yaml.YAMLError as error:
            raise InputError(f"{file}: not valid YAML, {' '.join(str(error).split())}") from None
        if not isinstance(content, (dict, type(None))):
            raise InputError(f"{file}: expected a mapping of variables")
        values |= content or {}
    return values


def origin(path: Path, device: str, groups: Sequence[str], variable: str) -> Path:
    """File that sets a variable of a device, as far as a look at the files tells.

    :param path: the inventory; it is the answer where no file names the variable.
    :param groups: groups of the device, the more specific ones later.
    """
    setting = re.compile(rf"^[^#\n]*\b{re.escape(variable)}[\"']?\s*[:=]", re.MULTILINE)
    scopes = ("all", *groups)
    ranked = []
    for file in inventory_files(path):
        rank = _rank(file.relative_to(inventory_folder(path)), device, scopes)
        if rank is not None:
            ranked.append((rank, file))
    candidates = [file for _, file in sorted(ranked, reverse=True)]
    candidates += [file for group in reversed(scopes) for file in _default_files(group)]
    return next((file for file in candidates if _matches(setting, file)), path)


def _matches(setting: re.Pattern[str], file: Path) -> bool:
    try:
        return setting.search(file.read_text(encoding="utf-8", errors="replace")) is not None
    except OSError:
        return False


def _rank(file: Path, device: str, scopes: Sequence[str]) -> tuple[int, int] | None:
    """How much a file of an inventory counts for a device, None if not at all."""
    folder, *rest = file.parts
    if folder not in ("group_vars", "host_vars") or not rest:
        return (0, 0)
    names = {rest[0], rest[0].rsplit(".", 1)[0]}
    if folder == "host_vars":
        return (2, 0) if device in names else None
    places = [place for place, scope in enumerate(scopes) if scope in names]
    return (1, places[0]) if places else None


def _default_files(group: str) -> list[Path]:
    candidates = [COLLECTION_ROOT / "group_vars" / f"{group}{end}" for end in (".yml", ".yaml")]
    return [file for file in candidates if file.is_file()]
