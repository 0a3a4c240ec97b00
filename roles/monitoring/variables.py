"""Inputs of the role monitoring."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from muster.fields import PositiveDuration, Problems
from roles.networks import Network
from roles.secrets import CertificateFile, KeyFile, SecretFile, SecretText
from roles.variables import AbsolutePath, OpenPort, PackageName, RoleVariables, variable
from roles.web_config import BcryptHash, UserName

Address = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.:-]+$")]
Pattern = Annotated[str, StringConstraints(pattern=r"^/[A-Za-z0-9_./@:+*?-]*$")]
ModelName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,40}$")]
Port = Annotated[int, Field(ge=1, le=65535)]
Url = Annotated[str, StringConstraints(pattern=r"^https?://[^\s/?#@]+(/[^\s?#]*)?$")]
MetricsPath = Annotated[str, StringConstraints(pattern=r"^/[!-~]{0,1000}$")]


class ModelMetrics(BaseModel):
    """Where a model shows metrics of its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: ModelName
    port: Port = 8000
    path: MetricsPath = "/metrics"


class Variables(RoleVariables):
    """What a device tells of itself, and where."""

    switch: ClassVar[str | None] = "monitoring_enabled"

    monitoring_enabled: bool = variable(False, "whether the device shows metrics")
    monitoring_packages: Annotated[list[PackageName], Field(min_length=1)] = variable(
        ["prometheus-node-exporter"], "packages that bring the exporter", shown_type="list of names"
    )
    monitoring_listen: Address = variable(
        "0.0.0.0",  # noqa: S104 (Prometheus is on another machine)
        "address at which the exporter listens",
        shown_type="address",
    )
    monitoring_port: Port = variable(9100, "its TCP port")
    monitoring_address: Address | None = variable(
        None,
        "where Prometheus reaches the device; as SSH does if null",
        shown_type="name or address",
    )
    monitoring_sources: list[Network] = variable(
        [], "networks from which the firewall lets Prometheus in; all if empty",
        shown_type="list of CIDR",
    )  # fmt: skip
    monitoring_interval: PositiveDuration = variable(
        "60s",
        "time between two looks at releases, guard, certificates and accelerators",
        unit="seconds",
        shown_type="duration",
    )
    monitoring_textfile_directory: AbsolutePath = variable(
        "/run/prometheus-node-exporter",
        "folder whose `*.prom` files the exporter shows as well; in memory, so that no SD card"
        " wears",
        shown_type="path",
    )
    monitoring_certificates: list[Pattern] = variable(
        [
            "/etc/docker/certs.d/*/*.c*rt",
            "/etc/containers/certs.d/*/*.c*rt",
            "/etc/containerd/certs.d/*/*.c*rt",
            "/etc/mosquitto/muster/*.crt",
            "/etc/prometheus/tls/*.crt",
            "/etc/muster/registry/*.pem",
        ],
        "certificates whose days are counted",
        shown_type="list of path patterns",
    )
    monitoring_models: list[ModelMetrics] = variable(
        [],
        "models that show metrics of their own on this device, at the port of their release's"
        " endpoint",
        shown_type="list of `{model, port, path}`",
    )
    monitoring_certificate: CertificateFile = variable(
        None, "certificate of the exporter: file on the controller; HTTP if null", shown_type="path"
    )
    monitoring_key: KeyFile = variable(
        None, "key of that certificate: file on the controller", shown_type="path"
    )
    monitoring_client_ca: CertificateFile = variable(
        None,
        "CA of whoever may read the metrics, by a certificate: file on the controller",
        shown_type="path",
    )
    monitoring_users: dict[UserName, BcryptHash] = variable(
        {},
        "who may read the metrics, by a password; its bcrypt hash (`htpasswd -nB NAME`)",
        shown_type="mapping of name to hash",
    )
    muster_prometheus: Url | None = variable(
        None,
        "the site's Prometheus as the controller reaches it, for gates of type `metrics`",
        shown_type="URL",
    )
    muster_prometheus_ca: CertificateFile = variable(
        None, "CA of that Prometheus: file on the controller", shown_type="path"
    )
    muster_prometheus_user: UserName | None = variable(
        None, "name with which gates log in there", shown_type="text"
    )
    muster_prometheus_password: SecretText = variable(
        None, "its password, from a vault", shown_type="text"
    )
    muster_prometheus_password_file: SecretFile = variable(
        None, "file on the controller with its password instead", shown_type="path"
    )

    def opens(self) -> tuple[OpenPort, ...]:
        """The exporter, and nothing of the models: their ports are open anyway."""
        if self.monitoring_listen.startswith(("127.", "::1")):
            return ()
        sources = tuple(self.monitoring_sources)
        return (OpenPort(self.monitoring_port, "tcp", "node exporter", sources),)

    @model_validator(mode="after")
    def _fits_together(self) -> Variables:
        if problems := [*self._problems()]:
            raise Problems([((name,), text) for name, text in problems])
        return self

    def _problems(self) -> Iterator[tuple[str, str]]:
        if (self.monitoring_certificate is None) != (self.monitoring_key is None):
            yield "monitoring_key", "expected certificate and key together, got one of them"
        if self.monitoring_certificate is None and self.monitoring_client_ca is not None:
            yield "monitoring_client_ca", "expected monitoring_certificate with it, got none"
        if self.monitoring_certificate is None and self.monitoring_users:
            yield "monitoring_users", "expected monitoring_certificate with them, got none"
        names = [each.model for each in self.monitoring_models]
        if len(set(names)) != len(names):
            yield "monitoring_models", "expected each model once, got one again"
        password, file = self.muster_prometheus_password, self.muster_prometheus_password_file
        if password is not None and file is not None:
            yield "muster_prometheus_password", "expected it or a file, got both"
        if (self.muster_prometheus_user is None) != (password is None and file is None):
            yield "muster_prometheus_user", "expected user and password together, got one of them"
