"""Inputs of the role firewall."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from muster.fields import Duration
from roles.networks import Network
from roles.variables import RoleVariables, variable

InterfaceName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,14}[A-Za-z0-9_*]$")]


class AllowedPort(BaseModel):
    """A port that is open beside those of the roles."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    port: Annotated[int, Field(ge=1, le=65535)]
    protocol: Literal["tcp", "udp"] = "tcp"
    sources: tuple[Network, ...] = ()
    why: Annotated[str, StringConstraints(pattern=r'^[^\n"]*$')] = ""


class Variables(RoleVariables):
    """Which ports of a device others may reach."""

    switch: ClassVar[str | None] = "firewall_enabled"

    firewall_enabled: bool = variable(False, "whether the device has a firewall of ours")
    firewall_allow: list[AllowedPort] = variable(
        [],
        "ports that are open beside those of the device's roles and SSH, for example those of the"
        " models; `sources` are networks, everybody if there are none",
        shown_type="list of `{port, protocol, sources, why}`",
    )
    firewall_ssh_sources: list[Network] = variable(
        [],
        "networks from which SSH is reached, everybody if empty; where the controller connects from"
        " has to be among them",
        shown_type="list of networks",
    )
    firewall_trusted_interfaces: list[InterfaceName] = variable(
        [],
        "interfaces from which everything is reached, for example a network between a site's"
        " devices; `*` at the end stands for any",
        shown_type="list of names",
    )
    firewall_containers: bool = variable(
        True, "whether ports that containers publish are closed too, unless they are opened here"
    )
    firewall_ping: bool = variable(True, "whether the device answers to ping")
    firewall_log: bool = variable(
        False, "whether refused connections are logged, at most 10 a minute"
    )
    firewall_confirm_within: Annotated[Duration, Field(ge=20)] = variable(
        "60s",
        "time in which the controller has to connect anew after a change, else the device takes the"
        " former rules back",
        unit="seconds",
        shown_type="duration",
    )
