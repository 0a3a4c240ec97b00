"""Writing devices into an inventory that people wrote: comments, order and style stay."""

from __future__ import annotations

import io
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import CommentMark, YAMLError
from ruamel.yaml.tokens import CommentToken
from ruamel.yaml.util import load_yaml_guess_indent

from muster.ansible_inventory import inventory_folder
from muster.errors import InputError

KNOWN_HOSTS = "known_hosts"
_NAMES = ("hosts.yml", "hosts.yaml", "inventory.yml", "inventory.yaml")
_INVENTORY_DIR = re.compile(r"\{\{\s*inventory_dir\s*\}\}")


def hosts_file(path: Path) -> Path:
    """The file of an inventory that devices are written into.

    :raises InputError: there is none that can be written to.
    """
    if path.is_file() and path.suffix in (".yml", ".yaml"):
        return path
    if path.is_dir():
        for name in _NAMES:
            if (path / name).is_file():
                return path / name
        raise InputError(
            f"{path}: expected {' or '.join(_NAMES[:2])}; to make one: muster site new"
        )
    if path.exists():
        raise InputError(f"{path}: expected an inventory in YAML, devices can't be added to others")
    raise InputError(f"{path}: expected an inventory, there is none; to make one: muster site new")


class InventoryFile:
    """One file of an inventory, as it is written.

    :raises InputError: the file is no inventory in YAML.
    """

    def __init__(self, path: Path) -> None:
        self.path = hosts_file(path)
        self.folder = inventory_folder(path).resolve()
        self._before = self.path.read_bytes()
        try:
            self._head, text = _split_head(self._before.decode("utf-8"))
            _, indent, offset = load_yaml_guess_indent(text)
            self._yaml = YAML()
            self._yaml.preserve_quotes = True
            self._yaml.width = 4096  # nobody's long lines are folded
            if indent:
                self._yaml.indent(mapping=2, sequence=indent, offset=offset or 0)
            self._document = self._yaml.load(text)
        except (YAMLError, UnicodeDecodeError) as error:
            message = " ".join(str(error).split())
            raise InputError(f"{self.path}: not valid YAML, {message}") from None
        if not isinstance(self._document, CommentedMap) or "all" not in self._document:
            raise InputError(f"{self.path}: expected an inventory with the group all at its top")
        self.changed = False

    def sites(self) -> list[str]:
        """The ``site_*`` groups of this file."""
        children = self._child("all", "children") or {}
        return [str(name) for name in children if str(name).startswith("site_")]

    def variable(self, name: str, site: str | None = None) -> Any:
        """What all devices of a site get for a variable, as far as plain files tell.

        Of templates only ``{{ inventory_dir }}`` is understood; other ones count as nothing.
        """
        groups = ["all", *([site] if site else [])]
        value = None
        for group in groups:
            for layer in (self._group_variables(group), self._file_variables(group)):
                value = layer.get(name, value)
        if isinstance(value, str):
            value = _INVENTORY_DIR.sub(lambda _match: str(self.folder), value)
            return None if "{{" in value or "{%" in value else value
        return value

    def put(self, group: str, host: str, variables: Mapping[str, Any] | None = None) -> bool:
        """Have a host in a group, with these variables among its own; None removes one.

        :returns: whether anything changed.
        """
        hosts, around = self._hosts(group)
        changed = host not in hosts
        if changed:
            below = _take_comment_below(hosts) if hosts else _take_comment(around, "hosts")
            hosts[host] = (
                _plain({k: v for k, v in (variables or {}).items() if v is not None}) or None
            )
            _give_comment_below(hosts, below)
        elif variables:
            own = hosts[host]
            if not isinstance(own, CommentedMap):
                own = hosts[host] = CommentedMap()
            changed = _update(own, variables) or changed
        self.changed = self.changed or changed
        return changed

    def remove(self, host: str) -> bool:
        """Take a host out of every group.

        :returns: whether it was in any; one that is part of a range (``cam-[01:12]``) is not found.
        """
        found = self._remove(self._document, host)
        self.changed = self.changed or found
        return found

    def _remove(self, groups: Mapping[str, Any], host: str) -> bool:
        found = False
        for group in groups.values():
            if not isinstance(group, CommentedMap):
                continue
            hosts = group.get("hosts")
            if isinstance(hosts, CommentedMap) and host in hosts:
                last = next(reversed(hosts)) == host
                below = _take_comment_below(hosts) if last else None
                del hosts[host]
                if not hosts:
                    group["hosts"] = None
                _give_comment_below(hosts or group, below)
                found = True
            children = group.get("children")
            if isinstance(children, CommentedMap):
                found = self._remove(children, host) or found
        return found

    def save(self) -> None:
        """Replace the file, at once or not at all.

        :raises InputError: somebody else changed it in the meantime.
        """
        if not self.changed:
            return
        if self.path.read_bytes() != self._before:
            raise InputError(f"{self.path}: was changed in the meantime, run this again")
        text = self.text()
        replace_file(self.path, text)
        self._before, self.changed = text.encode("utf-8"), False

    def text(self) -> str:
        """What will be written."""
        stream = io.StringIO()
        self._yaml.dump(self._document, stream)
        return self._head + stream.getvalue()

    def _child(self, *keys: str) -> Any:
        value: Any = self._document
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    def _group_variables(self, group: str) -> Mapping[str, Any]:
        place = ("all",) if group == "all" else ("all", "children", group)
        found = self._child(*place, "vars")
        return found if isinstance(found, Mapping) else {}

    def _file_variables(self, group: str) -> Mapping[str, Any]:
        for name in (f"{group}.yml", f"{group}.yaml", group):
            file = self.folder / "group_vars" / name
            if file.is_file():
                try:
                    found = YAML(typ="rt").load(file.read_text(encoding="utf-8"))
                except (YAMLError, OSError, UnicodeDecodeError):
                    return {}  # Ansible will say what is wrong with it
                return found if isinstance(found, Mapping) else {}
        return {}

    def _hosts(self, group: str) -> tuple[Any, Any]:
        """The hosts of a group, which is made where it is missing, and the group itself."""
        top = self._document["all"]
        if not isinstance(top, CommentedMap):
            top = self._document["all"] = CommentedMap()
        around = _mapping(_mapping(top, "children"), group)
        return _mapping(around, "hosts"), around


def _mapping(parent: Any, key: str) -> Any:
    if not isinstance(parent.get(key), CommentedMap):
        below = _take_comment_below(parent) if key not in parent else None
        parent[key] = CommentedMap()
        _give_comment_below(parent, below)
    elif parent[key].fa.flow_style() and not parent[key]:
        parent[key].fa.set_block_style()  # `hosts: {}` has room for nothing
    return parent[key]


def _split_head(text: str) -> tuple[str, str]:
    """What comes before the document itself, which the library would lose, and the document."""
    lines = text.splitlines(keepends=True)
    for number, line in enumerate(lines):
        if line.rstrip() == "---":
            return "".join(lines[: number + 1]), "".join(lines[number + 1 :])
        if line.strip() and not line.startswith("#"):
            break
    return "", text


def _last_leaf(mapping: CommentedMap) -> tuple[CommentedMap, Any] | None:
    """The last line of a mapping: the innermost mapping that it is in, and its key."""
    while mapping:
        key = next(reversed(mapping))
        if not isinstance(mapping[key], CommentedMap) or not mapping[key]:
            return mapping, key
        mapping = mapping[key]
    return None


def _take_comment_below(mapping: CommentedMap) -> Any:
    """Take off the lines that follow a mapping: they belong to whatever comes after it."""
    leaf = _last_leaf(mapping)
    return None if leaf is None else _take_comment(*leaf)


def _take_comment(mapping: CommentedMap, key: Any) -> Any:
    tokens = mapping.ca.items.get(key)
    token = tokens[2] if tokens else None
    if token is None:
        return None
    beside, newline, below = token.value.partition("\n")
    if not below:
        return None
    token.value = beside + newline
    return below


def _give_comment_below(mapping: CommentedMap, below: Any) -> None:
    leaf = _last_leaf(mapping)
    if below and leaf is not None:
        token = CommentToken("\n" + below, CommentMark(0), None)
        leaf[0].ca.items[leaf[1]] = [None, None, token, None]


def _update(own: Any, variables: Mapping[str, Any]) -> bool:
    changed = False
    for name, value in variables.items():
        if value is None:
            changed = own.pop(name, None) is not None or changed
        elif isinstance(value, Mapping) and isinstance(own.get(name), CommentedMap):
            gone = [key for key in own[name] if key not in value]
            changed = _update(own[name], {**value, **dict.fromkeys(gone)}) or changed
        elif own.get(name) != value:
            own[name] = _plain(value)
            changed = True
    return changed


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return CommentedMap((key, _plain(each)) for key, each in value.items())
    if isinstance(value, list):
        listed = CommentedSeq(value)
        listed.fa.set_flow_style()
        return listed
    return value


def replace_file(path: Path, text: str, mode: int = 0o644) -> None:
    """Replace a file so that a crash leaves the old content or the new; its rights stay.

    :param mode: rights of a file that is new.
    """
    real = path.resolve()
    if real.exists():
        mode = real.stat().st_mode & 0o7777
    descriptor, temporary = tempfile.mkstemp(dir=real.parent, prefix=f".{real.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(mode)
        Path(temporary).replace(real)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
