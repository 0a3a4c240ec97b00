"""Makes what a site's artifact store holds of K3s, with the stand-in as the program.

usage: PYTHONPATH=tests python -m k3s_stand_in.artifacts FOLDER VERSION [VERSION ...]
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import platform
import shutil
import struct
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

_PROGRAM = Path(__file__).parent / "k3s"
_MACHINES = {"x86_64": ("amd64", "k3s"), "aarch64": ("arm64", "k3s-arm64")}
_LONG_AGO = (1980, 1, 1, 0, 0, 0)
PAUSE_IMAGE = "docker.io/rancher/mirrored-pause:3.6"

# mov eax, 34 (pause); syscall; jmp to the start
_PAUSE_AMD64 = bytes.fromhex("b822000000 0f05 ebf7")
# x0..x3 = 0; x8 = 73 (ppoll); svc 0; b to the start
_PAUSE_ARM64 = struct.pack(
    "<7I", 0xD2800000, 0xD2800001, 0xD2800002, 0xD2800003, 0xD2800928, 0xD4000001, 0x17FFFFFA
)


def make(folder: Path, versions: Sequence[str]) -> None:
    """Write ``<folder>/<version>/`` with program, checksums and images for this architecture."""
    architecture, name = machine()
    images = airgap_images(architecture)
    for version in versions:
        target = folder / version
        target.mkdir(parents=True, exist_ok=True)
        files = {name: program(version), f"k3s-airgap-images-{architecture}.tar.gz": images}
        for file, content in files.items():
            (target / file).write_bytes(content)
        (target / name).chmod(0o755)
        sums = "".join(
            f"{hashlib.sha256(content).hexdigest()}  {file}\n" for file, content in files.items()
        )
        (target / f"sha256sum-{architecture}.txt").write_text(sums, encoding="ascii")


def machine() -> tuple[str, str]:
    """Architecture of this machine and the program's name for it, as K3s spells them."""
    return _MACHINES[platform.machine()]


def cached(cache: Path, versions: Sequence[str]) -> Path:
    """Make a folder with these versions once, below ``cache``."""
    sources = [path.read_bytes() for path in sorted(_PROGRAM.glob("*.py"))]
    sources += [Path(__file__).read_bytes(), repr(versions).encode()]
    folder = cache / "k3s-stand-in" / hashlib.sha256(b"".join(sources)).hexdigest()[:12]
    if not folder.exists():
        new = Path(tempfile.mkdtemp(dir=_made(folder.parent)))
        make(new, versions)
        new.chmod(0o755)
        with contextlib.suppress(OSError):  # somebody else was faster
            new.rename(folder)
        shutil.rmtree(new, ignore_errors=True)
    return folder


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def program(version: str) -> bytes:
    """The program as one file that runs by itself; the same each time."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        start = "import sys\nfrom k3s.__main__ import main\nsys.exit(main())\n"
        contents = {"__main__.py": start}
        for path in sorted(_PROGRAM.glob("*.py")):
            contents[f"k3s/{path.name}"] = path.read_text(encoding="utf-8")
        stamp = contents["k3s/stamp.py"]
        contents["k3s/stamp.py"] = stamp.replace("v0.0.0+k3s0", version)
        for name, text in contents.items():
            entry = zipfile.ZipInfo(name, _LONG_AGO)
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, text)
    return b"#!/usr/bin/python3 -sB\n" + buffer.getvalue()


def pause_program(architecture: str) -> bytes:
    """A static program that does nothing for ever."""
    machine, code = {"amd64": (62, _PAUSE_AMD64), "arm64": (183, _PAUSE_ARM64)}[architecture]
    base, headers = 0x400000, 64 + 56
    size = headers + len(code)
    elf = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, machine, 1, base + headers, 64, 0, 0,
        64, 56, 1, 0, 0, 0,
    )  # fmt: skip
    return elf + struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 0x1000) + code


def airgap_images(architecture: str) -> bytes:
    """An archive with the images that a node needs, compressed."""
    layer = _tar({"pause": (pause_program(architecture), 0o755)})
    config = json.dumps(
        {
            "architecture": architecture,
            "os": "linux",
            "config": {"Entrypoint": ["/pause"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{_sha(layer)}"]},
            "history": [{"created_by": "stand-in"}],
        }
    ).encode()
    name = f"{_sha(config)}.json"
    manifest = [{"Config": name, "RepoTags": [PAUSE_IMAGE], "Layers": ["layer.tar"]}]
    files = {name: config, "layer.tar": layer, "manifest.json": json.dumps(manifest).encode()}
    archive = _tar({path: (content, 0o644) for path, content in files.items()})
    return gzip.compress(archive, mtime=0)


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _tar(files: dict[str, tuple[bytes, int]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path, (content, mode) in files.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(content), mode
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


if __name__ == "__main__":
    make(Path(sys.argv[1]), sys.argv[2:])
