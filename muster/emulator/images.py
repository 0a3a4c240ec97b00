"""Images of the emulated fleet, made from the packages of this machine's own distribution.

``mmdebstrap`` makes one root filesystem and a folder of packages; both are kept below
:func:`muster.paths.cache_dir`, so that only the import is repeated when Docker's store was wiped.
Two small builds without network make the device image and the registry image from them. Every
name carries a hash of what the image is made from.
"""

from __future__ import annotations

import hashlib
import io
import platform
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import docker
from docker.errors import BuildError, ImageNotFound

from muster import paths
from muster.emulator import stand_ins
from muster.emulator.locking import locked
from muster.emulator.sources import (
    Distribution,
    distribution_sources,
    read_apt_files,
    read_distribution,
)
from muster.errors import MusterError

DEVICE_PACKAGES = (
    "apt-utils", "ca-certificates", "curl", "dbus", "docker.io", "e2fsprogs", "gnupg", "iproute2",
    "iptables", "iputils-ping", "kmod", "minisign", "nftables", "openssh-server", "pciutils",
    "procps", "python3", "python3-apt", "sudo", "systemd", "systemd-sysv", "usbutils",
)  # fmt: skip
"""What a vendor's image brings: nothing that a role is there to install, but the runtime."""

SITE_PACKAGES = (
    "chrony", "containernetworking-plugins", "crun", "docker-registry", "fake-hwclock", "haproxy",
    "mosquitto", "mosquitto-clients", "podman", "prometheus", "prometheus-alertmanager",
    "prometheus-node-exporter", "skopeo", "systemd-zram-generator", "unattended-upgrades",
    "wireguard-go", "wireguard-tools",
)  # fmt: skip
"""Packages that only the site's own package mirror has; roles install them from there."""

_REGISTRY_PACKAGES = ("docker-registry",)
_DEVICE_FILES = ("device.Dockerfile", "device-setup", "emu-init", "emu-link", "emu-link.service")
_REGISTRY_FILES = ("registry.Dockerfile", "registry.yml", "registry-start", "sign-packages")

Report = Callable[[str], None]


@dataclass(frozen=True)
class Images:
    """Names of the images that a fleet runs."""

    device: str
    registry: str


def ensure_images(client: docker.DockerClient, report: Report) -> Images:
    """Make or load whatever images are missing. One process at a time does so.

    :param report: called with what happens next, for people.
    :raises MusterError: when a tool is missing or a build fails.
    """
    recipe = _Recipe.of_this_machine()
    images = Images(f"muster-device:{recipe.device_key}", f"muster-registry:{recipe.registry_key}")
    if _present(client, images.device) and _present(client, images.registry):
        return images
    cache = paths.cache_dir() / "images"

    def waiting() -> None:
        report("waiting for another process that makes the images")

    with locked(cache / "lock", waiting):
        base = f"muster-base:{recipe.base_key}"
        root, packages = (cache / f"{recipe.base_key}.{part}.tar" for part in ("root", "packages"))
        if not (root.exists() and packages.exists()):
            report("making the base image from this machine's package mirror (minutes)")
            recipe.run_mmdebstrap(root, packages)
        if not _present(client, base):
            report("loading the base image")
            name, tag = base.split(":")
            client.api.import_image_from_file(str(root), repository=name, tag=tag)
        if not _present(client, images.device):
            report("building the device image")
            _build(client, images.device, base, _DEVICE_FILES)
        if not _present(client, images.registry):
            report("building the registry image")
            _build(client, images.registry, base, _REGISTRY_FILES, packages, stand_ins.archive())
    return images


@dataclass(frozen=True)
class _Recipe:
    distribution: Distribution
    lines: tuple[str, ...]
    stanzas: tuple[str, ...]

    @classmethod
    def of_this_machine(cls) -> _Recipe:
        distribution = read_distribution(Path("/etc/os-release").read_text(encoding="utf-8"))
        lines, stanzas = distribution_sources(read_apt_files(), distribution)
        if not lines and not stanzas:
            raise MusterError(
                f"apt has no source for {distribution.codename} with the component main: "
                "expected one in /etc/apt/sources.list or /etc/apt/sources.list.d"
            )
        return cls(distribution, tuple(lines), tuple(stanzas))

    @property
    def device_packages(self) -> tuple[str, ...]:
        extra = ("docker-cli",) if self.distribution.has_docker_cli else ()
        return DEVICE_PACKAGES + extra

    @property
    def base_key(self) -> str:
        parts = (
            self.distribution, platform.machine(), self.lines, self.stanzas,
            self.device_packages, SITE_PACKAGES, _REGISTRY_PACKAGES, _text("fetch-packages"),
        )  # fmt: skip
        return _hash(*map(repr, parts))

    @property
    def device_key(self) -> str:
        return _hash(self.base_key, *map(_text, _DEVICE_FILES))

    @property
    def registry_key(self) -> str:
        vendor_packages = hashlib.sha256(stand_ins.archive()).hexdigest()
        return _hash(self.base_key, vendor_packages, *map(_text, _REGISTRY_FILES))

    def run_mmdebstrap(self, root: Path, packages: Path) -> None:
        """Write the tar of the root filesystem and the tar of the mirror's packages."""
        if shutil.which("mmdebstrap") is None:
            raise MusterError("mmdebstrap is missing: apt-get install mmdebstrap, or run make")
        with tempfile.TemporaryDirectory(dir=root.parent, prefix="work-") as folder:
            work = Path(folder)
            mirrors = []
            if self.lines:
                mirrors.append(work / "mirrors.list")
                mirrors[-1].write_text("\n".join(self.lines) + "\n", encoding="utf-8")
            if self.stanzas:
                mirrors.append(work / "mirrors.sources")
                mirrors[-1].write_text("\n".join(self.stanzas), encoding="utf-8")
            new_root, new_packages = work / "root.tar", work / "packages.tar"
            wanted = " ".join(SITE_PACKAGES + _REGISTRY_PACKAGES)
            # in full: without root's rights, mmdebstrap becomes a user who can't read our files
            fetch = f'set -- "$1" {wanted}\n{_text("fetch-packages")}'
            merged_usr = Path("/usr/share/mmdebstrap/hooks/merged-usr")
            command = [
                "mmdebstrap", "--variant=minbase", "--quiet",
                f"--include={','.join(self.device_packages)}",
                *([f"--hook-dir={merged_usr}"] if merged_usr.exists() else []),
                *(f"--aptopt={line}" for line in _acquire_options()),
                '--aptopt=APT::Install-Recommends "false"',
                "--dpkgopt=force-unsafe-io",
                "--dpkgopt=path-exclude=/usr/share/man/*",
                "--dpkgopt=path-exclude=/usr/share/doc/*",
                "--dpkgopt=path-include=/usr/share/doc/*/copyright",
                "--dpkgopt=path-exclude=/usr/share/locale/*",
                f"--customize-hook={fetch}",
                f"--customize-hook=tar-out /var/cache/site-packages {new_packages}",
                '--customize-hook=rm -rf "$1/var/cache/site-packages"',
                self.distribution.codename, str(new_root), *map(str, mirrors),
            ]  # fmt: skip
            result = subprocess.run(command, capture_output=True, text=True, errors="replace")
            if result.returncode:
                tail = "\n".join(result.stderr.strip().splitlines()[-15:])
                raise MusterError(f"mmdebstrap failed ({result.returncode}):\n{tail}")
            new_packages.replace(packages)
            new_root.replace(root)


def _acquire_options() -> list[str]:
    """How this machine's apt reaches its mirrors: proxies, certificates, credentials, checks."""
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True).stdout
    keys = ("http", "https", "check-valid-until", "check-date", "retries", "forceipv4", "forceipv6")
    options = [
        line.rstrip(";")
        for line in dump.splitlines()
        if line.lower().startswith(tuple(f"acquire::{key}" for key in keys))
        and not line.endswith(' "";')
    ]
    return [
        *options,
        'Dir::Etc::netrc "/etc/apt/auth.conf"',
        'Dir::Etc::netrcparts "/etc/apt/auth.conf.d"',
    ]


def _build(
    client: docker.DockerClient,
    tag: str,
    base: str,
    files: tuple[str, ...],
    packages: Path | None = None,
    vendor_packages: bytes | None = None,
) -> None:
    """Build ``tag`` from files of this package, the first one being the Dockerfile."""
    with tempfile.TemporaryFile() as context:
        with tarfile.open(fileobj=context, mode="w") as archive:
            for name in files:
                content = _text(name).encode()
                entry = tarfile.TarInfo("Dockerfile" if name == files[0] else name)
                entry.size, entry.mode = len(content), 0o755
                archive.addfile(entry, io.BytesIO(content))
            if packages is not None:
                archive.add(packages, "packages.tar")
            if vendor_packages is not None:
                entry = tarfile.TarInfo("stand-ins.tar")
                entry.size = len(vendor_packages)
                archive.addfile(entry, io.BytesIO(vendor_packages))
        context.seek(0)
        try:
            client.images.build(
                fileobj=context,
                custom_context=True,
                tag=tag,
                buildargs={"BASE": base},
                network_mode="none",
                rm=True,
                forcerm=True,
            )
        except BuildError as error:
            log = "".join(str(part.get("stream", "")) for part in error.build_log)
            raise MusterError(f"building {tag} failed: {error}\n{log[-3000:]}") from error


def _present(client: docker.DockerClient, image: str) -> bool:
    try:
        client.images.get(image)
    except ImageNotFound:
        return False
    return True


def _text(name: str) -> str:
    return (resources.files(__package__) / "image" / name).read_text(encoding="utf-8")


def _hash(*parts: Any) -> str:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:12]
