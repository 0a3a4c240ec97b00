"""Stand-ins for the packages of vendors, whose own repositories a test can't rely on.

They have the vendors' names, so that roles install them as they would the real ones; their
descriptions say what they are. Programs in them do as much as roles ask for, with what the emulator
shows of the hardware. Packages are made without any tool, and the same each time.
"""

from __future__ import annotations

import gzip
import io
import platform
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources

_LIBRARY = f"/usr/lib/{platform.machine()}-linux-gnu/libz.so.1"


@dataclass(frozen=True)
class StandIn:
    """A package.

    :param programs: path to name of a file of this package, with ``@VERSION@`` for the version.
    :param files: path to content.
    :param links: path to target.
    """

    name: str
    version: str
    depends: str = ""
    conflicts: str = ""
    programs: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)

    @property
    def file_name(self) -> str:
        """Name of the package's file."""
        return f"{self.name}_{self.version}_all.deb"

    def build(self) -> bytes:
        """The package's file."""
        fields = {
            "Package": self.name,
            "Version": self.version,
            "Architecture": "all",
            "Maintainer": "nobody <nobody@emulated.invalid>",
            "Depends": self.depends,
            "Conflicts": self.conflicts,
            "Description": f"stand-in for {self.name}, for emulated devices alone",
        }
        control = "".join(f"{key}: {value}\n" for key, value in fields.items() if value)
        members = {
            "debian-binary": b"2.0\n",
            "control.tar.gz": _tar({"/control": (control, 0o644)}, {}),
            "data.tar.gz": _tar(self._contents(), self.links),
        }
        return b"!<arch>\n" + b"".join(_member(name, data) for name, data in members.items())

    def _contents(self) -> dict[str, tuple[str, int]]:
        note = f"Not {self.name}: it stands in for it on emulated devices.\n"
        found = {f"/usr/share/stand-ins/{self.name}": (note, 0o644)}
        found |= {path: (text, 0o644) for path, text in self.files.items()}
        upstream = self.version.rpartition("-")[0] or self.version
        for path, name in self.programs.items():
            text = (resources.files(__package__) / "image" / name).read_text(encoding="utf-8")
            found[path] = (text.replace("@VERSION@", upstream), 0o755)
        return found


def _tar(files: Mapping[str, tuple[str, int]], links: Mapping[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        folders = {
            "/".join(parts[:count])
            for parts in (path.split("/") for path in (*files, *links))
            for count in range(2, len(parts))
        }
        for folder in sorted(folders):
            entry = tarfile.TarInfo(f".{folder}")
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)
        for path, (text, mode) in sorted(files.items()):
            entry, content = tarfile.TarInfo(f".{path}"), text.encode()
            entry.size, entry.mode = len(content), mode
            archive.addfile(entry, io.BytesIO(content))
        for path, target in sorted(links.items()):
            entry = tarfile.TarInfo(f".{path}")
            entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, target, 0o777
            archive.addfile(entry)
    return gzip.compress(buffer.getvalue(), mtime=0)


def _member(name: str, data: bytes) -> bytes:
    header = f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n"
    return header.encode("ascii") + data + b"\n" * (len(data) % 2)


_OPEN_TO_ALL = 'SUBSYSTEM=="hailo_chardev", MODE="0666"\n'


def _hailort(name: str, version: str) -> StandIn:
    return StandIn(
        name,
        version,
        programs={"/usr/bin/hailortcli": "stand-in-hailortcli"},
        files={
            f"/usr/lib/libhailort.so.{version}": "",
            "/usr/lib/udev/rules.d/51-hailo-udev.rules": _OPEN_TO_ALL,
        },
    )


def _toolkit(version: str) -> tuple[StandIn, ...]:
    parts = f"nvidia-container-toolkit-base (= {version}), libnvidia-container-tools (= {version})"
    programs = {
        "/usr/bin/nvidia-ctk": "stand-in-nvidia-ctk",
        "/usr/bin/nvidia-container-runtime": "stand-in-nvidia-container-runtime",
    }
    return (
        StandIn("nvidia-container-toolkit", version, parts),
        StandIn("nvidia-container-toolkit-base", version, programs=programs),
        StandIn("libnvidia-container-tools", version, f"libnvidia-container1 (>= {version})"),
        StandIn("libnvidia-container1", version),
    )


STAND_INS = (
    *_toolkit("1.17.7-1"),
    *_toolkit("1.17.8-1"),
    StandIn(
        "nvidia-utils-535-server",
        "535.183.01-1",
        programs={"/usr/bin/nvidia-smi": "stand-in-nvidia-smi"},
        files={"/usr/lib/libnvidia-ml.so.535.183.01": ""},
    ),
    StandIn("gasket-dkms", "1.0-18"),
    StandIn("libedgetpu1-std", "16.0", links={"/usr/lib/libedgetpu.so.1": _LIBRARY}),
    _hailort("hailort", "4.19.0"),
    _hailort("hailort", "4.20.0"),
    _hailort("h10-hailort", "5.1.1"),
    StandIn("hailo-all", "4.19.0", "hailort (= 4.19.0)", "hailo-h10-all"),
    StandIn("hailo-all", "4.20.0", "hailort (= 4.20.0)", "hailo-h10-all"),
    StandIn("hailo-h10-all", "5.1.1", "h10-hailort (= 5.1.1)", "hailo-all"),
    StandIn("clinfo", "3.0-1", programs={"/usr/bin/clinfo": "stand-in-clinfo"}),
    StandIn("intel-opencl-icd", "24.52.32224.5-1"),
    StandIn("intel-driver-compiler-npu", "1.17.0-1", "libtbb12"),
    StandIn("intel-fw-npu", "1.17.0-1"),
    StandIn("intel-level-zero-npu", "1.17.0-1", links={"/usr/lib/libze_intel_npu.so.1": _LIBRARY}),
    StandIn("libtbb12", "2021.8.0-1"),
)
"""All stand-ins, several versions of those whose version matters."""


def archive() -> bytes:
    """A tar of the folder ``vendor`` with the packages."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for package in STAND_INS:
            content = package.build()
            entry = tarfile.TarInfo(f"vendor/{package.file_name}")
            entry.size, entry.mode = len(content), 0o644
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
