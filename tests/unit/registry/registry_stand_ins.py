"""A registry's host in a folder. Its skopeo copies between folders, and writes down how often."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from programs import load_program

registry = load_program("muster_registry")

SKOPEO = """#!{python}
import json, os, pathlib, re, sys, time
root = pathlib.Path(os.environ["WORLD"])
arguments = sys.argv[1:]
with (root / "calls").open("a") as file:
    file.write(json.dumps(arguments) + "\\n")
if "--help" in arguments:
    print("--preserve-digests")
    sys.exit()
way = json.loads((root / "way").read_text()) if (root / "way").exists() else {{}}
if way.get("down"):
    text = 'level=fatal msg="Error parsing image name \\\\"docker://x\\\\": no such host"'
    print(text, file=sys.stderr)
    sys.exit(1)
repository, digest = arguments[-1].split("/", 3)[3].split("@")
upstream = root / "upstream"
manifest = (upstream / digest).read_bytes()
if arguments[0] == "inspect":
    sys.stdout.buffer.write(manifest)
    sys.exit()
if way.get("hangs"):
    time.sleep(60)
base = root / "storage/docker/registry/v2"
def place(digest, folder):
    content = (upstream / digest).read_bytes()
    if digest in way.get("spoils", []):
        content = b"?" * len(content)
    name = digest[7:]
    data = base / "blobs/sha256" / name[:2] / name / "data"
    data.parent.mkdir(parents=True, exist_ok=True)
    link = base / "repositories" / repository / folder / "sha256" / name / "link"
    if not (data.exists() and link.exists()):  # asks for what this repository has
        data.write_bytes(content)
        with (root / "moved").open("a") as file:
            file.write(digest + "\\n")
    link.parent.mkdir(parents=True, exist_ok=True)
    link.write_text(digest)
def copy(digest):
    document = json.loads((upstream / digest).read_bytes())
    for entry in document.get("manifests", []):
        copy(entry["digest"])
    blobs = [document["config"], *document["layers"]] if "layers" in document else []
    for entry in blobs:
        place(entry["digest"], "_layers")
        if way.get("cut_after") == entry["digest"]:
            print("connection reset", file=sys.stderr)
            sys.exit(1)
    place(digest, "_manifests/revisions")
copy(digest)
"""
REGISTRY = """#!{python}
import json, socket, sys, time
port = int(json.load(open(sys.argv[2]))["http"]["addr"].rpartition(":")[2])
with socket.socket() as server:
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(("127.0.0.1", port))
    server.listen()
    time.sleep(120)
"""
SYSTEMCTL = """#!/bin/sh
echo "$@" >>"$WORLD/systemctl"
case $1 in is-active) cat "$WORLD/active" 2>/dev/null || echo inactive ;; esac
"""


def digest_of(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


class World:
    """The host, its upstream registry, and what of the two can be seen."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.upstream = root / "upstream"
        tools = root / "bin"
        for folder in (self.upstream, tools, root / "storage" / "muster"):
            folder.mkdir(parents=True)
        scripts = {"skopeo": SKOPEO, "docker-registry": REGISTRY, "systemctl": SYSTEMCTL}
        for name, text in scripts.items():
            path = tools / name
            path.write_text(text.format(python=sys.executable) if "{python}" in text else text)
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
        monkeypatch.setenv("WORLD", str(root))
        monkeypatch.setattr(registry, "LOOK_SECONDS", 0.05)
        self.settings = registry.Settings(
            storage=str(root / "storage"),
            upstream="upstream.example:443",
            certificate=str(root / "server.pem"),
            upstream_certificates=str(root / "none"),
        )

    @property
    def store(self) -> Any:
        return registry.Store(self.settings.storage)

    @property
    def program(self) -> Any:
        return registry.Program(self.settings)

    def way(self, **way: Any) -> None:
        """Have the upstream registry behave in some way."""
        (self.root / "way").write_text(json.dumps(way))

    def blob(self, content: str) -> dict[str, Any]:
        data = content.encode()
        (self.upstream / digest_of(data)).write_bytes(data)
        return {"digest": digest_of(data), "size": len(data)}

    def image(self, *layers: str, repository: str = "models/digits") -> str:
        """Publish an image with these layers upstream."""
        manifest = {
            "config": self.blob(f"config of {hash(layers)}"),
            "layers": [self.blob(layer) for layer in layers],
        }
        return f"{repository}@{self.blob(json.dumps(manifest))['digest']}"

    def index(self, images: Iterable[str], repository: str = "models/digits") -> str:
        """Publish an index of images upstream."""
        digests = [image.partition("@")[2] for image in images]
        entries = [
            {"digest": digest, "size": (self.upstream / digest).stat().st_size}
            for digest in digests
        ]
        return f"{repository}@{self.blob(json.dumps({'manifests': entries}))['digest']}"

    def work(self, **request: Any) -> dict[str, Any]:
        """Have the program do something, as its unit does."""
        path = Path(self.settings.storage) / "muster" / "request.json"
        path.write_text(json.dumps({"id": "r1", **request}))
        return dict(self.program.work())

    def fill(self, *images: str, **options: Any) -> dict[str, Any]:
        return self.work(task="fill", images=list(images), **options)

    def clear(self, *keep: str, newer: float = 0, dry: bool = False) -> dict[str, Any]:
        digests = [image.partition("@")[2] for image in keep]
        return self.work(task="clear", keep=digests, newer=newer, dry=dry)

    def progress(self) -> dict[str, Any]:
        path = Path(self.settings.storage) / "muster" / "progress.json"
        return dict(json.loads(path.read_text()))

    def calls(self) -> list[list[str]]:
        """Arguments of every call of skopeo."""
        path = self.root / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def moved(self) -> list[str]:
        """Digests that crossed the uplink, in order."""
        path = self.root / "moved"
        return path.read_text().splitlines() if path.exists() else []

    def files(self) -> dict[str, bytes]:
        """Everything that the registry stores."""
        base = Path(self.settings.storage) / "docker"
        return {
            str(path.relative_to(base)): path.read_bytes()
            for path in sorted(base.rglob("*"))
            if path.is_file()
        }
