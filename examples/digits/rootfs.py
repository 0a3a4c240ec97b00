"""What the model images stand on: a Debian or Ubuntu root with Python, and the dependencies.

Both are of the distribution of the machine that builds, and of an architecture that need not be its
own: nothing that was made for another one is run here.
"""

from __future__ import annotations

import platform
import shutil
import sys
from pathlib import Path

from muster.emulator.sources import (
    Distribution,
    distribution_sources,
    read_apt_files,
    read_distribution,
)
from muster.errors import MusterError

from .cache import run, uv
from .oci import write_layer

WHEELS = "manylinux_2_28"
"""What wheels may need of the C library; older than that of every supported distribution."""

ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}
"""What the image can be built for: the spelling of images, and that of kernels and wheels."""

USER = 65532
SITE = "app/site"

# python3-minimal leads to the distribution's own version, whichever that is. No shell, no package
# manager: what an attacker would look for first isn't there.
PACKAGES = ("base-files", "python3-minimal", "libpython3-stdlib", "libstdc++6", "libgcc-s1")
# Of the machine that built, of dpkg, and of people: tar's patterns.
NOT_IN_ROOT = (
    "./dev/*",
    "./etc/apt",
    "./etc/dpkg",
    "./etc/fstab",
    "./etc/hostname",
    "./etc/resolv.conf",
    "./etc/cron.daily",
    "./etc/logrotate.d",
    "./etc/python3*",
    "./lib32",
    "./libx32",
    "./usr/bin/[!p]*",
    "./usr/bin/py3*",
    "./usr/lib/python3*/ensurepip",
    "./usr/lib/python3*/lib2to3",
    "./usr/lib/python3*/pydoc_data",
    "./usr/lib/python3*/sitecustomize.py",
    "./usr/lib/python3*/test",
    "./usr/lib/systemd",
    "./usr/lib/tmpfiles.d",
    "./usr/lib/*/gconv",
    "./usr/lib32",
    "./usr/libexec",
    "./usr/libx32",
    "./usr/sbin/*",
    "./usr/share/bug",
    "./usr/share/dpkg",
    "./usr/share/gcc*",
    "./usr/share/gdb",
    "./usr/share/info",
    "./usr/share/lintian",
    "./usr/share/locale",
    "./usr/share/man",
    "./usr/share/polkit-1",
    "./usr/share/python3",
    "./var/cache/*",
    "./var/lib/*",
    "./var/log/*",
    # Licences stay.
    "./usr/share/doc/*/[!c]*",
    "./usr/share/doc/*/changelog*",
)
NOT_IN_SITE = (
    ".lock",
    "bin",
    "*.dist-info/INSTALLER",
    "*.dist-info/RECORD",
    "*.dist-info/REQUESTED",
    "*.dist-info/uv_cache.json",
    "**/*.pyi",
    "**/tests",
    "numpy/_core/include",
    "numpy/_core/lib",
    "numpy/_pyinstaller",
    "numpy/distutils",
    "numpy/doc",
    "numpy/f2py",
    "onnxruntime/backend",
    "onnxruntime/capi/libonnxruntime.so*",
    "onnxruntime/datasets",
    "onnxruntime/quantization",
    "onnxruntime/tools",
    "onnxruntime/transformers",
)


def architecture() -> str:
    """The machine's architecture in the spelling of images."""
    for name, machine in ARCHITECTURES.items():
        if machine == platform.machine():
            return name
    raise MusterError(f"onnxruntime has no packages for {platform.machine()}")


def distribution() -> Distribution:
    """The machine's own."""
    return read_distribution(Path("/etc/os-release").read_text(encoding="utf-8"))


def make_root(folder: Path, architecture: str, interpreter: Path | None = None) -> None:
    """Make the lowest layer, and ``root/`` with the same content for :func:`make_site`.

    :param architecture: a key of :data:`ARCHITECTURES`.
    :param interpreter: ``root/`` of the machine's own architecture, for another one's.
    """
    packed, root = folder / "root.tar", folder / "root"
    lines, stanzas = distribution_sources(read_apt_files(), distribution())
    sources = {"mirrors.list": "\n".join([*lines, ""]), "mirrors.sources": "\n".join(stanzas)}
    for name, text in sources.items():
        (folder / name).write_text(text)
    run(
        [
            "mmdebstrap",
            "--quiet",
            "--variant=extract",
            f"--architectures={architecture}",
            "--skip=check/qemu",  # nothing in it is run while it is made
            "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
            f"--include={','.join(PACKAGES)}",
            distribution().codename,
            packed,
            *(folder / name for name in sources),
        ],
        environment={"SOURCE_DATE_EPOCH": "0"},
    )
    root.mkdir()
    exclude = [f"--exclude={pattern}" for pattern in NOT_IN_ROOT]
    run(["tar", "-x", "-f", packed, "-C", root, "--no-same-owner", "--anchored", *exclude])
    for path in (packed, *(folder / name for name in sources)):
        path.unlink()
    accounts = {
        "passwd": f"root:x:0:0:root:/:/nonexistent\nmodel:x:{USER}:{USER}:model:/:/nonexistent\n",
        "group": f"root:x:0:\nmodel:x:{USER}:\n",
    }
    for name, content in accounts.items():
        (root / "etc" / name).write_text(content)
    for library in root.glob("usr/lib/python3*"):
        place = "/" + library.relative_to(root).as_posix()
        _byte_compile(root, interpreter or root, library, place)
    write_layer(folder, {"": root})


def make_site(
    folder: Path, root: Path, requirements: Path, architecture: str, interpreter: Path
) -> None:
    """Make the layer of the server's dependencies, for the Python in ``root``.

    :param architecture: what ``root`` was made for.
    :param interpreter: ``root/`` of the machine's own architecture.
    """
    site = folder / "site"
    run(
        [
            uv(),
            *("pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:"),
            *("--python", sys.executable, "--python-version", _python_version(root)),
            *("--python-platform", f"{ARCHITECTURES[architecture]}-{WHEELS}"),
            *("--target", site, "--requirement", requirements),
        ]
    )
    for pattern in NOT_IN_SITE:
        for path in list(site.glob(pattern)):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
    _byte_compile(root, interpreter, site, f"/{SITE}")
    write_layer(folder, {SITE: site})
    shutil.rmtree(site)


def _byte_compile(root: Path, interpreter: Path, folder: Path, place: str) -> None:
    """Compile with an image's own interpreter, started by its own loader: no chroot, no root.

    -B: what the interpreter would write on its own has times and paths of this machine in it.

    :param interpreter: root of the machine's architecture; byte code is the same on every one.
    :raises MusterError: its Python is not the one of ``root``, whose byte code differs.
    """
    if _python_version(interpreter) != _python_version(root):
        raise MusterError(
            f"the packages of another architecture bring Python {_python_version(root)}: expected "
            f"{_python_version(interpreter)}, as those of this machine's"
        )
    library = next(interpreter.glob("usr/lib/*-linux-gnu*/ld-linux-*.so.?")).parent
    loader = next(library.glob("ld-linux-*.so.?"))
    run(
        [
            *(loader, "--library-path", library, _python(interpreter), "-I", "-B"),
            *("-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"),
            *("-s", folder, "-p", place, folder),
        ]
    )


def _python(root: Path) -> Path:
    return next(root.glob("usr/bin/python3.[0-9]*"))


def _python_version(root: Path) -> str:
    return _python(root).name[len("python") :]
