"""Inputs that servers and agents of K3s share."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import (
    AfterValidator,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)

from muster.fields import PositiveDuration, Problems, describe
from muster.k3s.cluster import DEFAULT_CLUSTER
from muster.k3s.versions import parse
from muster.role_variables import Subject
from roles.k3s.agreement import API_PORT, Finding, findings
from roles.k3s.artifacts import folder_problem, is_url
from roles.k3s.keys import key_problems
from roles.networks import Network
from roles.runtimes import RegistryCas, RuntimeVariables, registry_cas
from roles.secrets import CertificateFile
from roles.variables import OpenPort, PackageName, variable

NodeRole = Literal["none", "server", "agent"]

_NAME = r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_LABEL_KEY = re.compile(rf"([a-z0-9]([a-z0-9.-]{{0,251}}[a-z0-9])?/)?{_NAME}")
_LABEL_VALUE = re.compile(rf"({_NAME})?")
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_RESERVED = ("muster.model/", "muster.variant/")


def _is_version(value: str) -> str:
    parse(value)
    return value


def _are_labels(value: dict[str, Any]) -> dict[str, str]:
    found = {}
    for key, given in value.items():
        text = str(given).lower() if isinstance(given, bool) else str(given)
        if not _LABEL_KEY.fullmatch(key):
            raise ValueError(f"{key}: expected a label of Kubernetes such as example.com/line")
        if key.startswith(_RESERVED):
            raise ValueError(f"{key}: expected no label that the device program sets by itself")
        if not _LABEL_VALUE.fullmatch(text):
            raise ValueError(
                f"{key}: expected letters, digits, '.', '_' and '-', at most 63, got {text!r}"
            )
        found[key] = text
    return found


def _is_taint(value: str) -> str:
    name, colon, effect = value.rpartition(":")
    key, _, given = name.partition("=")
    if effect not in _EFFECTS:
        close = difflib.get_close_matches(effect, _EFFECTS, n=1)
        hint = f", did you mean {close[0]}?" if close else ""
        raise ValueError(f"expected key=value:{'|'.join(_EFFECTS)}, got {value!r}{hint}")
    if not colon or not _LABEL_KEY.fullmatch(key) or not _LABEL_VALUE.fullmatch(given):
        raise ValueError(f"expected a taint such as line=7:NoSchedule, got {value!r}")
    return value


Version = Annotated[str, AfterValidator(_is_version)]
Labels = Annotated[dict[str, str | int | float | bool], AfterValidator(_are_labels)]
Taint = Annotated[str, AfterValidator(_is_taint)]
Address = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.:-]*[A-Za-z0-9])?$")]
Environment = dict[
    Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")],
    Annotated[str, StringConstraints(pattern=r"^[^\n\r\x00]*$")],
]
DropIns = dict[
    Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,40}$")], dict[str, Any]
]


class K3sVariables(RuntimeVariables):
    """What every node of K3s needs."""

    runtime: ClassVar[str] = "k3s"
    node_role: ClassVar[NodeRole]

    k3s_role: NodeRole = variable(
        "none",
        "what the device is in its cluster",
        shown_type=", ".join(f"`{name}`" for name in get_args(NodeRole)),
    )
    k3s_cluster: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,40}$")] = variable(
        DEFAULT_CLUSTER, "name of the device's cluster; an inventory may have several"
    )
    k3s_version: Version = variable(
        ..., "version of K3s, such as `v1.33.4+k3s1`", shown_type="text"
    )
    k3s_artifacts: str = variable(
        ...,
        "where K3s comes from: a folder on the controller, or the http(s) URL of the site's"
        " artifact store; in it `VERSION/k3s`, `VERSION/sha256sum-ARCH.txt` and the image archive,"
        " named as in K3s's releases",
        shown_type="path or URL",
    )
    k3s_artifacts_ca: CertificateFile = variable(
        None,
        "PEM file on the controller of the authority that signed the store's certificate; the"
        " device's own authorities if null",
        shown_type="path",
    )
    k3s_images: bool = variable(
        True,
        "install the image archive; false where the images of the cluster's own pods come from a"
        " registry (`system-default-registry`)",
    )
    k3s_api_address: Address | None = variable(
        None,
        "name or address at which nodes reach the servers, such as a load balancer's; the first"
        " server's address if null",
        shown_type="address",
    )
    k3s_api_port: Annotated[int, Field(ge=1, le=65535)] = variable(
        API_PORT, "port of the Kubernetes API", shown_type="port"
    )
    k3s_node_labels: Labels = variable(
        {},
        "labels with which the node registers; those of a kind of hardware belong into its"
        " `group_vars`",
        shown_type="mapping",
    )
    k3s_node_taints: list[Taint] = variable(
        [],
        "taints with which the node registers, `key=value:Effect`",
        shown_type="list of taints",
    )
    k3s_config: dict[str, Any] = variable(
        {},
        "further keys of K3s's `config.yaml`; values of lists are added to the role's own",
        shown_type="mapping",
    )
    k3s_config_dropins: DropIns = variable(
        {},
        "own files in `config.yaml.d`, by name, in alphabetical order; `key+` appends",
        shown_type="mapping of name to mapping",
    )
    k3s_registries: dict[str, Any] = variable(
        {},
        "further keys of `registries.yaml` (`mirrors`, `configs`), which win over what the site's"
        " registry gives",
        shown_type="mapping",
    )
    k3s_mirrored_registries: list[
        Annotated[str, StringConstraints(pattern=r"^(\*|[A-Za-z0-9.-]+(:[0-9]{1,5})?)$")]
    ] = variable(
        [],
        "registries whose images come from the site's registry instead, such as `docker.io`",
        shown_type="list of registries",
    )
    k3s_registry_cas: RegistryCas = registry_cas()
    k3s_environment: Environment = variable(
        {}, "environment of K3s, such as `HTTPS_PROXY`", shown_type="mapping"
    )
    k3s_packages: list[PackageName] = variable(
        [], "packages that K3s needs on the device", shown_type="list of names"
    )
    k3s_node_networks: list[Network] = variable(
        [],
        "networks from which other nodes come, for the role firewall; everywhere if empty",
        shown_type="list of networks",
    )
    k3s_hardening: bool = variable(
        False,
        "settings of the CIS benchmark: kernel parameters, `protect-kernel-defaults`, and on"
        " servers audit log, pod security and limits of events",
    )
    k3s_drain: bool = variable(
        True, "whether a node is drained before `muster k3s upgrade` replaces its K3s"
    )
    k3s_drain_timeout: PositiveDuration = variable(
        "5m",
        "time that draining may take, else the upgrade stops there",
        unit="seconds",
        shown_type="duration",
    )
    k3s_start_timeout: PositiveDuration = variable(
        "5m",
        "time in which a node must be Ready after a start, else the former version and"
        " configuration are put back",
        unit="seconds",
        shown_type="duration",
    )

    @classmethod
    def chosen(cls, variables: Mapping[str, Any]) -> bool:
        """Whether the device is such a node. A wrong choice counts, so that somebody complains."""
        choice = variables.get("k3s_role", "none")
        return choice == cls.node_role or choice not in get_args(NodeRole)

    @classmethod
    def together(cls, subjects: Sequence[Subject]) -> Iterator[Finding]:
        """What does not fit together in the clusters of an inventory."""
        if cls.node_role == "server":  # once is enough
            yield from findings(subjects)

    @field_validator("k3s_artifacts")
    @classmethod
    def _has_artifacts(cls, value: str, info: ValidationInfo) -> str:
        version = info.data.get("k3s_version")
        if not is_url(value) and version and (problem := folder_problem(value, version)):
            raise ValueError(problem)
        return value

    @model_validator(mode="after")
    def _has_known_keys(self) -> Any:
        server = self.node_role == "server"
        found = [(("k3s_config",), text) for text in key_problems(self.k3s_config, server=server)]
        for name, document in self.k3s_config_dropins.items():
            found += [
                (("k3s_config_dropins",), f"{name}: {text}")
                for text in key_problems(document, server=server)
            ]
        for key, value in self.k3s_registries.items():
            if key not in ("mirrors", "configs") or not isinstance(value, Mapping):
                text = f"expected mappings called mirrors and configs, got {key!r}"
                found.append((("k3s_registries",), text))
                continue
            for name, entry in value.items():
                if not isinstance(entry, Mapping):
                    text = f"{key}: {name}: expected a mapping, got {describe(entry)}"
                    found.append((("k3s_registries",), text))
        if self.k3s_mirrored_registries and self.muster_registry is None:
            text = "expected none without muster_registry"
            found.append((("k3s_mirrored_registries",), text))
        if found:
            raise Problems(found)
        return self

    def trusts(self) -> tuple[str, ...]:
        """Take what pods send to their node: names, the Kubernetes API, probes."""
        return ("cni0", "flannel*")

    def opens(self) -> tuple[OpenPort, ...]:
        """Open what other nodes must reach on every node."""
        nodes = tuple(self.k3s_node_networks)
        ports = [OpenPort(10250, "tcp", "kubelet", nodes)]
        # Servers alone have the keys that choose: an agent opens what any choice of theirs needs.
        agent = self.node_role == "agent"
        backend = self.k3s_config.get("flannel-backend", "vxlan")
        if agent or backend == "vxlan":
            ports.append(OpenPort(8472, "udp", "pod network", nodes))
        if agent or backend == "wireguard-native":
            ports += [OpenPort(port, "udp", "pod network", nodes) for port in (51820, 51821)]
        if agent or self.k3s_config.get("embedded-registry"):
            ports.append(OpenPort(5001, "tcp", "images for other nodes", nodes))
        if agent:  # a server has its API there
            ports.append(OpenPort(self.k3s_api_port, "tcp", "images for other nodes", nodes))
        return tuple(ports)
