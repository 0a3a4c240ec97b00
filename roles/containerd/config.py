"""containerd's configuration: one document, with one owner, in the form that its version reads."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from roles.operations import File

CONFIG = "/etc/containerd/config.toml"
HOSTS = "/etc/containerd/certs.d"

_CDI_SINCE = (1, 7)
_CDI_FOLDERS = ["/etc/cdi", "/var/run/cdi"]
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def config_toml(
    version: Sequence[int],
    *,
    root: str | None = None,
    plugins: str = "/usr/lib/cni",
    extra: Mapping[str, Any] | None = None,
) -> str:
    """Render ``config.toml``.

    :param version: of containerd; 2.x reads version 3 of the document, 1.x version 2.
    :param root: folder of images and containers.
    :param plugins: folder of the CNI plugins.
    :param extra: what wins over everything else.
    """
    network = {"cni": {"bin_dir": plugins, "conf_dir": "/etc/cni/net.d"}}
    cdi: dict[str, Any] = {}
    if tuple(version[:2]) >= _CDI_SINCE:
        cdi = {"enable_cdi": True, "cdi_spec_dirs": _CDI_FOLDERS}
    registry = {"registry": {"config_path": HOSTS}}
    opt = {"io.containerd.internal.v1.opt": {"path": "/var/lib/containerd/opt"}}
    if tuple(version) >= (2,):
        found: dict[str, Any] = {
            "version": 3,
            "plugins": {
                **opt,
                "io.containerd.cri.v1.images": registry,
                "io.containerd.cri.v1.runtime": {**network, **cdi},
            },
        }
    else:
        criteria = {**network, **cdi, **registry}
        found = {"version": 2, "plugins": {**opt, "io.containerd.grpc.v1.cri": criteria}}
    if root is not None:
        found["root"] = root
    return "# Written by the role containerd: what is changed here is lost.\n" + toml(
        merged(found, extra or {})
    )


def hosts_toml(registry: str, trusted: Sequence[File]) -> str:
    """Render the ``hosts.toml`` of a registry.

    :param registry: ``host:port``.
    :param trusted: the files for it: its CA, and what it is shown.
    """
    names = {file.path.rsplit("/", 1)[1]: file.path for file in trusted}
    document: dict[str, Any] = {
        "server": f"https://{registry}",
        "capabilities": ["pull", "resolve"],
    }
    if "ca.crt" in names:
        document["ca"] = names["ca.crt"]
    if "client.cert" in names and "client.key" in names:
        document["client"] = [[names["client.cert"], names["client.key"]]]
    return "# Written by the role containerd: what is changed here is lost.\n" + toml(document)


def with_hosts(trusted: Sequence[File]) -> list[File]:
    """Add to the certificates of registries the files in which containerd looks for them."""
    folders: dict[str, list[File]] = {}
    for file in trusted:
        folders.setdefault(file.path.rsplit("/", 1)[0], []).append(file)
    return [
        each
        for folder, files in folders.items()
        for each in (
            *files,
            File(f"{folder}/hosts.toml", hosts_toml(folder.rsplit("/", 1)[1], files)),
        )
    ]


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Put one document over another; mappings are merged."""
    result = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else value
    return result


def toml(document: Mapping[str, Any]) -> str:
    """Write a document as TOML.

    :raises ValueError: something in it that TOML has no form for.
    """
    return "\n".join(_table(document, ())) + "\n"


def _table(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    below = {key: value for key, value in table.items() if isinstance(value, Mapping)}
    here = {key: value for key, value in table.items() if key not in below}
    if path and (here or not below):
        yield f"\n[{'.'.join(map(_key, path))}]"
    for key, value in here.items():
        yield f"{_key(key)} = {_value(value, (*path, key))}"
    for key, value in below.items():
        yield from _table(value, (*path, key))


def _key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else json.dumps(key, ensure_ascii=False)


def _value(value: Any, path: tuple[str, ...]) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(each, path) for each in value)}]"
    if isinstance(value, str | bool | int | float):
        return json.dumps(value, ensure_ascii=False)
    raise ValueError(f"{'.'.join(path)}: expected text, number, true, false or a list of these")
