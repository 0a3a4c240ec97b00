"""Container images as plain files: layers, configurations and an OCI image layout.

No daemon, no root and nothing of the machine in the result: owners, times and modes are set, the
order is sorted, so the same content gives the same digests.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import stat
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

EPOCH = "1970-01-01T00:00:00Z"
_MEDIA = "application/vnd.oci.image"


@dataclass(frozen=True)
class Layer:
    """One layer, kept in a folder as ``layer.tar.gz`` and ``layer.json``.

    :ivar digest: of the compressed file, with its algorithm.
    :ivar diff_id: of the tar archive in it.
    :ivar size: of the compressed file, in bytes.
    """

    digest: str
    diff_id: str
    size: int

    @classmethod
    def load(cls, folder: Path) -> Layer:
        """Read what :func:`write_layer` left in a folder."""
        return cls(**json.loads((folder / "layer.json").read_text()))


@dataclass(frozen=True)
class OciImage:
    """One built image.

    :ivar digest: of its manifest, with its algorithm.
    :ivar size: what a device without any of its layers moves over the network, in bytes.
    :ivar architecture: as Go and container engines spell it, such as ``amd64``.
    :ivar reference: what skopeo reads it by, ``oci:<layout>:<version>``.
    """

    digest: str
    size: int
    architecture: str
    reference: str


def write_layer(folder: Path, contents: Mapping[str, Path]) -> Layer:
    """Write one layer into a folder.

    :param contents: files and folders by their place in the image, without leading slash;
        the place "" is the root. Everything belongs to root; who may execute a file is kept,
        other permissions are 0755 and 0644 (and the sticky bit, for /tmp).
    """
    with (folder / "layer.tar.gz").open("wb") as file:
        compressed = _Hashing(file)
        with gzip.GzipFile("", "wb", compresslevel=6, fileobj=compressed, mtime=0) as packed:
            archive_bytes = _Hashing(packed)
            with tarfile.open(fileobj=archive_bytes, mode="w|", format=tarfile.PAX_FORMAT) as tar:
                for place, source in _entries(contents):
                    _add(tar, place, source)
        layer = Layer(compressed.digest, archive_bytes.digest, compressed.size)
    (folder / "layer.json").write_text(json.dumps(asdict(layer)))
    return layer


def _entries(contents: Mapping[str, Path]) -> Iterator[tuple[str, Path | None]]:
    """Every place in the layer with its source, parents first; a bare folder has none."""
    entries: dict[str, Path | None] = {}
    for place, source in contents.items():
        for parent in list(Path(place).parents)[:-1]:
            entries.setdefault(parent.as_posix(), None)
        if place:
            entries[place] = source
        if source.is_dir():
            for path in source.rglob("*"):
                entries[(place / path.relative_to(source)).as_posix()] = path
    yield from sorted(entries.items(), key=lambda entry: entry[0].split("/"))


def _add(tar: tarfile.TarFile, place: str, source: Path | None) -> None:
    entry = tarfile.TarInfo(place)
    status = source.lstat() if source is not None else None
    if source is None or status is None or stat.S_ISDIR(status.st_mode):
        entry.type = tarfile.DIRTYPE
        entry.mode = 0o1777 if status and status.st_mode & stat.S_ISVTX else 0o755
        tar.addfile(entry)
    elif stat.S_ISLNK(status.st_mode):
        entry.type, entry.mode = tarfile.SYMTYPE, 0o777
        entry.linkname = str(source.readlink())
        tar.addfile(entry)
    elif stat.S_ISREG(status.st_mode):
        entry.mode = 0o755 if status.st_mode & stat.S_IXUSR else 0o644
        entry.size = status.st_size
        with source.open("rb") as content:
            tar.addfile(entry, content)


class _Hashing(io.RawIOBase):
    """A file for writing that knows the digest and size of what went through it."""

    def __init__(self, target: IO[bytes] | gzip.GzipFile) -> None:
        self._target = target
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, data: Any) -> int:
        self._hash.update(data)
        self.size += len(data)
        return self._target.write(data)

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"


class Layout:
    """An OCI image layout that is being written.

    :param path: an existing, empty folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._manifests: list[dict[str, Any]] = []
        self._blobs = path / "blobs" / "sha256"
        self._blobs.mkdir(parents=True)

    def add_image(
        self,
        tag: str,
        architecture: str,
        layers: Sequence[Path],
        config: Mapping[str, Any],
        annotations: Mapping[str, str],
    ) -> None:
        """Add one image.

        :param layers: folders that :func:`write_layer` filled, lowest first.
        :param config: the ``config`` object of the image configuration: Entrypoint, Env, ...
        """
        loaded = [Layer.load(folder) for folder in layers]
        for folder, layer in zip(layers, loaded, strict=True):
            blob = self._blobs / layer.digest.removeprefix("sha256:")
            if not blob.exists():
                blob.hardlink_to(folder / "layer.tar.gz")
        image = {
            "created": EPOCH,
            "architecture": architecture,
            "os": "linux",
            "config": dict(config),
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in loaded]},
            "history": [
                {"created": EPOCH, "created_by": folder.name.rpartition("-")[0]}
                for folder in layers
            ],
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{_MEDIA}.manifest.v1+json",
            "config": self._blob(image, "config.v1+json"),
            "layers": [
                {
                    "mediaType": f"{_MEDIA}.layer.v1.tar+gzip",
                    "digest": layer.digest,
                    "size": layer.size,
                }
                for layer in loaded
            ],
            "annotations": dict(annotations),
        }
        self._manifests.append(
            {
                **self._blob(manifest, "manifest.v1+json"),
                "annotations": {"org.opencontainers.image.ref.name": tag},
                "platform": {"architecture": architecture, "os": "linux"},
            }
        )

    def close(self) -> None:
        """Write the index, after the last image."""
        (self._path / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))
        index = {
            "schemaVersion": 2,
            "mediaType": f"{_MEDIA}.index.v1+json",
            "manifests": self._manifests,
        }
        (self._path / "index.json").write_text(json.dumps(index))

    def _blob(self, document: Mapping[str, Any], kind: str) -> dict[str, Any]:
        content = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
        digest = hashlib.sha256(content).hexdigest()
        (self._blobs / digest).write_bytes(content)
        return {"mediaType": f"{_MEDIA}.{kind}", "digest": f"sha256:{digest}", "size": len(content)}


def read_layout(path: Path) -> dict[str, OciImage]:
    """The images of a finished layout, by tag."""
    images = {}
    for entry in json.loads((path / "index.json").read_text())["manifests"]:
        manifest = json.loads(
            (path / "blobs" / "sha256" / entry["digest"].removeprefix("sha256:")).read_text()
        )
        parts = [entry, manifest["config"], *manifest["layers"]]
        tag = entry["annotations"]["org.opencontainers.image.ref.name"]
        images[tag] = OciImage(
            digest=entry["digest"],
            size=sum(part["size"] for part in parts),
            architecture=entry["platform"]["architecture"],
            reference=f"oci:{path}:{tag}",
        )
    return images
