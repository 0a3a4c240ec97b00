"""Releases of the digits example that only failure drills need: 1.1 with one layer more."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import shutil
import tarfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from site_driver import Site

from examples import digits
from examples.digits import OciImage, build_images
from examples.digits.oci import read_layout
from examples.digits.publish import REPOSITORY, push

BALLAST = 48 << 20  # bytes that do not compress
MAIN = 'if __name__ == "__main__":'
FLAPPING = """
_steady = Endpoints._readiness


def _flapping(self, document):
    if int(perf_counter()) % 4 == 3:
        return JSONResponse({**document, "ready": False, "error": "a drill"}, 503)
    return _steady(self, document)


Endpoints._readiness = _flapping

"""
_PUBLISHING = threading.Lock()


def flapping_release(site: Site) -> Path:
    """Publish 1.4, which is ready for three seconds of four."""
    server = (Path(digits.__file__).parent / "serve.py").read_text()
    assert MAIN in server
    return _published(site, "1.4", {"app/serve.py": server.replace(MAIN, FLAPPING + MAIN).encode()})


def heavy_release(site: Site) -> Path:
    """Publish 1.5, which takes long to pull, and says that it needs little room."""
    return _published(site, "1.5", {"ballast": random.Random(0).randbytes(BALLAST)})


def release_with(base: Path, path: Path, **changes: Any) -> Path:
    """Write a copy of a release document with these keys changed."""
    document = yaml.safe_load(base.read_text())
    path.write_text(yaml.safe_dump({**document, **changes}))
    return path


def _published(site: Site, version: str, files: Mapping[str, bytes]) -> Path:
    base = site.releases["1.1"]
    folder = base.parent / version
    path = folder / f"digits-{version}.yml"
    with _PUBLISHING:
        if not path.exists():
            folder.mkdir()
            image = _with_layer(build_images()["1.1"], version, files, folder / "layout")
            registry = f"{site.fleet.registry_address}/{REPOSITORY}:{version}"
            push(image, registry, site.fleet.registry_ca)
            variants = yaml.safe_load(base.read_text())["variants"]
            for variant in variants.values():
                variant["image"] = f"{REPOSITORY}@{image.digest}"
                variant["requires"]["disk"] = "8MiB"
            release_with(base, path, version=version, variants=variants)
    return path


def _with_layer(base: OciImage, version: str, files: Mapping[str, bytes], path: Path) -> OciImage:
    """Put files, and the version that the model answers with, on top of an image."""
    layout = Path(base.reference.removeprefix("oci:").rpartition(":")[0])
    shutil.copytree(layout, path, copy_function=os.link)
    blobs = path / "blobs" / "sha256"

    def load(digest: str) -> Any:
        return json.loads((blobs / digest.removeprefix("sha256:")).read_bytes())

    def store(content: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(content).hexdigest()
        (blobs / digest).write_bytes(content)
        return {"digest": f"sha256:{digest}", "size": len(content)}

    manifest = load(base.digest)
    image = load(manifest["config"]["digest"])
    place = "models/digits/config.json"
    with tarfile.open(blobs / manifest["layers"][-1]["digest"].removeprefix("sha256:")) as model:
        told = json.load(model.extractfile(place) or io.BytesIO())
    files = {**files, place: json.dumps({**told, "version": version}).encode()}
    layer = store(_archive(files))
    manifest["layers"].append({**layer, "mediaType": "application/vnd.oci.image.layer.v1.tar"})
    image["rootfs"]["diff_ids"].append(layer["digest"])
    image["history"].append({"created_by": "drill"})
    manifest["config"] |= store(json.dumps(image).encode())
    index = json.loads((path / "index.json").read_text())
    (entry,) = (each for each in index["manifests"] if each["digest"] == base.digest)
    entry |= store(json.dumps(manifest).encode())
    entry["annotations"] = {"org.opencontainers.image.ref.name": version}
    (path / "index.json").unlink()  # it is a link to the one of the other layout
    (path / "index.json").write_text(json.dumps({**index, "manifests": [entry]}))
    return read_layout(path)[version]


def _archive(files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.mode, entry.size = 0o644, len(content)
            tar.addfile(entry, io.BytesIO(content))
    return packed.getvalue()
