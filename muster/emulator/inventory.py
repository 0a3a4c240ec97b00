"""What an emulated fleet writes for its users: an Ansible inventory and the host keys."""

from __future__ import annotations

import hashlib
import os
import shlex
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from muster.emulator.document import FleetDocument
from muster.emulator.hardware import HARDWARE_ROOT, PROFILES
from muster.errors import MusterError

REGISTRY = "registry:5000"
"""Address of a site's registry, as its devices see it."""

RUNTIMES = ("docker", "podman", "containerd", "k3s")
"""Container runtimes, which are all told to trust it."""

VENDOR_KEY = "vendor-packages.asc"
"""File with the key of the repository that stands in for those of vendors."""

_SOCKET_NAME_LENGTH = 40 + 1 + 17  # %C, and what ssh appends while it binds
_SOCKET_PATH_LIMIT = 107


def control_folder(inventory_dir: Path) -> Path:
    """Folder for the sockets of shared SSH connections: short, as a socket's path is limited."""
    name = "muster-" + hashlib.sha256(str(inventory_dir).encode()).hexdigest()[:10]
    bases = [os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"]  # noqa: S108
    for base in bases:
        folder = Path(base or "/nonexistent") / name
        length = len(str(folder)) + 1 + _SOCKET_NAME_LENGTH
        if length <= _SOCKET_PATH_LIMIT and folder.parent.is_dir():
            return folder
    raise MusterError("found no folder with a path short enough for the sockets of ssh")


def make_control_folder(folder: Path) -> None:
    """Make the folder, for its owner alone.

    :raises MusterError: when somebody else made it.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if status.st_uid != os.geteuid() or folder.is_symlink():
        raise MusterError(f"{folder} belongs to somebody else")
    folder.chmod(0o700)


def ssh_arguments(state: Path, sockets: Path | None) -> list[str]:
    """Options of ``ssh`` that pin the host keys of a fleet.

    :param sockets: folder for shared connections; every connection is its own when not given.
    """
    options = {
        "UserKnownHostsFile": str(state / "known_hosts"),
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "IdentitiesOnly": "yes",
        "ServerAliveInterval": "3",
        "ServerAliveCountMax": "3",
    }
    if sockets is None:
        options["ControlPath"] = "none"
    else:
        options |= {
            "ControlMaster": "auto",
            "ControlPersist": "60s",
            "ControlPath": str(sockets / "%C"),
        }
    return [part for key, value in options.items() for part in ("-o", f"{key}={value}")]


def render_known_hosts(addresses: Mapping[str, str], host_keys: Mapping[str, str]) -> str:
    """One line for each device: its name and address, and its key."""
    return "".join(f"{name},{addresses[name]} {host_keys[name]}\n" for name in addresses)


def render_inventory(
    document: FleetDocument, addresses: Mapping[str, str], state: Path, sockets: Path
) -> dict[str, Any]:
    """The inventory as Ansible's YAML plugin reads it.

    :param addresses: IPv4 address of every device.
    :param state: folder with the keys of the fleet.
    """
    ca = str(state / "ca.pem")
    sites: dict[str, Any] = {
        f"site_{site}": {
            "hosts": {},
            "vars": {
                "muster_registry": REGISTRY,
                **{f"{runtime}_registry_cas": {REGISTRY: ca} for runtime in RUNTIMES},
            },
        }
        for site in document.sites
    }
    groups: dict[str, Any] = {}
    for name, device in document.devices.items():
        sites[f"site_{device.site}"]["hosts"][name] = {
            "ansible_host": addresses[name],
            **device.variables,
        }
        for group in (PROFILES[device.hardware].group, *device.groups):
            groups.setdefault(group, {"hosts": {}})["hosts"][name] = {}
    return {
        "all": {
            "vars": {
                "ansible_user": "ops",
                "ansible_port": 22,
                "ansible_become": True,
                "ansible_python_interpreter": "/usr/bin/python3",
                "ansible_ssh_private_key_file": str(state / "id_ed25519"),
                "ansible_ssh_common_args": shlex.join(ssh_arguments(state, sockets)),
                "muster_device_hardware_root": HARDWARE_ROOT,
                "accelerator_apt_repositories": [
                    {
                        "name": "stand-ins",
                        "uri": "http://registry:8080/vendor/",
                        "suite": "./",
                        "key": str(state / VENDOR_KEY),
                    }
                ],
                "nvidia_driver_packages": {"nvidia-utils-535-server": None},
            },
            "children": {**sites, **groups},
        }
    }
