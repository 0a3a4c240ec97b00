"""Makes the containers of a fleet what its document says; what fits already is kept."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from muster.emulator import faults, keys, network
from muster.emulator.containers import (
    DeviceSpec,
    File,
    address_of,
    create_device,
    create_registry,
    published_port,
    spec_digest,
)
from muster.emulator.document import FleetDocument
from muster.emulator.engine import DEVICE_LABEL, REGISTRY, SPEC_LABEL, Engine, parallel
from muster.emulator.images import Images, image_present
from muster.errors import InputError


@dataclass
class Outcome:
    """What was done. The lists hold names of devices, or ``registry``."""

    addresses: dict[str, str] = field(default_factory=dict)
    host_keys: dict[str, str] = field(default_factory=dict)
    created: list[str] = field(default_factory=list)
    started: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        """Whether anything was done at all."""
        return bool(self.created or self.started or self.removed)


def reconcile(engine: Engine, document: FleetDocument, images: Images, state: Path) -> Outcome:
    """Make networks, the registry and devices, start what is stopped, remove what is left over.

    :param state: folder with the keys of the fleet.
    :raises InputError: when a site's network is too small, or a device's own image is missing.
    """
    for name, device in document.devices.items():
        if device.image and not image_present(engine.client, device.image):
            raise InputError(
                f"devices.{name}.image: expected an image that the Docker engine has, "
                f"got {device.image}"
            )
    outcome = Outcome()
    present = engine.containers()
    outcome.removed = [name for name in present if name not in {*document.devices, REGISTRY}]
    parallel(lambda name: engine.remove(present.pop(name)), outcome.removed)
    subnets = engine.ensure_networks(document.sites)
    specs = _device_specs(engine, document, images, state, subnets, present)
    outcome.addresses = {spec.name: spec.address for spec in specs}
    outcome.host_keys = {spec.name: spec.host_key for spec in specs}

    done = {REGISTRY: _ensure_registry(engine, images, state, subnets, present.get(REGISTRY))}
    results = parallel(lambda spec: _ensure_device(engine, spec, state, present), specs)
    done.update(zip((spec.name for spec in specs), results, strict=True))
    for name, what in done.items():
        getattr(outcome, what).append(name)
    return outcome


def _device_specs(
    engine: Engine,
    document: FleetDocument,
    images: Images,
    state: Path,
    subnets: Mapping[str, IPv4Network],
    present: Mapping[str, Any],
) -> list[DeviceSpec]:
    addresses: dict[str, str] = {}
    for site, subnet in subnets.items():
        names = document.site_devices(site)
        known = {
            name: address_of(present[name], engine.full_name(site))
            for name in names
            if name in present
        }
        try:
            addresses |= network.assign_addresses(subnet, names, known)
        except ValueError as error:
            raise InputError(f"sites.{site}: {error}") from None
    client_key = keys.ensure_ssh_key(state / "id_ed25519")
    return [
        DeviceSpec(
            name=name,
            container=engine.full_name(name),
            image=device.image or images.foreign.get(device.architecture or "", images.device),
            network=engine.full_name(device.site),
            address=addresses[name],
            memory=device.memory,
            cpus=device.cpus,
            disk=device.disk,
            hardware=device.hardware,
            host_key=keys.ensure_ssh_key(_host_key(state, name)),
            client_key=client_key,
        )
        for name, device in document.devices.items()
    ]


def _host_key(state: Path, device: str) -> Path:
    return state / "host_keys" / device


def _ensure_device(
    engine: Engine, spec: DeviceSpec, state: Path, present: Mapping[str, Any]
) -> str:
    container = present.get(spec.name)
    if container is not None and container.labels.get(SPEC_LABEL) == spec.digest:
        return _ensure_running(container)
    if container is not None:
        engine.remove(container)
    labels = {**engine.labels, DEVICE_LABEL: spec.name, SPEC_LABEL: spec.digest}
    create_device(engine.client, spec, _host_key(state, spec.name).read_bytes(), labels).start()
    return "created"


def _ensure_running(container: Any) -> str:
    if faults.is_running(container):
        return "kept"
    container.start()
    return "started"


def _ensure_registry(
    engine: Engine,
    images: Images,
    state: Path,
    subnets: Mapping[str, IPv4Network],
    container: Any | None,
) -> str:
    keys.ensure_registry_certificate(state, engine.name)
    files = {
        f"/etc/registry/{name}": File((state / name).read_bytes(), 0o600)
        for name in ("registry.pem", "registry.key")
    }
    addresses = {
        engine.full_name(site): str(subnet[network.REGISTRY_HOST])
        for site, subnet in subnets.items()
    }
    digest = spec_digest(
        {
            "image": images.registry,
            "addresses": addresses,
            "files": {path: file.content.hex() for path, file in files.items()},
        }
    )
    if container is not None and container.labels.get(SPEC_LABEL) == digest:
        return _ensure_running(container)
    port = published_port(container) if container is not None else _free_port()
    if container is not None:
        container.remove(force=True)  # what it stores is on its volume, and stays
    create_registry(
        engine.client,
        container=engine.full_name(REGISTRY),
        image=images.registry,
        addresses=addresses,
        port=port,
        files=files,
        labels={**engine.labels, DEVICE_LABEL: REGISTRY, SPEC_LABEL: digest},
    ).start()
    return "created"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
