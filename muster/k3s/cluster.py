"""Which devices of an inventory are one cluster. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from muster.k3s.naming import node_name
from muster.k3s.versions import is_older

DEFAULT_CLUSTER = "default"


class Named(Protocol):
    """A device of an inventory, as far as clusters care."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def variables(self) -> Mapping[str, Any]:
        """What the inventory says of it."""


@dataclass(frozen=True)
class Cluster:
    """The nodes of a cluster, in the order of the inventory.

    :param name: what ``k3s_cluster`` says.
    """

    name: str
    servers: tuple[Named, ...]
    agents: tuple[Named, ...]

    @property
    def first(self) -> Named:
        """The server that makes the cluster."""
        return self.servers[0]

    @property
    def nodes(self) -> tuple[Named, ...]:
        """All nodes, the servers first."""
        return (*self.servers, *self.agents)

    @property
    def datastore(self) -> str:
        """Where the cluster keeps what it knows: ``sqlite``, ``etcd`` or ``external``."""
        if not self.servers:
            return "sqlite"
        variables = self.first.variables
        chosen = str(variables.get("k3s_server_datastore", "auto"))
        if chosen != "auto":
            return chosen
        if variables.get("k3s_server_datastore_endpoint") is not None:
            return "external"
        return "etcd" if len(self.servers) > 1 else "sqlite"


def role_of(device: Named) -> str:
    """What a device is in its cluster: ``server``, ``agent`` or ``none``."""
    role = device.variables.get("k3s_role", "none")
    return str(role) if role in ("server", "agent") else "none"


def cluster_of(device: Named) -> str:
    """Name of a device's cluster, whether it is a node or not."""
    return str(device.variables.get("k3s_cluster", DEFAULT_CLUSTER))


def clusters(devices: Iterable[Named]) -> dict[str, Cluster]:
    """The clusters of an inventory by name."""
    servers: dict[str, list[Named]] = {}
    agents: dict[str, list[Named]] = {}
    for device in devices:
        role = role_of(device)
        if role != "none":
            members = servers if role == "server" else agents
            members.setdefault(cluster_of(device), []).append(device)
    names = dict.fromkeys([*servers, *agents])
    return {
        name: Cluster(name, tuple(servers.get(name, ())), tuple(agents.get(name, ())))
        for name in names
    }


def staying(cluster: Cluster, names: Collection[str]) -> list[str]:
    """Servers that stay in a cluster when some devices leave it."""
    return [server.name for server in cluster.servers if server.name not in names]


def not_ready(
    cluster: Cluster, name: str, told: Iterable[Mapping[str, Any]], *, unknown: bool
) -> list[str]:
    """Servers beside a node that are not Ready.

    :param told: the nodes of the cluster, as a server tells.
    :param unknown: whether one that is not among them counts.
    """
    ready = {str(each["name"]): bool(each["ready"]) for each in told}
    return [
        server.name
        for server in cluster.servers
        if server.name != name and not ready.get(node_name(server.name), not unknown)
    ]


def upgrade_problem(
    cluster: Cluster, name: str, wanted: str, told: Sequence[Mapping[str, Any]]
) -> str:
    """Why a node must not be upgraded just now, "" if it may.

    :param wanted: version of K3s that it gets, "" if nobody knows.
    :param told: the nodes of the cluster, as a server tells.
    """
    if away := not_ready(cluster, name, told, unknown=True):
        return f"the server {', '.join(away)} is not Ready; mend it first"
    runs = {str(each["name"]): str(each["version"]) for each in told}
    if name not in [server.name for server in cluster.servers]:
        for server in cluster.servers:
            version = runs[node_name(server.name)]
            if wanted and is_older(version, wanted):
                return f"{server.name} runs {version}: no agent may be newer than a server"
    return ""


def leaving_problem(cluster: Cluster, name: str, told: Iterable[Mapping[str, Any]]) -> str:
    """Why a server must not leave just now, "" if it may.

    One that never was in the cluster, or has left it already, is missed by nobody.

    :param told: the nodes of the cluster, as a server tells.
    """
    away = not_ready(cluster, name, told, unknown=False)
    return f"the server {', '.join(away)} is not Ready; mend it first" if away else ""


def stranded(found: Iterable[Cluster], names: Collection[str]) -> list[str]:
    """Why devices must not leave their clusters: agents would be left without a server."""
    problems = []
    for cluster in found:
        agents = [agent.name for agent in cluster.agents if agent.name not in names]
        if agents and cluster.servers and not staying(cluster, names):
            problems.append(
                f"cluster {cluster.name}: expected a server to stay, or all nodes to go:"
                f" {', '.join(agents)} would have none"
            )
    return problems


def clusters_with(devices: Iterable[Named], names: Collection[str]) -> tuple[Cluster, ...]:
    """The clusters of an inventory that have one of these nodes."""
    return tuple(
        cluster
        for cluster in clusters(devices).values()
        if any(node.name in names for node in cluster.nodes)
    )
