"""Templates, encrypted variables and host patterns, evaluated by Ansible."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from muster.ansible_inventory import (
    NO_VAULT_PASSWORD,
    lacks_vault_password,
    run_ansible,
    run_python,
)
from muster.errors import InputError, MusterError

_TEMPLATE = re.compile(r"\{\{|\{%")
_VAULT = "__ansible_vault"
_SEPARATOR = re.compile(r"[,:]")


def is_template(value: Any) -> bool:
    """Whether a variable's value has a Jinja expression or statement in it."""
    if isinstance(value, str):
        return _TEMPLATE.search(value) is not None
    if isinstance(value, dict):
        return any(is_template(part) for pair in value.items() for part in pair)
    return isinstance(value, list) and any(is_template(item) for item in value)


def render(
    hosts: Mapping[str, Mapping[str, Any]], shared: Mapping[str, Any], folder: Path
) -> dict[str, dict[str, dict[str, Any]]]:
    """Render templates as Ansible does, with its filters, tests and lookups.

    :param hosts: for each host its ``variables``, and the names of those ``wanted``.
    :param shared: variables of all hosts.
    :param folder: where relative paths of lookups start.
    :returns: for each host and wanted name a ``value`` or an ``error``.
    """
    return _ask({"do": "render", "hosts": hosts, "shared": shared, "folder": str(folder)})


def select(pattern: str, hosts: Sequence[str], groups: Mapping[str, Sequence[str]]) -> set[str]:
    """Evaluate a host pattern.

    :param hosts: names of the devices, in inventory order.
    :param groups: names of the devices of every group, with those of its children.
    :raises InputError: the pattern is not valid, or a part of it matches nothing there is.
    """
    known = {**groups, "all": hosts, **{host: (host,) for host in hosts}}
    if not pattern.strip():
        raise InputError("empty pattern: expected names of devices or groups")
    parts = _SEPARATOR.split(pattern)
    if all(part.removeprefix("!").removeprefix("&") in known for part in parts):
        return _combine(parts, known)  # without starting a process
    answer = _ask({"do": "select", "pattern": pattern, "hosts": hosts, "groups": groups})
    if "error" in answer:
        raise InputError(f"pattern {pattern!r}: {answer['error']}")
    return set(answer["hosts"])


def suggest(pattern: str, known: Iterable[str]) -> str:
    """Finish an error message about a name that is not known."""
    for part in _SEPARATOR.split(pattern):
        close = difflib.get_close_matches(part.lstrip("!&"), list(known), n=1)
        if close and close[0] != part.lstrip("!&"):
            return f", did you mean {close[0]}?"
    return ""


class Vault:
    """Decrypts single variables (``!vault``) with the secrets that Ansible is set up with."""

    def __init__(self) -> None:
        self._plain: dict[str, str] = {}

    def decrypt(self, value: Any) -> Any:
        """Replace every encrypted part of a value.

        :raises ValueError: no secret fits.
        :raises InputError: there is no secret at all, so that no other value can be read either.
        """
        if isinstance(value, dict):
            if set(value) == {_VAULT}:
                return self._decrypt_text(str(value[_VAULT]))
            return {key: self.decrypt(item) for key, item in value.items()}
        return [self.decrypt(item) for item in value] if isinstance(value, list) else value

    def _decrypt_text(self, text: str) -> str:
        if text not in self._plain:
            result = run_ansible("vault", ["decrypt", "--output", "-", "-"], text)
            if result.returncode != 0:
                if lacks_vault_password(result.stderr):
                    raise InputError(NO_VAULT_PASSWORD)
                raise ValueError(" ".join(result.stderr.split()))
            self._plain[text] = result.stdout
        return self._plain[text]


def _combine(parts: Sequence[str], known: Mapping[str, Sequence[str]]) -> set[str]:
    """Union first, then intersections, then exclusions: the order is Ansible's."""

    def members(mark: str) -> list[set[str]]:
        return [set(known[part[1:]]) for part in parts if part.startswith(mark)]

    plain = [set(known[part]) for part in parts if part[0] not in "!&"]
    selected = set().union(*(plain or [set(known["all"])]))
    for group in members("&"):
        selected &= group
    for group in members("!"):
        selected -= group
    return selected


def _ask(request: Mapping[str, Any]) -> dict[str, Any]:
    result = run_python(["-m", "muster.ansible_worker"], json.dumps(request))
    if result.returncode != 0:
        raise MusterError(f"Ansible's library failed: {result.stderr.strip()[-1000:]}")
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer
