"""Build the images of all versions: a root, the dependencies, the server, and on top the model.

Versions differ in the last layer alone, so an update moves a few kilobytes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from muster.errors import InputError

from . import cache, oci, rootfs
from .oci import OciImage

VERSIONS = ("1.0", "1.1", "1.2", "1.3")
PORT = 8080

_HERE = Path(__file__).parent
_MODEL = "models/digits"
_CONFIG = {
    "User": f"{rootfs.USER}:{rootfs.USER}",
    "ExposedPorts": {f"{PORT}/tcp": {}},
    "Entrypoint": ["/usr/bin/python3", "/app/serve.py"],
    "Env": [
        "PATH=/usr/bin",
        f"PYTHONPATH=/{rootfs.SITE}",
        "PYTHONDONTWRITEBYTECODE=1",
        "PYTHONUNBUFFERED=1",
        "ORT_DISABLE_TELEMETRY=1",
        f"MODEL_DIR=/{_MODEL}",
        f"PORT={PORT}",
    ],
    "StopSignal": "SIGTERM",
}


def build_images(architecture: str | None = None) -> dict[str, OciImage]:
    """Build whatever isn't built yet and return the images by version.

    The same sources on the same machine give the same digests; another state of the
    distribution's packages gives another lowest layer when the cache is empty.

    :param architecture: what the images are for, ``amd64`` or ``arm64``; this machine's own when
        not given. Nothing of another one has to run here.
    :raises InputError: there are no images for that architecture.
    :raises MusterError: a program is missing or failed.
    """
    own = rootfs.architecture()
    architecture = architecture or own
    if architecture not in rootfs.ARCHITECTURES:
        known = ", ".join(rootfs.ARCHITECTURES)
        raise InputError(f"architecture: expected one of {known}, got {architecture}")
    with cache.locked():
        recipe = [_HERE / "oci.py", _HERE / "rootfs.py"]
        roots = {own: _root(own, None, recipe)}
        if architecture != own:
            roots[architecture] = _root(architecture, roots[own] / "root", recipe)
        root = roots[architecture]
        requirements = _HERE / "requirements-serve.txt"
        site = cache.made(
            "dependencies",
            [root, requirements, *recipe],
            lambda folder: rootfs.make_site(
                folder, root / "root", requirements, architecture, roots[own] / "root"
            ),
        )
        server = _layer("server", "app/serve.py", _HERE / "serve.py")
        models = _models()
        layers = {
            version: [root, site, server, _layer(f"model-{version}", _MODEL, models / version)]
            for version in VERSIONS
        }
        built = cache.made(
            "images",
            [Path(__file__), *recipe, *(layer for stack in layers.values() for layer in stack)],
            lambda folder: _write_layout(folder, architecture, layers),
        )
    return oci.read_layout(built)


def _root(architecture: str, interpreter: Path | None, recipe: list[Path]) -> Path:
    return cache.made(
        "root",
        [str(rootfs.distribution()), architecture, *recipe],
        lambda folder: rootfs.make_root(folder, architecture, interpreter),
    )


def smoke_cases() -> list[dict[str, Any]]:
    """A handful of cases that 1.0 and 1.1 answer surely, and 1.3 wrongly."""
    cases: list[dict[str, Any]] = _result("smoke.json")
    return cases


def golden_cases() -> list[dict[str, Any]]:
    """All 300 held-out cases; see ``accuracy`` for what to expect of them."""
    cases: list[dict[str, Any]] = _result("golden.json")
    return cases


def accuracy() -> dict[str, float]:
    """Share of the golden cases that each version's model answers rightly, from 0 to 1."""
    shares: dict[str, float] = _result("figures.json")["accuracy"]
    return shares


def _result(name: str) -> Any:
    """What training wrote into one of its files."""
    with cache.locked():
        return json.loads((_models() / name).read_text())


def _layer(name: str, place: str, content: Path) -> Path:
    sources: list[str | Path] = [place, content, _HERE / "oci.py"]
    if content.is_dir():  # one of those in the models' folder: its name alone says too little
        sources.insert(0, content.parent)
    return cache.made(name, sources, lambda folder: oci.write_layer(folder, {place: content}))


def _models() -> Path:
    """Train, in an environment of its own."""
    requirements, script = _HERE / "requirements-train.txt", _HERE / "train.py"
    python = f"{sys.base_prefix} {sys.version}"

    def make_environment(folder: Path) -> None:
        uv = cache.uv()
        cache.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, folder])
        install = [uv, "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:"]
        cache.run([*install, "--python", folder / "bin" / "python", "-r", requirements])

    def train(folder: Path) -> None:
        environment = cache.made("training", [python, requirements], make_environment)
        # One thread: sums in one order, and nothing taken from whoever else works here.
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        cache.run([environment / "bin" / "python", script, folder], environment=threads)

    return cache.made("models", [rootfs.architecture(), requirements, script], train)


def _write_layout(folder: Path, architecture: str, layers: dict[str, list[Path]]) -> None:
    layout = oci.Layout(folder)
    for version, stack in layers.items():
        names = {
            "org.opencontainers.image.title": "digits",
            "org.opencontainers.image.version": version,
        }
        layout.add_image(version, architecture, stack, {**_CONFIG, "Labels": names}, names)
    layout.close()
