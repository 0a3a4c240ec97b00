"""Who this node is: its name, its address, the password that keeps its name its own."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess

from . import paths
from .config import Settings
from .processes import FatalError


def name(settings: Settings) -> str:
    """Name of the node."""
    return settings.text("node-name", socket.gethostname()).lower()


def address(settings: Settings) -> str:
    """Address of the node: given, or that of the default route.

    :raises FatalError: without a default route.
    """
    given = settings.many("node-ip")
    if given:
        return given[0]
    command = ["ip", "-4", "-json", "route", "show", "default"]
    routes = json.loads(subprocess.run(command, capture_output=True, text=True).stdout or "[]")
    if not routes:
        raise FatalError(
            "unable to select an IP from default routes: a default route is needed, or node-ip"
        )
    route = routes[0]
    if route.get("prefsrc"):
        return str(route["prefsrc"])
    command = ["ip", "-4", "-json", "address", "show", "dev", route["dev"]]
    links = json.loads(subprocess.run(command, capture_output=True, text=True).stdout or "[]")
    found = [entry["local"] for link in links for entry in link.get("addr_info", [])]
    if not found:
        raise FatalError(f"no IPv4 address on {route['dev']}, where the default route goes")
    return str(found[0])


def password() -> str:
    """What proves to servers that this is the node that had its name before."""
    if not paths.NODE_PASSWORD.exists():
        paths.write(paths.NODE_PASSWORD, secrets.token_hex(16) + "\n", 0o600)
    return paths.NODE_PASSWORD.read_text(encoding="ascii").strip()


def require_root() -> None:
    """Refuse to run for anybody else.

    :raises FatalError: when this is not root.
    """
    if os.geteuid() != 0:
        raise FatalError("must run as root unless --rootless is specified")
