"""What takes Ansible's own library: rendering templates and evaluating host patterns.

It runs in a process of its own (``python -m muster.ansible_worker``), as the library changes parts
of the standard library when it is imported. One JSON document in, one out.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from typing import Any

from ansible import constants, template
from ansible.errors import AnsibleError
from ansible.inventory.manager import InventoryManager, split_host_pattern
from ansible.parsing.dataloader import DataLoader

_MARKS = hasattr(template, "trust_as_template")
"""Whether only what is marked as written by the operator is rendered, as from 2.19 on."""
_ERROR_LENGTH = 300


def select(request: Mapping[str, Any]) -> dict[str, Any]:
    """Evaluate ``pattern`` over ``hosts`` (names) and ``groups`` (name to names of hosts)."""
    # A name that is nowhere is a typing error: ignoring it would select other devices.
    constants.HOST_PATTERN_MISMATCH = "error"
    manager = InventoryManager(DataLoader(), sources=None, parse=False)
    for host in request["hosts"]:
        manager.add_host(host, "all")
    for group, members in request["groups"].items():
        manager.add_group(group)
        for host in members:
            manager.add_host(host, group)
    parts = split_host_pattern(request["pattern"])
    # Ansible takes a pattern of nothing for all devices, and drops what it can't read.
    if not parts or any(part.lstrip("!&~") == "" for part in parts):
        return {"error": "names no device and no group"}
    if _bare("".join(parts)) != _bare(request["pattern"]):
        return {"error": f"can be read no further than {':'.join(parts)!r}"}
    try:
        manager.subset(request["pattern"])
        selected = {host.name for host in manager.get_hosts("all")}
        manager.subset(None)
        for part in parts:
            # Ansible makes up a host for "localhost", whatever the inventory says.
            found = [] if part[0] == "@" else manager.get_hosts(part.lstrip("!&"))
            if any(host.name not in request["hosts"] for host in found):
                raise ValueError(f"no device and no group matches {part!r}")
    except (AnsibleError, OSError, ValueError, IndexError) as error:
        text = " ".join(str(error).split())
        _, _, unknown = text.partition("Could not match supplied host pattern, ignoring: ")
        return {"error": f"no device and no group matches {unknown!r}" if unknown else text}
    return {"hosts": [host for host in request["hosts"] if host in selected]}


def _bare(pattern: str) -> str:
    return re.sub(r"[,:\s]", "", pattern)


def render(request: Mapping[str, Any]) -> dict[str, Any]:
    """Render some variables of some hosts.

    ``hosts`` maps names to ``variables`` and the names of those that are ``wanted``; ``shared`` are
    variables of all of them; relative paths of lookups start at ``folder``.
    """
    loader = DataLoader()
    loader.set_basedir(request["folder"])
    shared = _mark(request["shared"])
    answer: dict[str, Any] = {}
    for host, own in request["hosts"].items():
        variables = _mark(own["variables"])
        templar = template.Templar(loader=loader, variables={**shared, **variables})
        answer[host] = {name: _rendered(templar, variables[name]) for name in own["wanted"]}
    return answer


def _rendered(templar: Any, value: Any) -> dict[str, Any]:
    try:
        return {"value": _plain(templar.template(value))}
    except AnsibleError as error:
        # Before 2.19 the whole value precedes the reason, however large or secret it is.
        reason = str(error).rpartition("original message: ")[2]
        return {"error": " ".join(reason.split())[:_ERROR_LENGTH]}


def _mark(value: Any) -> Any:
    if isinstance(value, str):
        return template.trust_as_template(value) if _MARKS else value
    if isinstance(value, dict):
        return {key: _mark(item) for key, item in value.items()}
    return [_mark(item) for item in value] if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    """Ansible's own kinds of text, numbers and containers as those of the standard library."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    return float(value) if isinstance(value, float) else value


def main() -> None:
    """Answer the one request on standard input."""
    request = json.load(sys.stdin)
    answer = {"select": select, "render": render}[request["do"]](request)
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
