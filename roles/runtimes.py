"""What the roles of container runtimes share: which of them a device gets, and whom it trusts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator
from pyinfra import host

from roles.operations import File
from roles.registry.client import RegistryClient, client_files
from roles.variables import HostPort, variable

CHOICE = "muster_device_runtime"
DEFAULT = "docker"


def _are_certificates(value: dict[str, str]) -> dict[str, str]:
    for registry, file in value.items():
        try:
            text = Path(file).expanduser().read_text(encoding="ascii")
        except (OSError, ValueError) as error:
            raise ValueError(f"{registry}: expected a PEM file, {error}") from None
        if "-----BEGIN CERTIFICATE-----" not in text:
            raise ValueError(f"{registry}: expected a PEM file, {file} has no certificate")
    return value


RegistryCas = Annotated[dict[HostPort, str], AfterValidator(_are_certificates)]
"""Files on the controller with the certificate of a registry's CA, by ``host:port``."""


def registry_cas() -> Any:
    """Declare the CAs of registries beside that of the site."""
    return variable(
        {},
        "certificates of the CAs of further registries: PEM files on the controller, relative paths"
        " from the working directory",
        shown_type="mapping of `host:port` to file",
    )


class RuntimeVariables(RegistryClient):
    """Variables of a container runtime's role."""

    runtime: ClassVar[str]

    muster_registry: HostPort | None = variable(
        None, "the site's registry, as its devices see it", shown_type="`host:port`"
    )

    @classmethod
    def chosen(cls, variables: Mapping[str, Any]) -> bool:
        """Whether the device runs its models with this runtime."""
        return variables.get(CHOICE, DEFAULT) == cls.runtime


def trust_files(folder: str, variables: RuntimeVariables, cas: Mapping[str, str]) -> list[File]:
    """The files with which a runtime knows the registries, and is known to that of the site.

    :param folder: of the runtime, such as ``/etc/docker/certs.d``.
    :param cas: of further registries.
    """
    found = {
        f"{folder}/{registry}/ca.crt": File(
            f"{folder}/{registry}/ca.crt",
            Path(file).expanduser().read_text(encoding="ascii").rstrip("\n") + "\n",
        )
        for registry, file in sorted(cas.items())
    }
    site = variables.muster_registry
    if site is not None:
        device = host.data.get("inventory_device", host.name)
        found |= {file.path: file for file in client_files(folder, variables, site, device)}
    return list(found.values())
