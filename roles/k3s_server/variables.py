"""Inputs of the role k3s_server."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import AfterValidator, StringConstraints, field_validator

from roles.k3s.inputs import Address, K3sVariables, NodeRole
from roles.networks import Network
from roles.secrets import SecretText
from roles.variables import OpenPort, variable

Component = Literal[
    "coredns", "local-storage", "metrics-server", "runtimes", "servicelb", "traefik"
]
Plugin = Literal["coral", "hailo", "intel", "nvidia"]
Image = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9][A-Za-z0-9./:_-]*(@sha256:[0-9a-f]{64})?$")
]
Mode = Annotated[str, StringConstraints(pattern=r"^0?[0-7]{3}$")]


def _is_endpoint(value: str | None) -> str | None:
    # What was got is never part of the message: it holds a password.
    if value is not None and "://" not in value:
        raise ValueError("expected a URL such as postgres://user:password@host:5432/k3s")
    return value


def _are_manifests(value: dict[str, str]) -> dict[str, str]:
    for name, file in value.items():
        try:
            documents = list(yaml.safe_load_all(Path(file).expanduser().read_text("utf-8")))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise ValueError(f"{name}: expected a file of manifests, {error}") from None
        for document in documents:
            known = isinstance(document, dict) and {"apiVersion", "kind"} <= set(document)
            if document is not None and not known:
                raise ValueError(
                    f"{name}: expected apiVersion and kind in every manifest of {file}"
                )
    return value


Endpoint = Annotated[SecretText, AfterValidator(_is_endpoint)]
Manifests = Annotated[
    dict[Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,60}$")], str],
    AfterValidator(_are_manifests),
]


class Variables(K3sVariables):
    """A node that runs the control plane, and pods."""

    node_role: ClassVar[NodeRole] = "server"

    k3s_server_datastore: Literal["auto", "sqlite", "etcd", "external"] = variable(
        "auto",
        "where the cluster keeps what it knows; `auto` is embedded etcd for several servers, SQLite"
        " for one, and external where an endpoint is given",
        shown_type="`auto`, `sqlite`, `etcd` or `external`",
    )
    k3s_server_datastore_endpoint: Endpoint = variable(
        None, "URL of an external datastore, from a vault", shown_type="text"
    )
    k3s_server_secrets_encryption: bool = variable(True, "encrypt Secrets in the datastore")
    k3s_server_token: SecretText = variable(
        None,
        "password of the cluster, from a vault; made on the first server if null. It counts when"
        " the cluster is made, never later",
        shown_type="text",
    )
    k3s_server_agent_token: SecretText = variable(
        None, "the same for agents, which can't join as servers with it", shown_type="text"
    )
    k3s_server_tls_sans: list[Address] = variable(
        [],
        "further names and addresses for which the API's certificate is valid",
        shown_type="list of addresses",
    )
    k3s_server_disable: list[Component] = variable(
        [], "components of K3s that are not wanted", shown_type="list of names"
    )
    k3s_server_kubeconfig_mode: Mode = variable(
        "0600", "mode of `/etc/rancher/k3s/k3s.yaml`, which makes an administrator of its reader"
    )
    k3s_server_api_networks: list[Network] = variable(
        [],
        "networks from which the Kubernetes API may be reached, for the role firewall; everywhere"
        " if empty",
        shown_type="list of networks",
    )
    k3s_server_manifests: Manifests = variable(
        {},
        "files on the controller with manifests that K3s applies by itself, by name",
        shown_type="mapping of name to path",
    )
    k3s_server_nvidia_runtime_class: bool = variable(
        False, "make the RuntimeClass `nvidia`, which pods on NVIDIA's GPUs name"
    )
    k3s_server_device_plugins: dict[Plugin, Image] = variable(
        {},
        "images of device plugins by accelerator: `coral` and `hailo` take the generic one, `intel`"
        " that of Intel's GPUs, `nvidia` that of NVIDIA; none is installed unless it is named",
        shown_type="mapping of accelerator to image",
    )
    k3s_server_device_plugin_selector: dict[str, str] = variable(
        {},
        "labels of the nodes on which device plugins run, all nodes if empty",
        shown_type="mapping",
    )

    @classmethod
    def attends(cls, variables: Mapping[str, Any]) -> bool:
        """Whether the device is an agent, which joins after the servers have."""
        return variables.get("k3s_role") == "agent"

    @field_validator("k3s_server_kubeconfig_mode", mode="before")
    @classmethod
    def _is_text(cls, value: Any) -> Any:
        if isinstance(value, int):
            raise ValueError(
                'expected the mode in quotes such as "0640": YAML reads others wrongly'
            )
        return value

    def opens(self) -> tuple[OpenPort, ...]:
        """Open the API, and etcd for the other servers."""
        api = OpenPort(
            self.k3s_api_port, "tcp", "Kubernetes API", tuple(self.k3s_server_api_networks)
        )
        etcd = [
            OpenPort(port, "tcp", "etcd", tuple(self.k3s_node_networks))
            for port in (2379, 2380)
            if self.k3s_server_datastore in ("auto", "etcd")
        ]
        return (api, *super().opens(), *etcd)
