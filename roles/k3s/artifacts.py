"""What K3s is installed from: a folder on the controller, or the site's artifact store.

Both have the layout of K3s's releases, one folder for each version: the binary, its checksums and
the archive with the images of the cluster's own pods.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

ARCHITECTURES: Mapping[str, tuple[str, str]] = {
    "amd64": ("k3s", "amd64"),
    "arm64": ("k3s-arm64", "arm64"),
    "armhf": ("k3s-armhf", "arm"),
}
"""Debian's name of an architecture: K3s's name of the binary, and of the architecture."""

ENDINGS = ("tar.zst", "tar.gz", "tar")
"""Endings of the image archive, the smallest first."""

_LINE = re.compile(r"^([0-9a-f]{64}) [ *](?:\./)?(\S+)$")
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Artifact:
    """One file of a release.

    :param name: of the file in the release.
    :param sha256: that it must have.
    :param source: path on the controller, or URL.
    """

    name: str
    sha256: str
    source: str


@dataclass(frozen=True)
class Release:
    """What a device needs of a release.

    :param images: candidates for the image archive, the first that there is counts; empty where
        images come from a registry.
    """

    version: str
    binary: Artifact
    images: tuple[Artifact, ...]


def is_url(artifacts: str) -> bool:
    """Whether artifacts come from a store, not from a folder."""
    return artifacts.startswith(("http://", "https://"))


def sums_name(architecture: str) -> str:
    """Name of the file with checksums."""
    return f"sha256sum-{ARCHITECTURES[architecture][1]}.txt"


def location(artifacts: str, version: str, name: str) -> str:
    """Path or URL of a file of a release."""
    folder = artifacts.rstrip("/")
    # a plus in a path means a space to some stores
    return f"{folder}/{quote(version) if is_url(artifacts) else version}/{name}"


def read_sums(text: str) -> dict[str, str]:
    """Checksums by name of file, from what ``sha256sum`` wrote."""
    found = (_LINE.match(line.strip()) for line in text.splitlines())
    return {match[2]: match[1] for match in found if match}


def release(artifacts: str, version: str, architecture: str, sums: str, *, images: bool) -> Release:
    """What a device needs of a release, by its checksums.

    :param sums: text of the file with checksums.
    :raises ValueError: a checksum is missing.
    """
    known = read_sums(sums)
    binary, machine = ARCHITECTURES[architecture]
    where = location(artifacts, version, sums_name(architecture))
    if binary not in known:
        raise ValueError(f"{where}: expected the checksum of {binary}, it is not there")
    names = [f"k3s-airgap-images-{machine}.{ending}" for ending in ENDINGS] if images else []
    archives = tuple(
        Artifact(name, known[name], location(artifacts, version, name))
        for name in names
        if name in known
    )
    if images and not archives:
        raise ValueError(f"{where}: expected the checksum of {names[0]}, it is not there")
    return Release(
        version, Artifact(binary, known[binary], location(artifacts, version, binary)), archives
    )


def release_in_folder(folder: str, version: str, architecture: str, *, images: bool) -> Release:
    """The same from a folder on the controller, where every file is compared with its checksum.

    :raises ValueError: a file is missing or is another one; what was expected, and where.
    """
    base = str(Path(folder).expanduser())
    sums = Path(location(base, version, sums_name(architecture)))
    try:
        text = sums.read_text(encoding="ascii")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ValueError(f"{sums}: expected the checksums of K3s {version} ({reason})") from None
    found = release(base, version, architecture, text, images=images)
    archives = tuple(each for each in found.images if Path(each.source).is_file())[:1]
    if images and not archives:
        expected = ", ".join(each.name for each in found.images)
        raise ValueError(f"{sums.parent}: expected one of {expected}, none is there")
    for artifact in (found.binary, *archives):
        _check(artifact)
    return Release(version, found.binary, archives)


def _check(artifact: Artifact) -> None:
    path = Path(artifact.source)
    try:
        stat = path.stat()
        sha256 = _sha256(path, stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        raise ValueError(f"{path}: expected a file of K3s ({error.strerror})") from None
    if sha256 != artifact.sha256:
        raise ValueError(
            f"{path}: expected the checksum {artifact.sha256}, got {sha256}: the file is damaged or"
            " another one"
        )


@functools.lru_cache(maxsize=64)
def _sha256(path: Path, size: int, changed: int) -> str:  # noqa: ARG001 (they are the key)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def folder_problem(folder: str, version: str) -> str:
    """Why a folder can't be the source of a version, empty if it can; reads no large file."""
    path = Path(folder).expanduser()
    if not path.is_dir():
        return f"expected a folder on the controller or an http(s) URL, got {folder!r}"
    if not (path / version).is_dir():
        there = sorted(each.name for each in path.iterdir() if each.is_dir())
        known = f"it has {', '.join(there[:5])}" if there else "it is empty"
        return f"expected the folder {version} in {folder}, {known}"
    if not any((path / version).glob("sha256sum-*.txt")):
        return f"expected sha256sum-amd64.txt or another one in {folder}/{version}, none is there"
    return ""
