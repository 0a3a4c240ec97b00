"""What one fleet owns in the Docker engine, found by its labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, TypeVar

import docker
from docker.errors import APIError, DockerException, NotFound

from muster.emulator import network
from muster.emulator.document import Site
from muster.errors import InputError, MusterError

FLEET_LABEL = "muster.fleet"
DEVICE_LABEL = "muster.device"
OWNER_LABEL = "muster.inventory"
SPEC_LABEL = "muster.spec"
REGISTRY = "registry"
"""Name that stands for the registry where names of devices stand."""

_WORKERS = 4
_RACES = 20
"""How often a subnet may be taken by somebody else before this is reported."""

_T = TypeVar("_T")
_R = TypeVar("_R")


def parallel(action: Callable[[_T], _R], items: Iterable[_T]) -> list[_R]:
    """Do something for all items, a few at a time; results in the items' order."""
    with ThreadPoolExecutor(_WORKERS) as pool:
        return list(pool.map(action, items))


class Engine:
    """The part of the Docker engine that belongs to one fleet.

    :param name: name of the fleet.
    :param owner: folder of the inventory that the fleet is for.
    """

    def __init__(self, name: str, owner: Path) -> None:
        self.name = name
        self.owner = owner

    @cached_property
    def client(self) -> docker.DockerClient:
        """The Docker engine.

        :raises MusterError: when it does not answer.
        """
        try:
            client = docker.from_env(timeout=600)
            client.ping()
        except DockerException as error:
            raise MusterError(f"the Docker engine does not answer: {error}") from None
        return client

    @property
    def labels(self) -> dict[str, str]:
        """Labels of everything that the fleet makes."""
        return {FLEET_LABEL: self.name, OWNER_LABEL: str(self.owner)}

    def full_name(self, name: str) -> str:
        """Name in the Docker engine of a device, the registry or a site."""
        return f"{self.name}-{name}"

    def containers(self) -> dict[str, Any]:
        """Containers of the fleet, running or not, by the name of the device or ``registry``."""
        found = self.client.containers.list(all=True, filters=self._filter, ignore_removed=True)
        return {each.labels[DEVICE_LABEL]: each for each in found}

    def container(self, name: str) -> Any:
        """One container of the fleet.

        :raises InputError: when there is none of that name.
        """
        try:
            return self.client.containers.get(self.full_name(name))
        except NotFound:
            raise InputError(f"fleet {self.name} is not up or has no device {name}") from None

    def refuse_other_owner(self) -> None:
        """Keep two checkouts from working on one fleet.

        :raises InputError: when a fleet of this name is up for another, existing folder.
        """
        for container in self.containers().values():
            owner = container.labels.get(OWNER_LABEL, "")
            if owner != str(self.owner) and Path(owner).is_dir():
                raise InputError(
                    f"a fleet named {self.name} is up for {owner}: expected another --name, "
                    "or that one taken down"
                )

    def ensure_networks(self, sites: Mapping[str, Site]) -> dict[str, IPv4Network]:
        """Make one network for each site, and remove those of former sites.

        :returns: the subnet of each site.
        :raises MusterError: when a subnet can't be had.
        """
        existing = {each.name: each for each in self.client.networks.list(filters=self._filter)}
        subnets = {}
        for site, wanted in sites.items():
            found = existing.pop(self.full_name(site), None)
            subnet = _subnets(found)[0] if found else None
            if found and wanted.subnet and IPv4Network(wanted.subnet) != subnet:
                _remove_network(found)
                subnet = None
            subnets[site] = subnet or self._create_network(site, wanted.subnet)
        for leftover in existing.values():
            _remove_network(leftover)
        return subnets

    def _create_network(self, site: str, subnet: str | None) -> IPv4Network:
        name = self.full_name(site)
        if subnet:
            candidates: Iterable[IPv4Network] = [IPv4Network(subnet)]
        else:
            used = [net for each in self.client.networks.list() for net in _subnets(each)]
            candidates = network.free_subnets(name, used + network.host_routes())
        for attempt, candidate in enumerate(candidates):
            pool = docker.types.IPAMPool(subnet=str(candidate), gateway=str(candidate[1]))
            try:
                self.client.networks.create(
                    name,
                    driver="bridge",
                    labels=self.labels,
                    ipam=docker.types.IPAMConfig(pool_configs=[pool]),
                )
            except APIError as error:
                # another fleet may have taken it in between
                if subnet or attempt >= _RACES or "overlap" not in str(error).lower():
                    raise MusterError(f"network {name} {candidate}: {error.explanation}") from error
            else:
                return candidate
        raise MusterError(f"network {name}: no free subnet in {network.POOL}")

    def remove(self, container: Any) -> None:
        """Remove a container and its volume."""
        container.remove(force=True, v=True)
        try:
            self.client.volumes.get(container.name).remove(force=True)
        except NotFound:
            return

    def remove_everything(self) -> dict[str, int]:
        """Remove all containers, networks and volumes of the fleet.

        :returns: how many of each there were.
        """
        containers = self.containers()
        parallel(lambda each: each.remove(force=True, v=True), containers.values())
        networks = self.client.networks.list(filters=self._filter)
        for each in networks:
            _remove_network(each)
        volumes = self.client.volumes.list(filters=self._filter)
        for volume in volumes:
            volume.remove(force=True)
        return {
            "containers": len(containers),
            "networks": len(networks),
            "volumes": len(volumes),
        }

    @property
    def _filter(self) -> dict[str, Any]:
        return {"label": f"{FLEET_LABEL}={self.name}"}


def _subnets(found: Any) -> list[IPv4Network]:
    configs = (found.attrs.get("IPAM") or {}).get("Config") or []
    return [IPv4Network(each["Subnet"]) for each in configs if ":" not in each.get("Subnet", ":")]


def _remove_network(found: Any) -> None:
    found.reload()
    for identifier in found.attrs.get("Containers") or {}:
        found.disconnect(identifier, force=True)
    found.remove()
