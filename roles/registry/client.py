"""What the clients of a site's registry need: its authority, and a certificate of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import model_validator

from muster.fields import Location, Problems
from muster.site_authority import SiteAuthority, belong_together
from roles.operations import File
from roles.secrets import CertificateFile, KeyFile, read_pem
from roles.variables import RoleVariables, variable


def fit_together(certificate: str | None, key: str | None, names: tuple[str, str]) -> None:
    """Check that a certificate and its key came together, and belong together.

    :param names: of the two variables.
    :raises Problems: they do not.
    """
    if (certificate is None) != (key is None):
        missing = names[0] if certificate is None else names[1]
        other = names[1] if certificate is None else names[0]
        raise Problems([((missing,), f"expected it together with {other}, got nothing")])
    if certificate is not None and key is not None:
        try:
            fits = belong_together(Path(certificate).expanduser(), Path(key).expanduser())
        except ValueError as error:
            text = f"expected a certificate and its key without a password, {error}"
            raise Problems([((names[1],), text)]) from None
        if not fits:
            text = f"expected the key of {certificate}, got another one in {key}"
            raise Problems([((names[1],), text)])


class RegistryClient(RoleVariables):
    """Variables that everything shares which talks to the site's registry."""

    muster_registry_pki: str | None = variable(
        None,
        "folder on the controller of the site's own certificate authority, made where it is"
        " missing: the registry and every device then get their certificates from it",
        shown_type="path",
    )
    muster_registry_ca: CertificateFile = variable(
        None,
        "instead of that: PEM file on the controller of the authority that signed the registry's"
        " certificate",
        shown_type="path",
    )
    muster_registry_client_cert: CertificateFile = variable(
        None, "PEM file of the certificate that a device shows to the registry", shown_type="path"
    )
    muster_registry_client_key: KeyFile = variable(
        None, "PEM file of the private key of that certificate", shown_type="path"
    )

    @model_validator(mode="after")
    def _client_fits_together(self) -> Any:
        problems: list[tuple[Location, str]] = [
            ((name,), "expected nothing where muster_registry_pki is given, got a file")
            for name in _FILES
            if self.muster_registry_pki is not None and getattr(self, name) is not None
        ]
        if problems:
            raise Problems(problems)
        fit_together(
            self.muster_registry_client_cert,
            self.muster_registry_client_key,
            (_FILES[1], _FILES[2]),
        )
        return self


_FILES = ("muster_registry_ca", "muster_registry_client_cert", "muster_registry_client_key")


def client_files(folder: str, variables: RegistryClient, registry: str, device: str) -> list[File]:
    """The files with which a container runtime knows a registry, and is known to it.

    Docker, Podman and containerd all read them from a folder of this form.

    :param folder: of the runtime, such as ``/etc/docker/certs.d``.
    :param registry: ``host:port``.
    :param device: name of the device, for which its certificate is made.
    :returns: ``ca.crt``, ``client.cert`` and ``client.key``, those that there are.
    :raises InputError: the folder of the authority can't be used.
    """
    found: dict[str, str | None] = {
        "ca.crt": variables.muster_registry_ca,
        "client.cert": variables.muster_registry_client_cert,
        "client.key": variables.muster_registry_client_key,
    }
    if variables.muster_registry_pki is not None:
        authority = SiteAuthority(Path(variables.muster_registry_pki))
        pair = authority.client(device)
        found = {
            "ca.crt": str(authority.certificate),
            "client.cert": str(pair.certificate),
            "client.key": str(pair.key),
        }
    return [
        File(f"{folder}/{registry}/{name}", read_pem(file), "600" if "key" in name else "644")
        for name, file in found.items()
        if file is not None
    ]
