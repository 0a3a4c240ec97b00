"""The site's own registry: what devices pull from, filled ahead of a rollout."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from pyinfra import host
from pyinfra.api.deploy import deploy
from pyinfra.operations import files as pyinfra_files

from muster.paths import COLLECTION_ROOT
from muster.site_authority import SiteAuthority
from roles.operations import File, packages, place_files
from roles.registry.operations import restart, serves
from roles.registry.variables import Variables
from roles.secrets import read_pem
from roles.templates import render

FOLDER = "/etc/muster/registry"
_USER = "docker-registry"
_OWNER = f"{_USER}:{_USER}"
_PROGRAM = COLLECTION_ROOT / "files" / "muster_registry.py"


@deploy("registry")
def registry(variables: Variables) -> None:
    """Make a device the registry of its site."""
    # The distribution's own unit would serve to everybody without TLS as soon as it is installed.
    pyinfra_files.link(
        name="no registry without TLS",
        path="/etc/systemd/system/docker-registry.service",
        target="/dev/null",
    )
    packages(name="packages", names=variables.registry_packages)
    storage = variables.registry_storage
    for name, path in (("storage", storage), ("storage of its work", f"{storage}/muster")):
        pyinfra_files.directory(name=name, path=path, user=_USER, group=_USER, mode="700")
    place_files(
        name="program",
        files=[File("/usr/local/sbin/muster-registry", _PROGRAM.read_text("utf-8"), "755")],
    )
    place_files(
        name="registry and its certificates",
        files=[
            File("/etc/muster/registry.json", settings(variables)),
            File(f"{FOLDER}/serve.yml", _rendered("serve.yml", variables)),
            *_certificates(variables),
            *_units(variables),
        ],
        then=restart(),
    )
    if upstream := _upstream(variables):
        place_files(name="access to the upstream registry", files=upstream)
    serves(name="registry serves")


@dataclass(frozen=True)
class _Server:
    """PEM files on the controller."""

    certificate: str
    key: str
    client_ca: str


def settings(variables: Variables) -> str:
    """What ``muster-registry`` reads."""
    document = {
        "storage": variables.registry_storage,
        "upstream": variables.muster_upstream_registry,
        "certificate": f"{FOLDER}/server.pem",
        "port": variables.registry_port,
        "authfile": f"{FOLDER}/upstream.json" if variables.registry_upstream_authfile else None,
        "max_size": variables.registry_max_size,
        "min_free": variables.registry_min_free,
        "stall": int(variables.registry_stall),
    }
    return json.dumps(document, indent=2, sort_keys=True) + "\n"


def server_names(variables: Variables, device: str, address: str | None) -> list[str]:
    """Names and addresses that the registry's certificate is valid for, each once."""
    seen_as = variables.muster_registry.rpartition(":")[0]
    names = [seen_as, device, *([address] if address else []), *variables.registry_names]
    return list(dict.fromkeys([*names, "localhost", "127.0.0.1"]))


def _server(variables: Variables) -> _Server:
    if variables.muster_registry_pki is None:
        certificate, key = variables.registry_certificate, variables.registry_key
        client_ca = variables.registry_client_ca
        if certificate is None or key is None or client_ca is None:
            raise AssertionError("the variables were not checked")
        return _Server(certificate, key, client_ca)
    authority = SiteAuthority(Path(variables.muster_registry_pki))
    name = host.data.get("inventory_device", host.name)
    names = server_names(variables, name, host.data.get("ssh_hostname"))
    pair = authority.server(name, names)
    return _Server(str(pair.certificate), str(pair.key), str(authority.certificate))


def _certificates(variables: Variables) -> list[File]:
    server = _server(variables)
    return [
        File(f"{FOLDER}/server.pem", read_pem(server.certificate)),
        File(f"{FOLDER}/server.key", read_pem(server.key), "600", _OWNER),
        File(f"{FOLDER}/clients.pem", read_pem(server.client_ca)),
    ]


def _upstream(variables: Variables) -> list[File]:
    """What skopeo looks for in a folder of certificates, and the credentials."""
    files = {
        "upstream/ca.crt": variables.registry_upstream_ca,
        "upstream/client.cert": variables.registry_upstream_client_cert,
        "upstream/client.key": variables.registry_upstream_client_key,
    }
    found = [
        File(f"{FOLDER}/{name}", read_pem(file), *_rights(name))
        for name, file in files.items()
        if file
    ]
    if variables.registry_upstream_authfile:
        text = Path(variables.registry_upstream_authfile).expanduser().read_text("utf-8")
        found.append(File(f"{FOLDER}/upstream.json", text.rstrip("\n") + "\n", "600", _OWNER))
    return found


def _rights(name: str) -> tuple[str, str]:
    return ("600", _OWNER) if name.endswith(".key") else ("644", "root:root")


def _units(variables: Variables) -> list[File]:
    names = ("muster-registry", "muster-registry-work", "muster-registry-mend")
    return [
        File(f"/etc/systemd/system/{name}.service", _rendered(f"{name}.service", variables))
        for name in names
    ]


def _rendered(name: str, variables: Variables) -> str:
    return render(
        f"registry/{name}",
        storage=variables.registry_storage,
        port=variables.registry_port,
        folder=FOLDER,
        hardening=render("registry/hardening").rstrip("\n"),
    )
