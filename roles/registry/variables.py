"""Inputs of the role registry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field, StringConstraints, field_validator, model_validator

from muster.fields import Location, PositiveDuration, Problems, Size
from roles.registry.client import RegistryClient, fit_together
from roles.secrets import CertificateFile, KeyFile
from roles.variables import AbsolutePath, HostPort, OpenPort, PackageName, variable

HostName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.:-]*[A-Za-z0-9])?$")]
_SERVER = ("registry_certificate", "registry_key", "registry_client_ca")


class Variables(RegistryClient):
    """The registry of a site."""

    switch: ClassVar[str | None] = "registry_enabled"

    registry_enabled: bool = variable(False, "whether this device is the registry of its site")
    registry_packages: Annotated[list[PackageName], Field(min_length=1)] = variable(
        ["docker-registry", "openssl", "skopeo"],
        "packages that bring the registry and what fills it",
        shown_type="list of names",
    )
    muster_upstream_registry: HostPort = variable(
        ..., "the registry that this one is filled from", shown_type="`host:port`"
    )
    muster_registry: HostPort = variable(
        ..., "the site's registry, as its devices see it", shown_type="`host:port`"
    )
    registry_port: Annotated[int, Field(ge=1, le=65535)] = variable(5000, "TCP port that it serves")
    registry_names: list[HostName] = variable(
        [],
        "further names and addresses that its certificate is valid for, beside that of"
        " `muster_registry` and the device's own",
        shown_type="list of names",
    )
    registry_storage: AbsolutePath = variable(
        "/var/lib/muster-registry", "folder of what it holds", shown_type="path"
    )
    registry_max_size: Size | None = variable(
        None,
        "how much it may hold; a copy that would take it beyond that is refused before it begins",
        unit="bytes",
        shown_type="size",
    )
    registry_min_free: Size = variable(
        "1GiB", "what must stay free on its disk after a copy", unit="bytes", shown_type="size"
    )
    registry_stall: PositiveDuration = variable(
        "60s",
        "how long a copy may move nothing until it counts as failed",
        unit="seconds",
        shown_type="duration",
    )
    registry_certificate: CertificateFile = variable(
        None,
        "without `muster_registry_pki`: PEM file on the controller of the certificate that it"
        " serves, with what leads to its authority",
        shown_type="path",
    )
    registry_key: KeyFile = variable(
        None, "PEM file of the private key of that certificate", shown_type="path"
    )
    registry_client_ca: CertificateFile = variable(
        None,
        "PEM file of the authority whose certificates a client must show one of",
        shown_type="path",
    )
    registry_upstream_ca: CertificateFile = variable(
        None,
        "PEM file of the authority of the upstream registry, the system's own ones if null",
        shown_type="path",
    )
    registry_upstream_client_cert: CertificateFile = variable(
        None, "PEM file of the certificate that the upstream registry is shown", shown_type="path"
    )
    registry_upstream_client_key: KeyFile = variable(
        None, "PEM file of the private key of that certificate", shown_type="path"
    )
    registry_upstream_authfile: str | None = variable(
        None,
        "file on the controller with the credentials for the upstream registry, as `skopeo login"
        " --authfile` writes it",
        shown_type="path",
    )

    def opens(self) -> tuple[OpenPort, ...]:
        """The port that devices pull from."""
        return (OpenPort(self.registry_port, why="the site's image registry"),)

    @field_validator("registry_storage")
    @classmethod
    def _is_own_folder(cls, value: str) -> str:
        # The work is done by a service that can write nowhere else.
        if value.rstrip("/").count("/") < 2:
            raise ValueError("expected a folder of its own such as /var/lib/muster-registry")
        return value.rstrip("/")

    @field_validator("registry_upstream_authfile")
    @classmethod
    def _is_authfile(cls, value: str | None) -> str | None:
        if value is not None:
            try:  # what is in the file is never part of an error
                found = json.loads(Path(value).expanduser().read_text(encoding="utf-8"))
            except OSError as error:
                raise ValueError(
                    f"expected a file with credentials, got {value} ({error.strerror})"
                ) from None
            except ValueError:
                raise ValueError(f"expected JSON with credentials, {value} is none") from None
            auths = found.get("auths") if isinstance(found, dict) else None
            if not isinstance(auths, dict) or not auths:
                raise ValueError(f"expected credentials under the key auths, {value} has none")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Any:
        problems: list[tuple[Location, str]] = []
        for name in _SERVER:
            given = getattr(self, name) is not None
            if given and self.muster_registry_pki is not None:
                text = "expected nothing where muster_registry_pki is given, got a file"
                problems.append(((name,), text))
            elif not given and self.muster_registry_pki is None:
                text = "expected a PEM file, or muster_registry_pki for an authority of the site"
                problems.append(((name,), f"{text}, got nothing"))
        if (self.registry_upstream_authfile is not None) and not self._names_upstream():
            text = f"expected credentials for {self.muster_upstream_registry}, got others"
            problems.append((("registry_upstream_authfile",), text))
        if self.muster_registry == self.muster_upstream_registry:
            text = f"expected another registry than muster_registry, got {self.muster_registry!r}"
            problems.append((("muster_upstream_registry",), text))
        if problems:
            raise Problems(problems)
        if self.muster_registry_pki is None:
            fit_together(self.registry_certificate, self.registry_key, (_SERVER[0], _SERVER[1]))
        fit_together(
            self.registry_upstream_client_cert,
            self.registry_upstream_client_key,
            ("registry_upstream_client_cert", "registry_upstream_client_key"),
        )
        return self

    def _names_upstream(self) -> bool:
        path = Path(self.registry_upstream_authfile or "").expanduser()
        names = [name.split("/")[0] for name in json.loads(path.read_text("utf-8"))["auths"]]
        return self.muster_upstream_registry in names
