"""Inputs of the role hub."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from muster.fields import PositiveDuration, Problems, Size, describe
from roles.networks import Network
from roles.secrets import CertificateFile, KeyFile, SecretFile, SecretText
from roles.variables import HostPort, OpenPort, PackageName, RoleVariables, variable

Address = Annotated[str, StringConstraints(pattern=r"^[0-9A-Fa-f.:]+$")]
ClientId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:@-]{1,200}$")]
UserName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._@-]{1,100}$")]
Prefix = Annotated[str, StringConstraints(pattern=r"^([^\s#+$]+/)?$")]


def _topic(value: Any) -> str:
    """Check a topic filter: `+` and `#` stand for whole levels, and nothing comes after `#`."""
    levels = value.split("/") if isinstance(value, str) else []
    whole = all(level in ("+", "#") or not set(level) & set("+#") for level in levels)
    plain = value.isprintable() and " " not in value and len(value) < 1000 if levels else False
    if not (plain and whole and value and value[0] != "$" and "#" not in levels[:-1]):
        raise ValueError(f"expected a topic filter such as telemetry/#, got {describe(value)}")
    return str(value)


Topic = Annotated[str, BeforeValidator(_topic)]
_KNOWN_USER = frozenset({"password", "password_file", "read", "write"})


class Listener(BaseModel):
    """Where the broker takes connections."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    address: Address = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 1883
    tls: bool = False
    client_certificates: bool = False
    sources: tuple[Network, ...] = ()

    @property
    def is_local(self) -> bool:
        """Whether only the device itself reaches it."""
        return ipaddress.ip_address(self.address).is_loopback

    @model_validator(mode="after")
    def _fits_together(self) -> Listener:
        try:
            ipaddress.ip_address(self.address)
        except ValueError:
            raise ValueError(f"expected an IP address, got {self.address!r}") from None
        if self.client_certificates and not self.tls:
            raise ValueError("expected client_certificates only together with tls, got no tls")
        return self


class User(BaseModel):
    """Somebody who may connect, with the topics that he may read and write."""

    model_config = ConfigDict(frozen=True)

    password: SecretText = None
    password_file: SecretFile = None
    read: tuple[Topic, ...] = ("#",)
    write: tuple[Topic, ...] = ("#",)

    @model_validator(mode="before")
    @classmethod
    def _knows(cls, value: Any) -> Any:
        # by hand: pydantic would tell the value of an unknown key, which may be a password
        if not isinstance(value, dict):
            raise ValueError("expected a mapping with password or password_file, got no mapping")
        if unknown := sorted(set(map(str, value)) - _KNOWN_USER):
            known = ", ".join(sorted(_KNOWN_USER))
            raise ValueError(f"expected only {known}, got {unknown[0]!r}")
        if (value.get("password") is None) == (value.get("password_file") is None):
            raise ValueError("expected either password or password_file, got both or none")
        return value


class Variables(RoleVariables):
    """The message broker of a device, and its bridge to that of the site or the cloud."""

    switch: ClassVar[str | None] = "hub_enabled"

    hub_enabled: bool = variable(False, "whether the device gets a message broker")
    hub_packages: Annotated[list[PackageName], Field(min_length=1)] = variable(
        ["mosquitto"], "packages that bring mosquitto 2.0 or newer", shown_type="list of names"
    )
    hub_listeners: Annotated[list[Listener], Field(min_length=1)] = variable(
        [{"address": "127.0.0.1", "port": 1883}],
        "where the broker takes connections; for containers also the address of their bridge, such"
        " as `172.17.0.1`. `sources`: networks that the firewall lets in, all if not given",
        shown_type="list of `{address, port, tls, client_certificates, sources}`",
    )
    hub_certificate: CertificateFile = variable(
        None, "certificate of listeners with `tls`: file on the controller", shown_type="path"
    )
    hub_key: KeyFile = variable(
        None, "key of that certificate: file on the controller", shown_type="path"
    )
    hub_client_ca: CertificateFile = variable(
        None,
        "CA of clients, for listeners with `client_certificates`: file on the controller",
        shown_type="path",
    )
    hub_users: dict[UserName, User] = variable(
        {},
        "who may connect; without any, whoever is on the device",
        shown_type="mapping of name to `{password or password_file, read, write}`",
    )
    hub_allow_anonymous: bool = variable(
        False, "whether everybody may connect, without `hub_users`, over the network too"
    )
    hub_upstream: HostPort | None = variable(
        None, "broker to bridge to, none if null", shown_type="`host:port`"
    )
    hub_upstream_tls: bool = variable(True, "whether the bridge speaks TLS")
    hub_upstream_ca: CertificateFile = variable(
        None,
        "CA of the upstream broker: file on the controller; the system's CAs if null",
        shown_type="path",
    )
    hub_upstream_certificate: CertificateFile = variable(
        None, "certificate that the bridge shows: file on the controller", shown_type="path"
    )
    hub_upstream_key: KeyFile = variable(
        None, "key of that certificate: file on the controller", shown_type="path"
    )
    hub_upstream_user: UserName | None = variable(
        None, "name with which the bridge logs in", shown_type="text"
    )
    hub_upstream_password: SecretText = variable(
        None, "its password, from a vault", shown_type="text"
    )
    hub_upstream_password_file: SecretFile = variable(
        None, "file on the controller with its password instead", shown_type="path"
    )
    hub_upstream_client_id: ClientId | None = variable(
        None,
        "name of the bridge's session at the upstream broker, unique there; the device's name if"
        " null",
        shown_type="text",
    )
    hub_upstream_prefix: Prefix = variable(
        "", "put in front of every topic at the upstream broker; ends with `/`"
    )
    hub_topics_out: list[Topic] = variable(
        [], "topics whose messages go upstream", shown_type="list of topic filters"
    )
    hub_topics_in: list[Topic] = variable(
        [], "topics whose messages come from upstream", shown_type="list of topic filters"
    )
    hub_keepalive: PositiveDuration = variable(
        "10s",
        "silence after which a side asks whether the other one is there; 5 s or more",
        unit="seconds",
        shown_type="duration",
    )
    hub_max_queued_messages: Annotated[int, Field(ge=1, le=10_000_000)] = variable(
        100_000,
        "messages that wait for each client that is away, the bridge too; what comes then is lost",
    )
    hub_max_queued_size: Size = variable(
        "64MiB", "size of these messages; the first limit counts", unit="bytes", shown_type="size"
    )
    hub_session_expiry: PositiveDuration = variable(
        "30d",
        "time after which the broker forgets a client that did not come back",
        unit="seconds",
        shown_type="duration",
    )
    hub_save_changes: Annotated[int, Field(ge=1)] = variable(
        1, "changes after which all that waits is written to disk; a power cut loses fewer"
    )
    hub_start_timeout: PositiveDuration = variable(
        "30s",
        "time in which the broker must answer after a restart, else the former configuration is put"
        " back",
        unit="seconds",
        shown_type="duration",
    )

    def opens(self) -> tuple[OpenPort, ...]:
        """The listeners that others reach."""
        return tuple(
            OpenPort(listener.port, "tcp", "message broker", listener.sources)
            for listener in self.hub_listeners
            if not listener.is_local
        )

    @model_validator(mode="after")
    def _fits_together(self) -> Variables:
        if problems := [*self._listener_problems(), *self._upstream_problems()]:
            raise Problems([((name,), text) for name, text in problems])
        return self

    def _listener_problems(self) -> Iterator[tuple[str, str]]:
        places = [(listener.address, listener.port) for listener in self.hub_listeners]
        if len(set(places)) != len(places):
            yield "hub_listeners", "expected each address and port once, got one again"
        tls = any(listener.tls for listener in self.hub_listeners)
        for name in ("hub_certificate", "hub_key"):
            if tls and getattr(self, name) is None:
                yield name, "expected a file for the listeners with tls, got nothing"
            if not tls and getattr(self, name) is not None:
                yield name, "expected a listener with tls for it, got none"
        wanted = any(listener.client_certificates for listener in self.hub_listeners)
        if wanted and self.hub_client_ca is None:
            yield "hub_client_ca", "expected a file for client_certificates, got nothing"

        if self.hub_users and self.hub_allow_anonymous:
            yield "hub_allow_anonymous", "expected false with hub_users, got true"
        is_open = any(
            not each.is_local and not each.client_certificates for each in self.hub_listeners
        )
        if is_open and not self.hub_users and not self.hub_allow_anonymous:
            text = (
                "expected users (or hub_allow_anonymous) for a listener that others reach, got none"
            )
            yield "hub_users", text

    def _upstream_problems(self) -> Iterator[tuple[str, str]]:
        password, file = self.hub_upstream_password, self.hub_upstream_password_file
        certificate, key = self.hub_upstream_certificate, self.hub_upstream_key
        if self.hub_upstream is None:
            given = ("ca", "certificate", "key", "user", "password", "password_file")
            names = [f"hub_upstream_{name}" for name in given]
            for name in (*names, "hub_topics_out", "hub_topics_in"):
                if getattr(self, name):
                    yield name, "expected hub_upstream with it, got no hub_upstream"
            return
        if not self.hub_topics_out and not self.hub_topics_in:
            yield "hub_topics_out", "expected topics for the bridge, got none"
        if both := sorted({*self.hub_topics_out} & {*self.hub_topics_in}):
            yield "hub_topics_in", f"expected no topic in both directions, got {both[0]!r}"
        if (certificate is None) != (key is None):
            yield "hub_upstream_key", "expected certificate and key together, got one of them"
        if password is not None and file is not None:
            yield "hub_upstream_password", "expected it or a file, got both"
        if (self.hub_upstream_user is None) != (password is None and file is None):
            yield "hub_upstream_user", "expected user and password together, got one of them"
        if not self.hub_upstream_tls and (self.hub_upstream_ca or certificate):
            yield "hub_upstream_tls", "expected true with certificates, got false"
