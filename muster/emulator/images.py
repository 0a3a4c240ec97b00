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
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

import docker
from docker.errors import BuildError, ImageNotFound

from muster import paths
from muster.emulator import stand_ins
from muster.emulator.architecture import MACHINES
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
_FOREIGN_DEVICE_FILES = (
    "foreign-device.Dockerfile", "foreign-setup", "foreign-services.conf", *_DEVICE_FILES[1:],
)  # fmt: skip
_FOREIGN_REGISTRY_FILES = ("foreign-registry.Dockerfile",)
_REGISTRY_FILES = ("registry.Dockerfile", "registry.yml", "registry-start", "sign-packages")

Report = Callable[[str], None]


@dataclass(frozen=True)
class Images:
    """Names of the images that a fleet runs.

    :param foreign: images of devices of other architectures than the machine's, by architecture.
    """

    device: str
    registry: str
    foreign: Mapping[str, str] = field(default_factory=dict)


def ensure_images(
    client: docker.DockerClient, report: Report, foreign: Sequence[str] = ()
) -> Images:
    """Make or load whatever images are missing. One process at a time does so.

    :param report: called with what happens next, for people.
    :param foreign: architectures other than the machine's that devices need.
    :raises MusterError: when a tool is missing or a build fails.
    """
    recipe = _Recipe.of_this_machine()
    images = _ensure_own(client, report, recipe)
    for architecture in foreign:
        images = _ensure_foreign(client, report, recipe, images, architecture)
    return images


def _ensure_own(client: docker.DockerClient, report: Report, recipe: _Recipe) -> Images:
    images = Images(f"muster-device:{recipe.device_key}", f"muster-registry:{recipe.registry_key}")
    if image_present(client, images.device) and image_present(client, images.registry):
        return images

    with _one_at_a_time(report):
        base, packages = _ensure_base(client, report, recipe)
        if not image_present(client, images.device):
            report("building the device image")
            _build(client, images.device, {"BASE": base}, _DEVICE_FILES)
        if not image_present(client, images.registry):
            report("building the registry image")
            arguments = {"BASE": base}
            _build(
                client, images.registry, arguments, _REGISTRY_FILES, packages, stand_ins.archive()
            )
    return images


def _ensure_foreign(
    client: docker.DockerClient, report: Report, own: _Recipe, images: Images, architecture: str
) -> Images:
    """Add the devices of another architecture, and their packages in the registry."""
    recipe = replace(own, machine=MACHINES[architecture])
    files = _FOREIGN_DEVICE_FILES
    device = f"muster-device:{_hash(own.base_key, recipe.base_key, *map(_text, files))}"
    parts = (images.registry, recipe.base_key, *map(_text, _FOREIGN_REGISTRY_FILES))
    registry = f"muster-registry:{_hash(*parts)}"
    if not (image_present(client, device) and image_present(client, registry)):
        with _one_at_a_time(report):
            own_base, _ = _ensure_base(client, report, own)
            base, packages = _ensure_base(client, report, recipe)
            arguments = {"BASE": base, "OWN": own_base, "ARCHITECTURE": architecture}
            if not image_present(client, device):
                report(f"building the device image for {architecture}")
                _build(client, device, arguments, files)
            if not image_present(client, registry):
                report(f"building the registry image with packages for {architecture}")
                arguments = {"BASE": images.registry, "ARCHITECTURE": architecture}
                _build(client, registry, arguments, _FOREIGN_REGISTRY_FILES, packages)
    return Images(images.device, registry, {**images.foreign, architecture: device})


def _one_at_a_time(report: Report) -> AbstractContextManager[None]:
    def waiting() -> None:
        report("waiting for another process that makes the images")

    return locked(paths.cache_dir() / "images" / "lock", waiting)


def _ensure_base(client: docker.DockerClient, report: Report, recipe: _Recipe) -> tuple[str, Path]:
    """The base image of a recipe, and the tar of the packages that belong to it."""
    cache, base = paths.cache_dir() / "images", f"muster-base:{recipe.base_key}"
    root, packages = (cache / f"{recipe.base_key}.{part}.tar" for part in ("root", "packages"))
    if not (root.exists() and packages.exists()):
        what = "" if recipe.is_own else f" of {recipe.architecture}, by emulation"
        report(f"making the base image{what} from this machine's package mirror (minutes)")
        recipe.run_mmdebstrap(root, packages)
    if not image_present(client, base):
        report("loading the base image")
        name, tag = base.split(":")
        client.api.import_image_from_file(str(root), repository=name, tag=tag)
    return base, packages


@dataclass(frozen=True)
class _Recipe:
    distribution: Distribution
    lines: tuple[str, ...]
    stanzas: tuple[str, ...]
    machine: str = field(default_factory=platform.machine)

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
    def is_own(self) -> bool:
        """Whether this is for the machine's own architecture."""
        return self.machine == platform.machine()

    @property
    def architecture(self) -> str:
        """Architecture as packages spell it."""
        return next(name for name, machine in MACHINES.items() if machine == self.machine)

    @property
    def device_packages(self) -> tuple[str, ...]:
        extra = ("docker-cli",) if self.distribution.has_docker_cli else ()
        return DEVICE_PACKAGES + extra

    @property
    def base_key(self) -> str:
        parts = (
            self.distribution, self.machine, self.lines, self.stanzas,
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
                *([] if self.is_own else [f"--architectures={self.architecture}"]),
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
    arguments: Mapping[str, str],
    files: tuple[str, ...],
    packages: Path | None = None,
    vendor_packages: bytes | None = None,
) -> None:
    """Build ``tag`` from files of this package, the first one being the Dockerfile.

    :param arguments: of the build, such as the image that it starts from.
    """
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
                buildargs=dict(arguments),
                network_mode="none",
                rm=True,
                forcerm=True,
            )
        except BuildError as error:
            log = "".join(str(part.get("stream", "")) for part in error.build_log)
            raise MusterError(f"building {tag} failed: {error}\n{log[-3000:]}") from error


def image_present(client: docker.DockerClient, image: str) -> bool:
    """Whether the Docker engine has an image."""
    try:
        client.images.get(image)
    except ImageNotFound:
        return False
    return True


def _text(name: str) -> str:
    return (resources.files(__package__) / "image" / name).read_text(encoding="utf-8")


def _hash(*parts: Any) -> str:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:12]
