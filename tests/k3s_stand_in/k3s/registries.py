"""``registries.yaml``: what containerd is told about registries."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from . import paths
from .config import Settings
from .processes import FatalError

sys.path.insert(0, str(paths.PROGRAMS / "python"))

_TOP = {"mirrors", "configs", "auths"}


def read(path: Path) -> dict[str, Any]:
    """Parse the file; a missing one is an empty one.

    :raises FatalError: when it is damaged.
    """
    import yaml

    if not path.exists():
        return {}
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise FatalError(f"failed to parse {path}: {error}") from None
    if not isinstance(found, dict) or not set(found) <= _TOP:
        raise FatalError(f"failed to parse {path}: expected mirrors and configs")
    return found


def apply(settings: Settings) -> dict[str, tuple[str, str]]:
    """Write a ``hosts.toml`` for every registry that is named.

    :returns: user and password of registries that want them.
    :raises FatalError: when the file is damaged.
    """
    found = read(Path(settings.text("private-registry", str(paths.REGISTRIES))))
    mirrors, configs = found.get("mirrors") or {}, found.get("configs") or {}
    fallback = not settings.on("disable-default-registry-endpoint")
    folder = settings.layout.certs_d
    shutil.rmtree(folder, ignore_errors=True)
    for registry in sorted({*mirrors, *configs}):
        mirror = mirrors.get(registry) or {}
        endpoints = list(mirror.get("endpoint") or [])
        name = "_default" if registry == "*" else registry
        text = ""
        if fallback or not endpoints:
            server = "registry-1.docker.io" if registry == "docker.io" else registry
            text = "" if registry == "*" else f"server = {json.dumps(f'https://{server}/v2')}\n"
            if registry != "*":
                text += _tls(configs.get(registry) or {})
        for endpoint in endpoints:
            url = urlsplit(endpoint if "://" in endpoint else f"https://{endpoint}")
            path = url.path if url.path.strip("/") else "/v2"
            text += f"\n[host.{json.dumps(f'{url.scheme}://{url.netloc}{path}')}]\n"
            text += '  capabilities = ["pull", "resolve"]\n'
            if url.path.strip("/"):
                text += "  override_path = true\n"
            text += _tls(configs.get(url.netloc) or {}, "  ")
        (folder / name).mkdir(parents=True)
        (folder / name / "hosts.toml").write_text(text, encoding="utf-8")
    return credentials(settings)


def credentials(settings: Settings) -> dict[str, tuple[str, str]]:
    """User and password of registries that want them.

    :raises FatalError: when the file is damaged.
    """
    found = read(Path(settings.text("private-registry", str(paths.REGISTRIES))))
    return {
        registry: (str(auth.get("username", "")), str(auth.get("password", "")))
        for registry, config in (found.get("configs") or {}).items()
        if (auth := (config or {}).get("auth"))
    }


def _tls(config: dict[str, Any], indent: str = "") -> str:
    tls = config.get("tls") or {}
    text = ""
    if tls.get("ca_file"):
        text += f"{indent}ca = [{json.dumps(tls['ca_file'])}]\n"
    if tls.get("cert_file"):
        pair = json.dumps([[tls["cert_file"], tls.get("key_file", "")]])
        text += f"{indent}client = {pair}\n"
    if tls.get("insecure_skip_verify"):
        text += f"{indent}skip_verify = true\n"
    return text
