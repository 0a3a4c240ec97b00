"""Inputs of the role prometheus."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, StringConstraints, field_validator, model_validator

from muster.fields import Duration, PositiveDuration, Problems, Size, describe
from roles.networks import Network
from roles.secrets import CertificateFile, KeyFile, SecretFile, SecretText
from roles.variables import OpenPort, PackageName, RoleVariables, variable
from roles.web_config import BcryptHash, UserName

Address = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.:-]+$")]
Port = Annotated[int, Field(ge=1, le=65535)]
SiteName = Annotated[str, StringConstraints(pattern=r"^site_[A-Za-z0-9_]+$")]
SecretName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]{0,60}$")]
RequiredSecret = Annotated[
    SecretText, BeforeValidator(lambda value: "" if value is None else value)
]

_SECRETS = frozenset(
    {
        "api_key", "api_secret", "api_url", "auth_password", "auth_secret", "bot_token",
        "credentials", "password", "routing_key", "secret_key", "service_key", "token", "user_key",
        "webhook_url", "client_secret",
    }
)  # fmt: skip
"""Keys of Alertmanager's receivers that hold a secret; each has a sibling ending in ``_file``."""


def _inline_secret(value: Any, path: str = "") -> str | None:
    """Where a secret stands in a receiver, None if nowhere."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            place = f"{path}.{key}" if path else str(key)
            if key in _SECRETS and isinstance(each, str):
                return place
            if found := _inline_secret(each, place):
                return found
    elif isinstance(value, list):
        for number, each in enumerate(value):
            if found := _inline_secret(each, f"{path}.{number}"):
                return found
    return None


def _receiver(value: Any) -> dict[str, Any]:
    # The values are never told: they may be secrets.
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise ValueError("expected a mapping with a name, as Alertmanager has it, got another one")
    if place := _inline_secret(value):
        raise ValueError(
            f"expected {place}_file with a path below /etc/prometheus/secrets,"
            f" got the secret itself in {place}"
        )
    return dict(value)


Receiver = Annotated[dict[str, Any], BeforeValidator(_receiver)]


class Variables(RoleVariables):
    """Prometheus and Alertmanager of a site."""

    switch: ClassVar[str | None] = "prometheus_enabled"

    prometheus_enabled: bool = variable(False, "whether the device is the site's Prometheus")
    prometheus_packages: Annotated[list[PackageName], Field(min_length=1)] = variable(
        ["prometheus", "prometheus-alertmanager"],
        "packages that bring Prometheus and Alertmanager",
        shown_type="list of names",
    )
    prometheus_listen: Address = variable(
        "127.0.0.1", "address at which Prometheus listens", shown_type="address"
    )
    prometheus_port: Port = variable(9090, "its TCP port")
    prometheus_sources: list[Network] = variable(
        [],
        "networks from which the firewall lets people and gates ask Prometheus; all if empty",
        shown_type="list of CIDR",
    )
    prometheus_sites: list[SiteName] = variable(
        [],
        "sites whose devices are scraped; the device's own site if empty",
        shown_type="list of `site_*` groups",
    )
    prometheus_interval: PositiveDuration = variable(
        "15s", "time between two scrapes", unit="seconds", shown_type="duration"
    )
    prometheus_retention: PositiveDuration = variable(
        "15d", "how long samples are kept", unit="seconds", shown_type="duration"
    )
    prometheus_retention_size: Size = variable(
        "2GiB", "most that the samples may take on disk", unit="bytes", shown_type="size"
    )
    prometheus_certificate: CertificateFile = variable(
        None, "certificate of Prometheus: file on the controller; HTTP if null", shown_type="path"
    )
    prometheus_key: KeyFile = variable(
        None, "key of that certificate: file on the controller", shown_type="path"
    )
    prometheus_users: dict[UserName, BcryptHash] = variable(
        {},
        "who may ask Prometheus, by a password; its bcrypt hash (`htpasswd -nB NAME`)",
        shown_type="mapping of name to hash",
    )
    prometheus_scrape_tls: bool = variable(
        False, "whether the exporters of devices serve TLS (`monitoring_certificate`)"
    )
    prometheus_scrape_ca: CertificateFile = variable(
        None,
        "CA of the exporters: file on the controller; the system's CAs if null",
        shown_type="path",
    )
    prometheus_scrape_certificate: CertificateFile = variable(
        None, "certificate shown to the exporters: file on the controller", shown_type="path"
    )
    prometheus_scrape_key: KeyFile = variable(
        None, "key of that certificate: file on the controller", shown_type="path"
    )
    prometheus_scrape_user: UserName | None = variable(
        None, "name with which exporters are asked", shown_type="text"
    )
    prometheus_scrape_password: SecretText = variable(
        None, "its password, from a vault", shown_type="text"
    )
    prometheus_scrape_password_file: SecretFile = variable(
        None, "file on the controller with its password instead", shown_type="path"
    )
    prometheus_alert_latency: PositiveDuration = variable(
        "500ms",
        "95th percentile of requests above which a model is slow",
        unit="seconds",
        shown_type="duration",
    )
    prometheus_alert_error_ratio: Annotated[float, Field(gt=0, le=1)] = variable(
        0.05, "share of failed requests above which a model fails"
    )
    prometheus_alert_memory: Annotated[float, Field(gt=0, lt=1)] = variable(
        0.1, "share of free memory below which a device runs out of it"
    )
    prometheus_alert_silent: PositiveDuration = variable(
        "5m", "time after which a device is silent", unit="seconds", shown_type="duration"
    )
    prometheus_alert_guard: Duration = variable(
        "30m",
        "time for which a guard may be armed; more than the longest `confirm_timeout`",
        unit="seconds",
        shown_type="duration",
    )
    prometheus_alert_certificate: PositiveDuration = variable(
        "14d", "time before the end of a certificate", unit="seconds", shown_type="duration"
    )
    prometheus_rule_files: list[str] = variable(
        [],
        "further rules: files on the controller that Prometheus reads as they are",
        shown_type="list of paths",
    )
    prometheus_receivers: list[Receiver] = variable(
        [],
        "who is told, as Alertmanager has it; the first one unless `prometheus_route` says"
        " otherwise. Secrets by `*_file`, see `prometheus_secrets`",
        shown_type="list of receivers",
    )
    prometheus_route: dict[str, Any] = variable(
        {}, "Alertmanager's route, merged over the role's own", shown_type="mapping"
    )
    prometheus_secrets: dict[SecretName, RequiredSecret] = variable(
        {},
        "secrets of receivers, from a vault; each is the content of a file in"
        " `/etc/prometheus/secrets`",
        shown_type="mapping of file name to text",
    )

    def opens(self) -> tuple[OpenPort, ...]:
        """Prometheus, where others may ask it; Alertmanager is for the device alone."""
        if self.prometheus_listen.startswith(("127.", "::1", "localhost")):
            return ()
        sources = tuple(self.prometheus_sources)
        return (OpenPort(self.prometheus_port, "tcp", "Prometheus", sources),)

    @field_validator("prometheus_rule_files")
    @classmethod
    def _are_rules(cls, value: list[str]) -> list[str]:
        names = []
        for file in value:
            path = Path(file).expanduser()
            if path.suffix not in (".yml", ".yaml") or not path.is_file():
                raise ValueError(f"expected YAML files with rules, got {describe(file)}")
            names.append(path.stem)
        if len(set(names)) != len(names) or "muster" in names:
            raise ValueError(
                "expected files of different names, none of them muster.yml, got others"
            )
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Variables:
        if problems := [*self._problems()]:
            raise Problems([((name,), text) for name, text in problems])
        return self

    def _problems(self) -> Iterator[tuple[str, str]]:
        for kind in ("prometheus", "prometheus_scrape"):
            if (getattr(self, f"{kind}_certificate") is None) != (
                getattr(self, f"{kind}_key") is None
            ):
                yield f"{kind}_key", "expected certificate and key together, got one of them"
        if self.prometheus_users and self.prometheus_certificate is None:
            yield "prometheus_users", "expected prometheus_certificate with them, got none"
        password, file = self.prometheus_scrape_password, self.prometheus_scrape_password_file
        if password is not None and file is not None:
            yield "prometheus_scrape_password", "expected it or a file, got both"
        if (self.prometheus_scrape_user is None) != (password is None and file is None):
            yield "prometheus_scrape_user", "expected user and password together, got one of them"
        if not self.prometheus_scrape_tls and (
            self.prometheus_scrape_ca or self.prometheus_scrape_certificate
        ):
            yield "prometheus_scrape_tls", "expected true with certificates, got false"
        names = [each["name"] for each in self.prometheus_receivers]
        if len(set(names)) != len(names):
            yield "prometheus_receivers", "expected each name once, got one again"
        wanted = self.prometheus_route.get("receiver")
        if wanted is not None and wanted not in names:
            text = f"expected one of prometheus_receivers, got {describe(wanted)}"
            yield "prometheus_route", f"receiver: {text}"
