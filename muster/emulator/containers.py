"""Devices and the registry as containers: the settings that make a container behave as a host."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import docker

from muster.emulator.hardware import PROFILES

STORE = "/var/lib/emulated"
"""Folder in a device, on a volume of its own, that survives everything but ``down``."""

_OPS_UID = 1000


class File(NamedTuple):
    """A file to put into a container before it starts."""

    content: bytes
    mode: int = 0o644
    uid: int = 0


@dataclass(frozen=True)
class DeviceSpec:
    """Everything that a device is made of; a change of any part makes a new device."""

    name: str
    container: str
    image: str
    network: str
    address: str
    memory: int
    cpus: float | None
    disk: int | None
    hardware: str
    host_key: str
    client_key: str

    @property
    def digest(self) -> str:
        """Tells one spec from another."""
        return spec_digest(asdict(self) | {"files": PROFILES[self.hardware].all_files()})


def spec_digest(content: Mapping[str, Any]) -> str:
    """Short hash of plain data."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def create_device(
    client: docker.DockerClient, spec: DeviceSpec, host_key_pem: bytes, labels: Mapping[str, str]
) -> Any:
    """Make the container of a device, ready to be started.

    ``--privileged`` asks for every capability and fails where the machine lacks one; this is what a
    host with systemd and a nested container runtime needs of it.
    """
    api: Any = client.api  # its type hints know neither these networks nor all of the settings
    host_config = api.create_host_config(
        cap_add=["ALL"],
        cap_drop=["SYS_RESOURCE"],
        security_opt=["seccomp=unconfined", "apparmor=unconfined"],
        device_cgroup_rules=["a *:* rwm"],
        tmpfs={"/run": "exec,mode=755", "/run/lock": "", "/tmp": "exec"},  # noqa: S108
        mem_limit=spec.memory,
        nano_cpus=int(spec.cpus * 1e9) if spec.cpus else None,
        network_mode=spec.network,
        restart_policy={"Name": "on-failure"},  # how systemd inside reboots
        binds={spec.container: {"bind": STORE, "mode": "rw"}},
    )
    # systempaths=unconfined is a spelling of the command line alone. The one path that stays
    # read-only would let a device stop the machine.
    host_config.update(
        CgroupnsMode="private", MaskedPaths=[], ReadonlyPaths=["/proc/sysrq-trigger"]
    )
    client.volumes.create(spec.container, labels=dict(labels))
    created = api.create_container(
        spec.image,
        hostname=spec.name,
        name=spec.container,
        labels=dict(labels),
        environment={"EMULATED_DISK": str(spec.disk or "")},
        host_config=host_config,
        networking_config=api.create_networking_config(
            {
                spec.network: api.create_endpoint_config(
                    ipv4_address=spec.address, aliases=[spec.name]
                )
            }
        ),
    )
    container = client.containers.get(created["Id"])
    files = {
        "/home/ops/.ssh/authorized_keys": File(f"{spec.client_key}\n".encode(), 0o600, _OPS_UID),
        "/etc/ssh/ssh_host_ed25519_key": File(host_key_pem, 0o600),
        "/etc/ssh/ssh_host_ed25519_key.pub": File(f"{spec.host_key}\n".encode()),
        "/etc/machine-id": File(f"{uuid.uuid4().hex}\n".encode(), 0o444),
    }
    for path, text in PROFILES[spec.hardware].all_files().items():
        files[path] = File(text.encode())
    container.put_archive("/", pack(files))
    return container


def create_registry(
    client: docker.DockerClient,
    *,
    container: str,
    image: str,
    addresses: Mapping[str, str],
    port: int,
    files: Mapping[str, File],
    labels: Mapping[str, str],
) -> Any:
    """Make the container of the registry and package mirror, ready to be started.

    :param addresses: its address in every network that it is attached to.
    :param port: port of this machine's loopback address; a fixed one, to keep it over a restart.
    """
    api: Any = client.api
    client.volumes.create(container, labels=dict(labels))
    (network, address), *others = addresses.items()
    created = api.create_container(
        image,
        hostname="registry",
        name=container,
        labels=dict(labels),
        ports=[5000],
        host_config=api.create_host_config(
            network_mode=network,
            restart_policy={"Name": "on-failure"},
            port_bindings={5000: ("127.0.0.1", port)},
            binds={container: {"bind": "/var/lib/registry", "mode": "rw"}},
        ),
        networking_config=api.create_networking_config(
            {network: api.create_endpoint_config(ipv4_address=address, aliases=["registry"])}
        ),
    )
    made = client.containers.get(created["Id"])
    made.put_archive("/", pack(files))
    for network, address in others:
        client.networks.get(network).connect(made, ipv4_address=address, aliases=["registry"])
    return made


def pack(files: Mapping[str, File]) -> bytes:
    """A tar archive of files. Folders above them come into being with the usual rights."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path, file in files.items():
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.size, entry.mode = len(file.content), file.mode
            entry.uid = entry.gid = file.uid
            archive.addfile(entry, io.BytesIO(file.content))
    return buffer.getvalue()


def address_of(container: Any, network: str) -> str:
    """IPv4 address that a container was given in a network, even while it is stopped."""
    endpoint = container.attrs["NetworkSettings"]["Networks"].get(network) or {}
    configured = (endpoint.get("IPAMConfig") or {}).get("IPv4Address")
    return str(configured or endpoint.get("IPAddress") or "")


def published_port(container: Any) -> int:
    """Port of this machine's loopback address that leads to the registry."""
    return int(container.attrs["HostConfig"]["PortBindings"]["5000/tcp"][0]["HostPort"])
