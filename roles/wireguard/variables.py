"""Inputs of the role wireguard."""

from __future__ import annotations

import base64
import binascii
import difflib
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)

from muster.fields import Duration
from roles.networks import InterfaceAddress, Network
from roles.secrets import SecretText
from roles.variables import OpenPort, RoleVariables, variable

_KEY_BYTES = 32


def _is_key(value: str | None) -> str | None:
    # What was got is never part of the message: it may be a secret.
    if value is not None:
        try:
            length = len(base64.b64decode(value, validate=True))
        except (binascii.Error, ValueError):
            length = 0
        if length != _KEY_BYTES:
            raise ValueError(
                "expected a key as `wg genkey` or `wg pubkey` writes it, got another text"
            )
    return value


def _is_given(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError("expected a key as `wg pubkey` writes it, got something else")
    return value


PublicKey = Annotated[str, BeforeValidator(_is_given), AfterValidator(_is_key)]
SecretKey = Annotated[SecretText, AfterValidator(_is_key)]
Endpoint = Annotated[
    str, StringConstraints(pattern=r"^([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}$")
]
InterfaceName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_.-]{0,13}$")]


class Peer(BaseModel):
    """The other end of a link."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    public_key: PublicKey
    endpoint: Endpoint | None = None
    allowed_ips: Annotated[list[Network], Field(min_length=1)]
    keepalive: Annotated[Duration, Field(le=65535)] = 25
    preshared_key: SecretKey = None
    name: Annotated[str, StringConstraints(pattern=r"^[^\n]*$")] = ""

    @model_validator(mode="before")
    @classmethod
    def _has_known_keys(cls, value: Any) -> Any:
        # pydantic would tell the value of an unknown key, which may be a secret
        if isinstance(value, dict):
            known = list(cls.model_fields)
            for key in value:
                if key not in known:
                    close = difflib.get_close_matches(str(key), known, n=1)
                    hint = f", did you mean {close[0]}?" if close else ""
                    raise ValueError(
                        f"expected {', '.join(known)}, got the unknown key {key}{hint}"
                    )
        return value


class Variables(RoleVariables):
    """The link between a device and its site."""

    switch: ClassVar[str | None] = "wireguard_enabled"

    wireguard_enabled: bool = variable(False, "whether the device has a link of WireGuard")
    wireguard_interface: InterfaceName = variable("wg0", "name of the interface")
    wireguard_addresses: Annotated[list[InterfaceAddress], Field(min_length=1)] = variable(
        ...,
        "addresses of the device on the link, each with the length of its network",
        shown_type="list of addresses",
    )
    wireguard_peers: Annotated[list[Peer], Field(min_length=1)] = variable(
        ...,
        "other ends of the link; `keepalive` is 25 seconds unless given, 0 for none",
        shown_type="list of `{public_key, endpoint, allowed_ips, keepalive, preshared_key, name}`",
    )
    wireguard_listen_port: Annotated[int, Field(ge=1, le=65535)] | None = variable(
        None, "UDP port, a free one if null; a device that is called needs one", shown_type="port"
    )
    wireguard_mtu: Annotated[int, Field(ge=1280, le=9200)] | None = variable(
        None, "largest packet, found out by itself if null", unit="bytes", shown_type="whole number"
    )
    wireguard_private_key_from: Literal["device", "inventory"] = variable(
        "device",
        "where the private key comes from; one that the device makes never leaves it",
        shown_type="`device` or `inventory`",
    )
    wireguard_private_key: SecretKey = variable(
        None, "the private key, from a vault, where it comes from the inventory", shown_type="text"
    )
    wireguard_userspace: bool = variable(
        False, "install WireGuard in user space, for a kernel that has none (it is slower)"
    )

    @field_validator("wireguard_private_key")
    @classmethod
    def _comes_from_one_place(cls, value: str | None, info: ValidationInfo) -> str | None:
        source = info.data.get("wireguard_private_key_from")
        if source == "inventory" and value is None:
            raise ValueError(
                "expected a private key, as wireguard_private_key_from is inventory, got nothing"
            )
        if source == "device" and value is not None:
            raise ValueError(
                "expected no private key, as wireguard_private_key_from is device, got one"
            )
        return value

    @field_validator("wireguard_peers")
    @classmethod
    def _differ(cls, value: list[Peer]) -> list[Peer]:
        keys = [peer.public_key for peer in value]
        for key in keys:
            if keys.count(key) > 1:
                raise ValueError(f"expected each peer once, got {key} several times")
        return value

    def opens(self) -> tuple[OpenPort, ...]:
        """Open the port at which the device is called, if it is."""
        port = self.wireguard_listen_port
        return (OpenPort(port, "udp", "site link"),) if port else ()
