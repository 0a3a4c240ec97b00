"""The fleet document: what an emulated fleet is made of, read from ``fleet.yml``."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StringConstraints, field_validator, model_validator

from muster.emulator.architecture import Architecture
from muster.emulator.hardware import PROFILES
from muster.fields import Document, Location, Problems, Size, Strict, describe

MINIMUM_DISK = 64 << 20
"""Bytes below which a filesystem holds no container image worth the name."""

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,46}[a-z0-9])?$")]
GroupName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,40}$")]


class Site(Strict):
    """One place with devices on one network."""

    subnet: str | None = None
    """IPv4 network of the site; a free one is chosen when not given."""

    @field_validator("subnet")
    @classmethod
    def _is_network(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            network = ipaddress.IPv4Network(value)
        except ValueError:
            network = None
        if network is None or network.prefixlen > 28:
            raise ValueError(
                "expected an IPv4 network of 16 addresses or more such as 10.20.30.0/24, "
                f"got {describe(value)}"
            )
        return str(network)


class EmulatedDevice(Strict):
    """One device."""

    site: str
    """Key of ``sites``."""
    hardware: str
    """Name of a hardware profile: what the detection of hardware finds in the device."""
    architecture: Architecture | None = None
    """Of the programs on it; the machine's own when not given. The machine has to run those of
    another one by emulation."""
    memory: Size = 1 << 30
    """Limit of the device with everything that runs inside it."""
    cpus: Annotated[float, Field(gt=0)] | None = None
    """Limit in CPUs; unlimited when not given."""
    disk: Size | None = None
    """Size of the filesystem with the container runtime's data; without it that data lies on this
    machine's own disk and can't be filled up."""
    image: str | None = None
    """Docker image to run in place of the usual one, which it must be built from."""
    groups: tuple[GroupName, ...] = ()
    """Further inventory groups."""
    variables: dict[str, Any] = Field(default_factory=dict)
    """Further host variables."""

    @field_validator("hardware")
    @classmethod
    def _is_known(cls, value: str) -> str:
        if value not in PROFILES:
            known = ", ".join(sorted(PROFILES))
            raise ValueError(f"expected one of {known}, got {describe(value)}")
        return value

    @field_validator("disk")
    @classmethod
    def _is_usable(cls, value: int | None) -> int | None:
        if value is not None and value < MINIMUM_DISK:
            raise ValueError(f"expected at least 64MiB, got {value} bytes")
        return value


def _allow_empty_sites(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: {} if site is None else site for key, site in value.items()}
    return value


class FleetDocument(Document):
    """An emulated fleet."""

    kind: Literal["Fleet"] = "Fleet"
    """Kind of document."""
    name: Name
    """Prefix of everything that the fleet makes in the Docker engine."""
    sites: Annotated[
        dict[GroupName, Site], BeforeValidator(_allow_empty_sites), Field(min_length=1)
    ]
    """Sites by name; each becomes an inventory group ``site_<name>``."""
    devices: Annotated[dict[Name, EmulatedDevice], Field(min_length=1)]
    """Devices by name."""

    @model_validator(mode="after")
    def _fits_together(self) -> FleetDocument:
        problems: list[tuple[Location, str]] = [
            (
                ("devices", name, "site"),
                f"expected one of {', '.join(self.sites)}, got {describe(device.site)}",
            )
            for name, device in self.devices.items()
            if device.site not in self.sites
        ]
        if "registry" in self.devices:
            text = "expected another name, as the registry itself is called so"
            problems.append((("devices", "registry"), text))
        if problems:
            raise Problems(problems)
        return self

    @property
    def architectures(self) -> dict[str, str]:
        """Architecture by device, of those devices that name one."""
        named = {name: device.architecture for name, device in self.devices.items()}
        return {name: architecture for name, architecture in named.items() if architecture}

    def site_devices(self, site: str) -> list[str]:
        """Names of the devices of one site, in the document's order."""
        return [name for name, device in self.devices.items() if device.site == site]
