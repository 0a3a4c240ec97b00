"""Flags and configuration files of ``k3s server`` and ``k3s agent``."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import paths
from .keys import kinds
from .processes import FatalError

sys.path.insert(0, str(paths.PROGRAMS / "python"))

_SHORT = {"t": "token", "s": "server", "d": "data-dir", "c": "config", "l": "log"}
_SHORT |= {"o": "write-kubeconfig", "i": "node-ip", "token-file": "token-file"}
_VARIABLES = {
    "token": "K3S_TOKEN",
    "token-file": "K3S_TOKEN_FILE",
    "agent-token": "K3S_AGENT_TOKEN",
    "agent-token-file": "K3S_AGENT_TOKEN_FILE",
    "server": "K3S_URL",
    "cluster-init": "K3S_CLUSTER_INIT",
    "cluster-reset": "K3S_CLUSTER_RESET",
    "data-dir": "K3S_DATA_DIR",
    "node-name": "K3S_NODE_NAME",
    "datastore-endpoint": "K3S_DATASTORE_ENDPOINT",
    "write-kubeconfig": "K3S_KUBECONFIG_OUTPUT",
    "write-kubeconfig-mode": "K3S_KUBECONFIG_MODE",
    "config": "K3S_CONFIG_FILE",
}
_BACKENDS = ("none", "vxlan", "host-gw", "wireguard-native", "ipsec", "wireguard")
_TAINT = re.compile(r"[^=:\s]+(=[^=:\s]*)?:(NoSchedule|PreferNoSchedule|NoExecute)")


class Settings:
    """What a command was told, by its arguments, its environment and its files."""

    def __init__(self, command: str, values: Mapping[str, Any]) -> None:
        self.command = command
        self._values = dict(values)

    def text(self, key: str, default: str = "") -> str:
        """A single value."""
        return str(self._values.get(key, default))

    def many(self, key: str) -> list[str]:
        """A value that can be given several times, or with commas where K3s splits them."""
        given = [str(each) for each in self._values.get(key, [])]
        if key.endswith("-arg"):
            return given
        return [part for each in given for part in each.split(",") if part]

    def on(self, key: str) -> bool:
        """A switch."""
        return bool(self._values.get(key, False))

    def number(self, key: str, default: int) -> int:
        """A number."""
        return int(self._values.get(key, default))

    @property
    def given(self) -> dict[str, Any]:
        """Everything that was given."""
        return dict(self._values)

    @property
    def layout(self) -> paths.Layout:
        """Where this node keeps its data."""
        return paths.Layout(Path(self.text("data-dir", str(paths.DATA_DIR))))


def read_files(main: Path) -> dict[str, Any]:
    """Merge ``config.yaml`` and what lies in ``config.yaml.d``, in alphabetical order.

    :raises FatalError: naming the file that is wrong.
    """
    import yaml  # brought by the image, beside the programs

    merged: dict[str, Any] = {}
    drop_ins = sorted((main.parent / f"{main.name}.d").glob("*"))
    for path in [main, *(each for each in drop_ins if each.suffix in (".yaml", ".yml"))]:
        if not path.is_file():
            continue
        try:
            found = yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise FatalError(f"failed to parse config {path}: {error}") from None
        if found is None:
            continue
        if not isinstance(found, dict):
            raise FatalError(f"failed to parse config {path}: expected a mapping")
        for key, value in found.items():
            name = str(key)
            if name.endswith("+"):
                name = name[:-1]
                old = merged.get(name, [])
                merged[name] = _listed(old) + _listed(value)
            else:
                merged[name] = value
    return merged


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [value]


def read_arguments(command: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Parse the command line.

    :raises FatalError: for a flag that the command does not know.
    """
    known = kinds(command)
    found: dict[str, Any] = {}
    queue = list(arguments)
    while queue:
        word = queue.pop(0)
        if not word.startswith("-"):
            raise FatalError(f"unexpected argument: {word}")
        name, equals, value = word.lstrip("-").partition("=")
        name = _SHORT.get(name, name)
        kind = known.get(name)
        if kind is None:
            raise FatalError(f"flag provided but not defined: -{name}")
        if kind == "switch":
            found[name] = value if equals else True
            continue
        if not equals:
            if not queue:
                raise FatalError(f"flag needs an argument: -{name}")
            value = queue.pop(0)
        if kind == "list":
            found.setdefault(name, []).append(value)
        else:
            found[name] = value
    return found


def load(command: str, arguments: Sequence[str]) -> Settings:
    """What ``k3s server`` or ``k3s agent`` is to do; arguments win over the environment and files.

    :raises FatalError: for an unknown key or a value that does not fit.
    """
    settings = parse(command, arguments)
    _check(settings)
    return settings


def parse(command: str, arguments: Sequence[str]) -> Settings:
    """The same as far as ``--help`` looks: every value has the type of its flag.

    :raises FatalError: for an unknown key or a value of another type.
    """
    from_arguments = read_arguments(command, arguments)
    from_environment = {
        key: os.environ[variable]
        for key, variable in _VARIABLES.items()
        if os.environ.get(variable)
    }
    file = str(from_arguments.get("config") or from_environment.get("config") or paths.CONFIG)
    given = {**read_files(Path(file)), **from_environment, **from_arguments}
    known = kinds(command)
    values: dict[str, Any] = {}
    for key, value in given.items():
        name = _SHORT.get(key, key)
        if name not in known:
            if key in from_environment and name in kinds("server"):
                continue  # variables of a server mean nothing to an agent
            raise FatalError(f"flag provided but not defined: -{key}")
        values[name] = _converted(name, known[name], value)
    return Settings(command, values)


def _converted(name: str, kind: str, value: Any) -> Any:
    if kind == "list":
        return [_plain(each) for each in _listed(value)]
    if isinstance(value, list | dict):
        raise FatalError(f'invalid value "{value}" for flag -{name}: expected a single value')
    if kind == "switch":
        text = str(value).lower()
        if text not in ("true", "false", "1", "0", "t", "f"):
            raise FatalError(f'invalid boolean value "{value}" for -{name}: parse error')
        return text in ("true", "1", "t")
    if kind == "number":
        if not re.fullmatch(r"-?\d+", str(value)):
            raise FatalError(f'invalid value "{value}" for flag -{name}: parse error')
        return int(value)
    return _plain(value)


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _check(settings: Settings) -> None:
    for label in settings.many("node-label"):
        key, equals, value = label.partition("=")
        if not equals or not re.fullmatch(r"([a-z0-9.-]+/)?[A-Za-z0-9][A-Za-z0-9._-]*", key):
            raise FatalError(f"invalid node label: {label}")
        if value and not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", value):
            raise FatalError(f"invalid node label value: {label}")
    for taint in settings.many("node-taint"):
        if not _TAINT.fullmatch(taint):
            raise FatalError(f"invalid node taint: {taint}")
    backend = settings.text("flannel-backend", "vxlan")
    if backend not in _BACKENDS:
        raise FatalError(f"unknown flannel-backend {backend}")
    mode = settings.text("write-kubeconfig-mode", "600")
    if not re.fullmatch(r"[0-7]{3,4}", mode):
        raise FatalError(f"invalid write-kubeconfig-mode {mode}")
    server = settings.text("server")
    if server and not server.startswith("https://"):
        raise FatalError(f"only https:// URLs are supported, invalid scheme: {server}")
    if settings.command == "agent":
        if not server:
            raise FatalError("--server is required")
        if not (settings.text("token") or settings.text("token-file")):
            raise FatalError("--token is required")
    elif settings.text("datastore-endpoint") and settings.on("cluster-init"):
        raise FatalError(
            "invalid flag use; --cluster-init can not be used with a datastore endpoint"
        )
