#!/usr/bin/env python3
"""Fills a site's own registry, and clears what nothing needs any more.

usage: muster-registry SUBCOMMAND
       (submit, status: one JSON document in, one line of JSON out; work, mend, serving: for the
       systemd units and the role)

The registry that devices pull from can't be written to: it is started read-only. What is copied
goes through a second one, which lives as long as the copy, listens on this machine alone and takes
only the client certificate that was made for that copy. So nobody can push while something is
cleared away, and a stolen certificate of a device can neither remove nor add anything.

One piece of work is under way at a time. It belongs to a systemd unit, so it goes on when whoever
asked for it is gone; asked for again, it goes on where it was cut off.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

CONFIG = "/etc/muster/registry.json"
UPSTREAM_CERTIFICATES = "/etc/muster/registry/upstream"
WORK_UNIT = "muster-registry-work.service"

IMAGE = re.compile(r"[a-z0-9]+(?:[._/-]+[a-z0-9]+)*@sha256:[0-9a-f]{64}")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
REQUEST_ID = re.compile(r"[A-Za-z0-9-]{1,64}")

LOOK_SECONDS = 0.5
"""How often the progress of a copy is measured."""
ASK_SECONDS = 60
"""Bound of asking the upstream registry for a manifest."""
START_SECONDS = 20
"""Bound of starting the registry through which images are copied."""
_CHUNK = 1 << 20


class Failure(Exception):  # noqa: N818 (what the device program calls so)
    """What can't be done, with a code for programs and a message for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


class Settings(NamedTuple):
    """What the role says; sizes in bytes, times in seconds.

    ``max_size`` bounds what is stored, ``min_free`` is what stays free on the disk, ``stall`` is
    how long a copy may move nothing.
    """

    storage: str
    upstream: str
    certificate: str
    port: int = 5000
    authfile: str | None = None  # type: ignore[misc]
    max_size: int | None = None
    min_free: int = 0
    stall: int = 60
    upstream_certificates: str = UPSTREAM_CERTIFICATES

    @classmethod
    def read(cls, path: str) -> Settings:
        """Read the file that the role wrote."""
        try:
            with open(path, encoding="utf-8") as file:
                return cls(**json.load(file))
        except (OSError, ValueError, TypeError) as error:
            message = f"{path} can't be read ({error}): provision this device"
            raise Failure("bad_config", message) from None


# ---------------------------------------------------------------------------------------------
# What is stored


class Part(NamedTuple):
    """What a manifest names."""

    digest: str
    size: int
    is_manifest: bool


def digest_of(content: bytes) -> str:
    """Return the digest of some bytes."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def parts_of(content: bytes) -> list[Part]:
    """Return what an image needs, from its manifest or its index of manifests.

    Layers that are fetched from elsewhere, as those of Windows, belong to no registry.
    """
    try:
        document = json.loads(content)
        manifests = document.get("manifests") or []
        blobs = [*filter(None, [document.get("config")]), *(document.get("layers") or [])]
        wanted = [(entry, True) for entry in manifests] + [(entry, False) for entry in blobs]
        found = [
            Part(str(entry["digest"]), int(entry.get("size") or 0), is_manifest)
            for entry, is_manifest in wanted
            if not entry.get("urls")
        ]
    except (ValueError, TypeError, KeyError, AttributeError):
        raise Failure("bad_manifest", "a manifest is not one that can be read") from None
    if not found or not all(DIGEST.fullmatch(part.digest) for part in found):
        raise Failure("bad_manifest", "a manifest names no images and no layers by sha256")
    return found


def references(content: bytes) -> set[str]:
    """Return every digest that a manifest mentions, wherever it does: nothing may be overlooked."""
    return set(DIGEST.findall(content.decode("utf-8", "replace")))


def split(image: str) -> tuple[str, str]:
    """Return repository and digest of an image."""
    repository, _, digest = image.partition("@")
    return repository, digest


class Store:
    """The files of a registry, as docker-registry 2 lays them out."""

    def __init__(self, storage: str) -> None:
        self.storage = storage
        self.base = os.path.join(storage, "docker", "registry", "v2")
        self.own = os.path.join(storage, "muster")
        self.trash = os.path.join(self.own, "trash")

    def at(self, *names: str) -> str:
        """Return a path below the registry's folder."""
        return os.path.join(self.base, *names)

    def blob_folder(self, digest: str) -> str:
        """Return the folder of a blob."""
        name = digest.partition(":")[2]
        return self.at("blobs", "sha256", name[:2], name)

    def blob(self, digest: str) -> str:
        """Return the file with the content of a blob."""
        return os.path.join(self.blob_folder(digest), "data")

    def revision(self, repository: str, digest: str) -> str:
        """Return the folder whose presence makes a manifest part of a repository."""
        name = digest.partition(":")[2]
        return self.at("repositories", repository, "_manifests", "revisions", "sha256", name)

    def layer(self, repository: str, digest: str) -> str:
        """Return the folder whose presence makes a blob part of a repository."""
        name = digest.partition(":")[2]
        return self.at("repositories", repository, "_layers", "sha256", name)

    def size(self, digest: str) -> int | None:
        """Return the bytes of a blob; None if it isn't there."""
        try:
            return os.stat(self.blob(digest)).st_size
        except OSError:
            return None

    def repositories(self) -> list[str]:
        """Return the names of all repositories."""
        top = self.at("repositories")
        found = []
        for folder, names, _ in os.walk(top):
            if "_manifests" in names or "_layers" in names or "_uploads" in names:
                found.append(os.path.relpath(folder, top))
            names[:] = [name for name in names if not name.startswith("_")]
        return sorted(found)

    def manifests(self, repository: str) -> list[str]:
        """Return the digests of a repository's manifests."""
        folder = self.at("repositories", repository, "_manifests", "revisions", "sha256")
        return sorted(
            f"sha256:{name}"
            for name in _names(folder)
            if os.path.isfile(os.path.join(folder, name, "link"))
        )

    def blobs(self) -> list[str]:
        """Return the digests of everything stored."""
        top = self.at("blobs", "sha256")
        return sorted(
            f"sha256:{name}" for two in _names(top) for name in _names(os.path.join(top, two))
        )

    def content(self, digest: str) -> bytes | None:
        """Return a manifest; None if it isn't there, or isn't what its digest says."""
        try:
            with open(self.blob(digest), "rb") as file:
                content = file.read()
        except OSError:
            return None
        return content if digest_of(content) == digest else None

    def manifest(self, repository: str, digest: str) -> bytes | None:
        """Return a manifest of a repository; None if it isn't there or damaged."""
        link = os.path.join(self.revision(repository, digest), "link")
        return self.content(digest) if os.path.isfile(link) else None

    def lacking(self, image: str) -> dict[str, int]:
        """Return what an image lacks here: bytes by digest, 0 where nobody can tell yet."""
        repository, digest = split(image)
        content = self.manifest(repository, digest)
        if content is None:
            return {digest: 0}
        missing: dict[str, int] = {}
        for part in parts_of(content):
            if part.is_manifest:
                missing.update(self.lacking(f"{repository}@{part.digest}"))
            elif not self.has_layer(repository, part):
                missing[part.digest] = part.size
        return missing

    def has_layer(self, repository: str, part: Part) -> bool:
        """Whether a repository has a blob in its full size."""
        linked = os.path.isfile(os.path.join(self.layer(repository, part.digest), "link"))
        return linked and self.size(part.digest) == part.size

    def everything(self, image: str) -> set[str]:
        """Return the digests of all that a complete image consists of."""
        repository, digest = split(image)
        found = {digest}
        for part in parts_of(self.content(digest) or b""):
            found.add(part.digest)
            if part.is_manifest:
                found |= self.everything(f"{repository}@{part.digest}")
        return found

    def adopt(self, repository: str, parts: Iterable[Part]) -> None:
        """Give blobs that another repository has to this one: they need not be fetched again."""
        for part in parts:
            if not part.is_manifest and self.size(part.digest) == part.size:
                folder = self.layer(repository, part.digest)
                os.makedirs(folder, exist_ok=True)
                write_file(os.path.join(folder, "link"), part.digest.encode())

    def damaged(self, digests: Iterable[str]) -> list[str]:
        """Return the blobs whose content is not what their digest says."""
        return [digest for digest in sorted(digests) if _hash_file(self.blob(digest)) != digest]

    def clear_uploads(self) -> None:
        """Remove what copies that were cut off have left."""
        for repository in self.repositories():
            shutil.rmtree(self.at("repositories", repository, "_uploads"), ignore_errors=True)

    def uploading(self) -> int:
        """Return the bytes of what is being copied now."""
        total = 0
        for repository in self.repositories():
            for folder, _, names in os.walk(self.at("repositories", repository, "_uploads")):
                if "data" in names:
                    with contextlib.suppress(OSError):
                        total += os.stat(os.path.join(folder, "data")).st_size
        return total

    def bytes(self) -> int:
        """Return the bytes of everything stored."""
        return sum(self.size(digest) or 0 for digest in self.blobs())

    def free(self) -> int:
        """Return the bytes that are free on the disk."""
        found = os.statvfs(self.storage)
        return found.f_bavail * found.f_frsize


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _hash_file(path: str) -> str:
    found = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while chunk := file.read(_CHUNK):
                found.update(chunk)
    except OSError:
        return ""
    return "sha256:" + found.hexdigest()


def sync_folder(path: str) -> None:
    """Have the names in a folder on the disk."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_file(path: str, data: bytes) -> None:
    """Replace a file in one step."""
    folder = os.path.dirname(path)
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=".new-")
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)
    sync_folder(folder)


# ---------------------------------------------------------------------------------------------
# Clearing


class Clearing(NamedTuple):
    """What is to go: manifests as (repository, digest), and blobs."""

    manifests: list[tuple[str, str]]
    blobs: list[str]


def plan_clearing(store: Store, keep: Iterable[str], newer: float, now: float) -> Clearing:
    """Decide what goes. Changes nothing.

    ``keep`` are digests that stay, with everything that they refer to, in whatever repository.
    What was copied less than ``newer`` seconds ago stays, too.
    """
    present = [(name, digest) for name in store.repositories() for digest in store.manifests(name)]
    roots = set(keep) | {
        digest
        for name, digest in present
        if now - _written(os.path.join(store.revision(name, digest), "link")) < newer
    }
    kept = _closure(store, roots)
    gone = [entry for entry in present if entry[1] not in kept]
    return Clearing(
        gone,
        [
            digest
            for digest in store.blobs()
            # A layer of an image that was not copied to its end yet belongs to no manifest.
            if digest not in kept and now - _written(store.blob(digest)) >= newer
        ],
    )


def _written(path: str) -> float:
    """When a file was last written, in seconds since 1970; what can't be told is new."""
    try:
        return os.stat(path).st_mtime
    except OSError:
        return float("inf")


def _closure(store: Store, roots: Iterable[str]) -> set[str]:
    kept: set[str] = set()
    todo = list(roots)
    while todo:
        digest = todo.pop()
        if digest in kept:
            continue
        kept.add(digest)
        # Manifests are small; the digests that layers may contain by chance mean nothing.
        if (store.size(digest) or 0) <= 4 << 20 and (content := store.content(digest)) is not None:
            todo += references(content)
    return kept


def clear(store: Store, clearing: Clearing, whole: Sequence[str]) -> int:
    """Remove what a plan says, all of it or nothing; return the bytes that are free again.

    ``whole`` are images that were complete before and must be so afterwards. First everything is
    moved aside, which can be undone, and only when they are still whole it is deleted.
    """
    folders = [store.revision(name, digest) for name, digest in clearing.manifests]
    folders += [store.blob_folder(digest) for digest in clearing.blobs]
    freed = sum(store.size(digest) or 0 for digest in clearing.blobs)
    os.makedirs(store.trash, exist_ok=True)
    sync_folder(store.own)
    try:
        for folder in folders:
            if os.path.isdir(folder):
                _move(folder, os.path.join(store.trash, os.path.relpath(folder, store.base)))
        broken = [image for image in whole if store.lacking(image)]
        if broken:
            raise Failure("would_break", f"{broken[0]} would not be complete: nothing was removed")
    except (OSError, Failure):
        mend(store)
        raise
    write_file(os.path.join(store.trash, "decided"), b"")
    mend(store)
    return freed


def _move(folder: str, target: str) -> None:
    os.makedirs(os.path.dirname(target), exist_ok=True)
    os.rename(folder, target)


def mend(store: Store) -> bool:
    """Finish a clearing that was cut off, or undo it; True if there was anything to do."""
    if not os.path.isdir(store.trash):
        return False
    if not os.path.exists(os.path.join(store.trash, "decided")):
        for folder, names, files in os.walk(store.trash):
            if files:  # a revision or a blob
                names[:] = []
                _move(folder, os.path.join(store.base, os.path.relpath(folder, store.trash)))
        shutil.rmtree(store.trash)
        return True
    for repository in store.repositories():
        folder = store.at("repositories", repository, "_layers", "sha256")
        for name in _names(folder):
            if store.size(f"sha256:{name}") is None:
                shutil.rmtree(os.path.join(folder, name), ignore_errors=True)
    # The mark goes last: without it what is left would come back.
    for name in _names(store.trash):
        if name != "decided":
            shutil.rmtree(os.path.join(store.trash, name))
    shutil.rmtree(store.trash)
    return True


# ---------------------------------------------------------------------------------------------
# Filling


class Progress:
    """What is under way, in a file that anybody may ask for at any time."""

    def __init__(self, path: str, request: Mapping[str, Any]) -> None:
        self._path = path
        self.values: dict[str, Any] = {
            "id": request["id"],
            "task": request["task"],
            "state": "running",
            "images": len(request.get("images") or ()),
            "done": 0,
            "bytes": 0,
            "bytes_done": 0,
        }

    def tell(self, **values: Any) -> None:
        """Write what is known now."""
        self.values.update(values)
        write_file(self._path, json.dumps(self.values).encode())


class Upstream:
    """The registry that images come from, reached by skopeo."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def options(self, prefix: str = "") -> list[str]:
        """Return skopeo's options; credentials are in a file, never among them."""
        found = []
        if self._settings.authfile:
            found.append(f"--{prefix}authfile={self._settings.authfile}")
        else:
            found.append(f"--{prefix}no-creds")
        if os.path.isdir(self._settings.upstream_certificates):
            found.append(f"--{prefix}cert-dir={self._settings.upstream_certificates}")
        return found

    def name(self, image: str) -> str:
        """Return an image as skopeo names it."""
        return f"docker://{self._settings.upstream}/{image}"

    def manifest(self, image: str) -> bytes:
        """Fetch a manifest."""
        command = ["skopeo", "inspect", "--raw", *self.options(), self.name(image)]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=ASK_SECONDS
            )
        except subprocess.TimeoutExpired:
            message = f"{self._settings.upstream} did not answer within {ASK_SECONDS} s"
            raise Failure("upstream", message) from None
        except OSError as error:
            raise Failure("no_skopeo", f"skopeo can't be started: {error}") from None
        if done.returncode:
            raise Failure("upstream", _reason(done.stderr))
        digest = split(image)[1]
        # skopeo ends some manifests with a line of its own
        for content in (done.stdout, done.stdout.removesuffix(b"\n")):
            if digest_of(content) == digest:
                return content
        message = f"{self._settings.upstream} gave something else for {image}"
        raise Failure("bad_digest", message)


def _reason(stderr: bytes) -> str:
    lines = [line for line in stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    said = lines[-1] if lines else "no reason given"
    match = re.search(r'msg="((?:[^"\\]|\\.)*)"', said)
    told = match.group(1).replace('\\"', '"') if match else said
    return re.sub(r'^Error parsing image name "[^"]*": ', "", told)[:600]


class Gate:
    """A registry on this machine alone, with the same store, that takes what is copied."""

    def __init__(self, store: Store, folder: str) -> None:
        self._store, self._folder = store, folder
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    def __enter__(self) -> Gate:
        certificates = os.path.join(self._folder, "certificates")
        os.mkdir(certificates, 0o700)
        certificate, key = (os.path.join(certificates, f"client.{end}") for end in ("cert", "key"))
        self._make_certificate(certificate, key)
        shutil.copyfile(certificate, os.path.join(certificates, "ca.crt"))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        tls = {"certificate": certificate, "key": key, "clientcas": [certificate]}
        document = {
            "version": "0.1",
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {
                "filesystem": {"rootdirectory": self._store.storage},
                "delete": {"enabled": True},
                "maintenance": {"uploadpurging": {"enabled": False}},
            },
            "http": {
                "addr": f"127.0.0.1:{self.port}",
                "tls": tls,
                "secret": hashlib.sha256(os.urandom(32)).hexdigest(),
            },
        }
        path = os.path.join(self._folder, "fill.yml")
        write_file(path, json.dumps(document).encode())  # JSON is YAML
        os.chmod(path, 0o600)
        self._process = subprocess.Popen(
            ["docker-registry", "serve", path],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until = time.monotonic() + START_SECONDS
        while not answers(self.port):
            if self._process.poll() is not None or time.monotonic() > until:
                self.__exit__()
                raise Failure("no_registry", "docker-registry could not be started for the copy")
            time.sleep(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    @staticmethod
    def _make_certificate(certificate: str, key: str) -> None:
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"]
        command += ["-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", "/CN=muster-registry-fill"]
        command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)
        if done.returncode:
            raise Failure("no_certificate", f"openssl: {_reason(done.stderr)}")

    def options(self) -> list[str]:
        """Return skopeo's options for copying to it."""
        return [f"--dest-cert-dir={os.path.join(self._folder, 'certificates')}"]

    def name(self, image: str) -> str:
        """Return an image as skopeo names it."""
        return f"docker://127.0.0.1:{self.port}/{image}"


def answers(port: int) -> bool:
    """Whether something listens on a port of this machine."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Filling:
    """Copies images that are not here, or not wholly."""

    def __init__(self, settings: Settings, store: Store, progress: Progress) -> None:
        self._settings, self._store, self._progress = settings, store, progress
        self._upstream = Upstream(settings)

    def run(self, images: Sequence[str], verify: bool) -> dict[str, Any]:
        """Have all images here; return what was done."""
        if verify:
            self._drop_damaged(images)
        todo = [image for image in images if self._store.lacking(image)]
        copied = 0
        if todo:
            self._store.clear_uploads()
            wanted = {image: self._wanted(image) for image in todo}
            sizes = {digest: size for parts in wanted.values() for digest, size in parts.items()}
            needed = {digest: size for digest, size in sizes.items() if not self._has(digest, size)}
            copied = sum(needed.values())
            self._check_space(copied)
            self._progress.tell(bytes=copied, done=len(images) - len(todo))
            with tempfile.TemporaryDirectory(dir=os.environ.get("RUNTIME_DIRECTORY")) as folder:
                os.chmod(folder, 0o700)
                with Gate(self._store, folder) as gate:
                    for image in todo:
                        self._copy(gate, image, needed)
                        self._progress.tell(done=self._progress.values["done"] + 1)
            self._check(todo, needed)
        for image in images:  # what was asked for lately is not cleared away
            os.utime(os.path.join(self._store.revision(*split(image)), "link"))
        return {"copied": todo, "copied_bytes": copied}

    def _has(self, digest: str, size: int) -> bool:
        return self._store.size(digest) == size

    def _wanted(self, image: str) -> dict[str, int]:
        """Everything that an image consists of, and its bytes; asks the upstream registry."""
        self._progress.tell(current=image)
        repository, digest = split(image)
        content = self._store.manifest(repository, digest) or self._upstream.manifest(image)
        parts = parts_of(content)
        self._store.adopt(repository, parts)
        found = {digest: len(content)}
        for part in parts:
            found[part.digest] = part.size
            if part.is_manifest:
                found.update(self._wanted(f"{repository}@{part.digest}"))
        return found

    def _check_space(self, needed: int) -> None:
        free, limit = self._store.free(), self._settings.max_size
        if needed + self._settings.min_free > free:
            message = (
                f"{needed >> 20} MiB are to be copied and {self._settings.min_free >> 20} MiB must"
                f" stay free, {free >> 20} MiB are: clear the registry, or give it a larger disk"
            )
            raise Failure("no_space", message)
        if limit is not None and self._store.bytes() + needed > limit:
            message = (
                f"{needed >> 20} MiB are to be copied, {self._store.bytes() >> 20} of at most"
                f" {limit >> 20} MiB are used: clear the registry, or raise registry_max_size"
            )
            raise Failure("no_space", message)

    def _copy(self, gate: Gate, image: str, needed: Mapping[str, int]) -> None:
        self._progress.tell(current=image)
        command = ["skopeo", "copy", "--insecure-policy", "--quiet", "--all"]
        command += ["--preserve-digests"] if _skopeo_preserves() else []
        command += [*self._upstream.options("src-"), *gate.options()]
        command += [self._upstream.name(image), gate.name(image)]
        with tempfile.TemporaryFile() as said:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said
            )
            try:
                self._watch(process, image, needed)
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
            if process.returncode:
                said.seek(0)
                raise Failure("upstream", f"{image}: {_reason(said.read())}")

    def _watch(
        self, process: subprocess.Popen[bytes], image: str, needed: Mapping[str, int]
    ) -> None:
        moved, since = -1, time.monotonic()
        while process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(LOOK_SECONDS)
            there = sum(size for digest, size in needed.items() if self._has(digest, size))
            there += self._store.uploading()
            if there != moved:
                moved, since = there, time.monotonic()
                total = self._progress.values["bytes"]
                self._progress.tell(bytes_done=min(there, total))
            elif time.monotonic() - since > self._settings.stall:
                message = f"{image}: nothing came for {self._settings.stall} s"
                raise Failure("upstream", message)

    def _check(self, images: Sequence[str], copied: Iterable[str]) -> None:
        for image in images:
            if missing := self._store.lacking(image):
                raise Failure("incomplete", f"{image} lacks {sorted(missing)[0]} after the copy")
        if broken := self._store.damaged(copied):
            self._drop(broken)
            raise Failure("bad_digest", f"{broken[0]} is not what its digest says, and was removed")
        os.sync()

    def _drop_damaged(self, images: Sequence[str]) -> None:
        """Remove what has gone bad on the disk, so that it is copied again."""
        for image in images:
            if not self._store.lacking(image):
                self._progress.tell(current=image)
                self._drop(self._store.damaged(self._store.everything(image)))

    def _drop(self, digests: Iterable[str]) -> None:
        for digest in digests:
            shutil.rmtree(self._store.blob_folder(digest), ignore_errors=True)


def _skopeo_preserves() -> bool:
    """Whether this skopeo (1.6 and newer) can be told to keep digests; copies by digest fail in
    any case where it does not."""
    done = subprocess.run(
        ["skopeo", "copy", "--help"], stdin=subprocess.DEVNULL, capture_output=True
    )
    return b"--preserve-digests" in done.stdout + done.stderr


# ---------------------------------------------------------------------------------------------
# The command


def read_request(given: Any) -> dict[str, Any]:
    """Check what is asked for."""

    def fail(text: str) -> Failure:
        return Failure("bad_input", f"the request: {text}")

    if not isinstance(given, dict):
        raise fail("expected an object")
    keys = {"fill": {"images", "verify"}, "clear": {"keep", "newer", "dry"}}
    task = given.get("task")
    if task not in keys:
        raise fail("task: expected fill or clear")
    unknown = sorted(set(given) - keys[task] - {"id", "task"})
    if unknown:
        raise fail(f"{unknown[0]}: no such key")
    if not isinstance(given.get("id"), str) or not REQUEST_ID.fullmatch(given["id"]):
        raise fail("id: expected letters, digits and dashes")
    name, pattern = ("images", IMAGE) if task == "fill" else ("keep", DIGEST)
    values = given.get(name)
    if not isinstance(values, list) or not all(
        isinstance(value, str) and pattern.fullmatch(value) for value in values
    ):
        raise fail(
            f"{name}: expected a list of {'REPOSITORY@' if task == 'fill' else ''}sha256:..."
        )
    newer = given.get("newer", 0)
    if isinstance(newer, bool) or not isinstance(newer, (int, float)) or not newer >= 0:
        raise fail("newer: expected seconds")
    for flag in ("verify", "dry"):
        if not isinstance(given.get(flag, False), bool):
            raise fail(f"{flag}: expected true or false")
    return given


class Program:
    """The subcommands."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = Store(settings.storage)

    def _own(self, name: str) -> str:
        return os.path.join(self.store.own, name)

    @contextlib.contextmanager
    def _locked(self, name: str, wait: bool = True) -> Iterator[None]:
        handle = os.open(self._own(name), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        finally:
            os.close(handle)

    def submit(self, given: Any) -> dict[str, Any]:
        """Have a piece of work begun, unless another one is under way."""
        request = read_request(given)
        with self._locked("submit.lock"):
            before = self._progress()
            if before.get("id") == request["id"]:
                return {"id": request["id"]}
            if working():
                raise Failure("busy", f"{before.get('task', 'other work')} is under way here")
            write_file(self._own("request.json"), json.dumps(request).encode())
            _systemctl("reset-failed", WORK_UNIT)
            done = _systemctl("start", "--no-block", WORK_UNIT)
            if done.returncode:
                raise Failure("no_unit", f"{WORK_UNIT}: {_reason(done.stderr)}")
        return {"id": request["id"]}

    def status(self, given: Any) -> dict[str, Any]:
        """Say what is under way, and with ``store`` what is stored."""
        under_way = working()
        progress = self._progress()
        if progress.get("state") == "running" and not under_way:
            progress.update(state="failed", error="it was cut off; ask for it again")
        answer = {"working": under_way, "progress": progress}
        if isinstance(given, dict) and given.get("store"):
            images = [
                f"{n}@{d}" for n in self.store.repositories() for d in self.store.manifests(n)
            ]
            answer["store"] = {
                "images": images,
                "bytes": self.store.bytes(),
                "free": self.store.free(),
            }
        return answer

    def _progress(self) -> dict[str, Any]:
        try:
            with open(self._own("progress.json"), "rb") as file:
                return dict(json.load(file))
        except (OSError, ValueError):
            return {}

    def work(self) -> dict[str, Any]:
        """Do what was asked for."""
        with open(self._own("request.json"), "rb") as file:
            request = read_request(json.load(file))
        progress = Progress(self._own("progress.json"), request)
        progress.tell()
        tasks: dict[str, Callable[[], dict[str, Any]]] = {
            "fill": lambda: self._fill(request, progress),
            "clear": lambda: self._clear(request),
        }
        try:
            with self._locked("work.lock"):
                mend(self.store)
                result = tasks[request["task"]]()
        except (Failure, OSError) as error:
            progress.tell(state="failed", error=str(error), code=getattr(error, "code", "internal"))
            raise
        progress.tell(state="done", result=result, bytes_done=progress.values["bytes"])
        return result

    def _fill(self, request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
        images = list(dict.fromkeys(request["images"]))
        return Filling(self.settings, self.store, progress).run(
            images, request.get("verify", False)
        )

    def _clear(self, request: Mapping[str, Any]) -> dict[str, Any]:
        keep = set(request["keep"])
        plan = plan_clearing(self.store, keep, request.get("newer", 0), time.time())
        whole = [
            f"{name}@{digest}"
            for name in self.store.repositories()
            for digest in self.store.manifests(name)
            if (name, digest) not in plan.manifests and not self._lacks(f"{name}@{digest}")
        ]
        freed = sum(self.store.size(digest) or 0 for digest in plan.blobs)
        dry = request.get("dry", False)
        if not dry:
            self.store.clear_uploads()
            freed = clear(self.store, plan, whole)
        return {
            "images": [f"{name}@{digest}" for name, digest in plan.manifests],
            "blobs": len(plan.blobs),
            "freed": freed,
            "kept": len(whole),
            "dry": dry,
        }

    def _lacks(self, image: str) -> bool:
        try:
            return bool(self.store.lacking(image))
        except Failure:
            return True

    def mend(self) -> dict[str, Any]:
        """Finish or undo what a clearing that was cut off has left."""
        try:
            with self._locked("work.lock", wait=False):
                return {"mended": mend(self.store)}
        except BlockingIOError:  # nothing was cut off: it is under way
            return {"mended": False}

    def serving(self) -> dict[str, Any]:
        """Say whether the registry serves, with the certificate that it was given."""
        try:
            served = ssl.get_server_certificate(("127.0.0.1", self.settings.port))
        except (OSError, ValueError) as error:
            raise Failure("silent", f"the registry does not answer: {error}") from None
        with open(self.settings.certificate, encoding="ascii") as file:
            wanted = file.read()
        if "".join(served.split()) not in "".join(wanted.split()):
            raise Failure("old_certificate", "the registry serves another certificate: restart it")
        return {"serving": True}


def _systemctl(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["systemctl", *arguments], stdin=subprocess.DEVNULL, capture_output=True)


def working() -> bool:
    """Whether a piece of work is under way."""
    said = _systemctl("is-active", WORK_UNIT).stdout.decode().strip()
    return said in ("active", "activating", "deactivating", "reloading")


def main(argv: Sequence[str]) -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(prog="muster-registry", description=__doc__.split("\n")[0])
    names = ("submit", "status", "work", "mend", "serving")
    parser.add_argument("subcommand", choices=names)
    name = parser.parse_args(argv).subcommand
    try:
        program = Program(Settings.read(CONFIG))
        if name in ("submit", "status"):
            try:
                given = json.loads(sys.stdin.buffer.read() or b"{}")
            except ValueError as error:
                raise Failure("bad_input", f"expected JSON: {error}") from None
            answer = getattr(program, name)(given)
        else:
            answer = getattr(program, name)()
        answer = {"ok": True, **answer}
    except (Failure, OSError) as error:
        code = getattr(error, "code", "internal")
        answer = {"ok": False, "error": {"code": code, "message": str(error), "detail": {}}}
    print(json.dumps(answer))
    return 0 if answer["ok"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
