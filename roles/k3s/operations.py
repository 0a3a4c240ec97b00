"""Operations that servers and agents of K3s are made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from shlex import quote

from pyinfra import host
from pyinfra.api import FileUploadCommand, QuoteString, StringCommand, operation

from roles.facts import FACT_SECONDS
from roles.k3s.artifacts import Artifact, Release, is_url
from roles.k3s.config import BINARY
from roles.k3s.facts import InstalledArtifacts
from roles.operations import PLACE_FILES, run_script, staged_path

_HERE = Path(__file__).parent
_ARTIFACTS = (_HERE / "artifact_files.sh").read_text(encoding="utf-8")
_FETCH = (_HERE / "fetch_artifact.py").read_text(encoding="utf-8")
_IMAGES = "/var/lib/rancher/k3s/agent/images"
_TRANSFER_SECONDS = 1800
_ON_DISK = "/var/tmp"  # noqa: S108 (names there are pyinfra's own; /tmp may be in memory)


@operation()
def artifacts(
    release: Release, sums: str, authorities: str
) -> Iterator[StringCommand | FileUploadCommand]:
    """
    Put the image archive of K3s in place, and a new binary beside the one that runs.

    Nothing is replaced by a file whose checksum is another one.

    + release: what the device needs
    + sums: checksums of the release, for later runs
    + authorities: path on the device of the authorities of the artifact store; empty for its own
    """
    # a file without the end of its last line would hide the end of the here-document
    sums = sums.rstrip("\n") + "\n"
    here = host.get_fact(InstalledArtifacts, version=release.version, _timeout=FACT_SECONDS)
    images = [] if here.images in [each.sha256 for each in release.images] else release.images
    binary = release.binary
    new = binary.sha256 not in (here.binary, here.staged)
    if not new and not images and here.sums == sums:
        host.noop(f"the files of K3s {release.version} are there")
        return
    words = [QuoteString(release.version)]
    if new:
        yield from _brought([binary], [staged_path(BINARY)], authorities)
        yield run_script("stage-k3s", _steps(f"binary_is_staged {binary.sha256}"), words, 300)
    if images:
        paths = [staged_path(f"{_IMAGES}/{each.name}") for each in images]
        yield from _brought(images, paths, authorities)
        steps = [
            f"[ ! -e {quote(path)} ] || put_images {each.name} {each.sha256}"
            for each, path in zip(images, paths, strict=True)
        ]
        yield run_script("place-k3s-images", _steps(*steps), words, _TRANSFER_SECONDS)
    if here.sums != sums:
        record = f"record {quote(release.version)} <<'end-of-sums'\n{sums}end-of-sums"
        yield run_script("record-k3s", _steps(record), words, FACT_SECONDS)


def _brought(
    choices: Sequence[Artifact], paths: Sequence[str], authorities: str
) -> Iterator[StringCommand | FileUploadCommand]:
    """Bring the first of some files that there is to its path on the device."""
    if not is_url(choices[0].source):
        yield StringCommand("mkdir", "-p", QuoteString(paths[0].rsplit("/", 1)[0]))
        temporary = host.get_temp_filename(paths[0], temp_directory=_ON_DISK)
        yield FileUploadCommand(choices[0].source, paths[0], remote_temp_filename=temporary)
        return
    words = [
        word
        for each, path in zip(choices, paths, strict=True)
        for word in (path, each.source, each.sha256)
    ]
    yield StringCommand(
        "python3",
        "-",
        *[QuoteString(word) for word in (authorities, *words)],
        _stdin=_FETCH,
        _timeout=_TRANSFER_SECONDS,
    )


def _steps(*steps: str) -> str:
    body = "\n".join(steps)
    return f"{PLACE_FILES}\n{_ARTIFACTS}\nwork() {{\n{body}\n}}\nwork </dev/null\n"
