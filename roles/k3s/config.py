"""K3s's configuration files, made from variables. Pure but for the certificates that it names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from muster.k3s.cluster import Cluster
from roles.containerd.config import merged
from roles.k3s import hardening
from roles.k3s.inputs import K3sVariables
from roles.k3s.keys import LISTS
from roles.k3s_server.variables import Variables as ServerVariables
from roles.operations import File

FOLDER = "/etc/rancher/k3s"
CONFIG = f"{FOLDER}/config.yaml"
DROPINS = f"{FOLDER}/config.yaml.d"
REGISTRIES = f"{FOLDER}/registries.yaml"
CERTIFICATES = f"{FOLDER}/registry"
TOKEN = f"{FOLDER}/token"
AGENT_TOKEN = f"{FOLDER}/agent-token"
DATA = "/var/lib/rancher/k3s"
BINARY = "/usr/local/bin/k3s"
SYSTEMD = "/etc/systemd/system"

_WRITTEN = "# Written by Muster's K3s roles: what is changed here is lost.\n"
_PRIVATE = "600"


@dataclass(frozen=True)
class Place:
    """What a node is in its cluster.

    :param node: its name there.
    :param address: at which its SSH server is reached.
    :param join: URL of the server that it joins; None for the one that makes the cluster.
    """

    cluster: Cluster
    node: str
    address: str
    join: str | None


def unit(role: str) -> str:
    """Name of the unit of a server or an agent."""
    return "k3s.service" if role == "server" else "k3s-agent.service"


def api_url(variables: K3sVariables, address: str) -> str:
    """URL at which a node reaches the servers."""
    chosen = variables.k3s_api_address or address
    host = f"[{chosen}]" if ":" in chosen else chosen
    return f"https://{host}:{variables.k3s_api_port}"


def config_document(variables: K3sVariables, place: Place) -> dict[str, Any]:
    """The keys of ``config.yaml``."""
    document: dict[str, Any] = {"node-name": place.node, "token-file": TOKEN}
    if variables.k3s_node_labels:
        document["node-label"] = [
            f"{key}={value}" for key, value in sorted(variables.k3s_node_labels.items())
        ]
    if variables.k3s_node_taints:
        document["node-taint"] = list(variables.k3s_node_taints)
    if isinstance(variables, ServerVariables):
        document |= _server(variables, place)
    elif place.join is not None:
        document["server"] = place.join
    if variables.k3s_hardening:
        document = _with(document, hardening.keys(variables))
    return _with(document, variables.k3s_config)


def _server(variables: ServerVariables, place: Place) -> dict[str, Any]:
    datastore = place.cluster.datastore
    names = [variables.k3s_api_address, place.address, *variables.k3s_server_tls_sans]
    document: dict[str, Any] = {
        "agent-token-file": AGENT_TOKEN,
        "secrets-encryption": variables.k3s_server_secrets_encryption,
        "tls-san": list(dict.fromkeys(name for name in names if name)),
        "write-kubeconfig-mode": variables.k3s_server_kubeconfig_mode,
    }
    if variables.k3s_api_port != 6443:
        document["https-listen-port"] = variables.k3s_api_port
    if variables.k3s_server_disable:
        document["disable"] = list(variables.k3s_server_disable)
    if datastore == "external":
        document["datastore-endpoint"] = variables.k3s_server_datastore_endpoint
    elif place.join is not None:
        document["server"] = place.join
    elif datastore == "etcd":
        document["cluster-init"] = True
    return document


def _with(document: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Put further keys over a document; lists grow."""
    found = dict(document)
    for written, value in more.items():
        key = str(written).removesuffix("+")
        if key in LISTS and (key in found or isinstance(value, list)):
            values = value if isinstance(value, list) else [value]
            before = found.get(key, [])
            before = before if isinstance(before, list) else [before]
            found[key] = list(dict.fromkeys([*before, *values]))
        else:
            found[key] = value
    return found


def registries_document(variables: K3sVariables, trusted: Sequence[File]) -> dict[str, Any]:
    """The keys of ``registries.yaml``: where images come from, and whom to trust there.

    :param trusted: certificates of registries, in a folder for each.
    """
    configs: dict[str, Any] = {}
    names = {"ca.crt": "ca_file", "client.cert": "cert_file", "client.key": "key_file"}
    for file in trusted:
        registry, name = file.path.rsplit("/", 2)[1:]
        tls = configs.setdefault(registry, {"tls": {}})["tls"]
        tls[names[name]] = file.path
    site = variables.muster_registry
    mirrors = {
        name: {"endpoint": [f"https://{site}"]} for name in variables.k3s_mirrored_registries
    }
    if site is not None:
        mirrors[site] = {"endpoint": [f"https://{site}"]}
    document = {"mirrors": mirrors, "configs": configs}
    found = merged(document, variables.k3s_registries)
    return {key: value for key, value in found.items() if value}


def yaml_text(document: Mapping[str, Any]) -> str:
    """Write a document, and read it back: what comes out must mean the same.

    :raises ValueError: it does not, or something in it has no form in YAML.
    """
    try:
        text = yaml.safe_dump(dict(document), allow_unicode=True, width=4096)
        back = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"expected values that YAML has a form for, {error}") from None
    if back != document:
        raise ValueError("expected a document that YAML reads back as it was written")
    return _WRITTEN + text


def environment_text(variables: K3sVariables) -> str:
    """What systemd reads as the environment of K3s."""
    lines = [
        '{}="{}"'.format(name, value.replace("\\", "\\\\").replace('"', '\\"'))
        for name, value in sorted(variables.k3s_environment.items())
    ]
    return "".join(f"{line}\n" for line in [_WRITTEN.rstrip("\n"), *lines])


def dropin_path(name: str) -> str:
    """Where an own file of ``config.yaml.d`` is."""
    return f"{DROPINS}/50-muster-{name}.yaml"


def node_files(
    variables: K3sVariables, place: Place, trusted: Sequence[File], unit_text: str
) -> list[File]:
    """Files after whose change K3s has to start again.

    :param trusted: certificates of registries; they themselves are read at each pull.
    :param unit_text: the unit.
    """
    name = unit(variables.node_role)
    found = [
        File(f"{SYSTEMD}/{name}", unit_text),
        File(f"{SYSTEMD}/{name}.env", environment_text(variables), _PRIVATE),
        File(CONFIG, yaml_text(config_document(variables, place)), _PRIVATE),
        File(REGISTRIES, yaml_text(registries_document(variables, trusted)), _PRIVATE),
    ]
    found += [
        File(dropin_path(each), yaml_text(document), _PRIVATE)
        for each, document in variables.k3s_config_dropins.items()
    ]
    if variables.k3s_hardening and isinstance(variables, ServerVariables):
        found += hardening.files(variables)
    return found
