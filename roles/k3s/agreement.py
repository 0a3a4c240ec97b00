"""What the nodes of a cluster must agree on, according to the inventory. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from muster.fields import describe
from muster.inventory import SITE_PREFIX
from muster.k3s.cluster import DEFAULT_CLUSTER, Cluster, Named, cluster_of, clusters, role_of
from muster.k3s.naming import NAME_LENGTH, is_node_name, node_name
from muster.k3s.versions import parse
from roles.k3s.keys import AGREED

API_PORT = 6443

Finding = tuple[str, str, str]
"""Name of a device, variable, and what is wrong with it."""

_AGREED_VARIABLES: tuple[tuple[str, Any], ...] = (
    ("k3s_api_address", None),
    ("k3s_api_port", API_PORT),
    ("k3s_server_datastore", "auto"),
    ("k3s_server_datastore_endpoint", None),
    ("k3s_server_secrets_encryption", True),
    ("k3s_hardening", False),
)


class Grouped(Named, Protocol):
    """A device of an inventory, and where it belongs."""

    @property
    def groups(self) -> Sequence[str]:
        """Its groups."""


def findings(devices: Sequence[Grouped]) -> Iterator[Finding]:
    """What does not fit together in the clusters of an inventory."""
    yield from _sites(devices)
    for cluster in clusters(devices).values():
        yield from _members(cluster)
        if cluster.servers:
            yield from _datastore(cluster)
            yield from _agreement(cluster)
            yield from _versions(cluster)


def _sites(devices: Iterable[Grouped]) -> Iterator[Finding]:
    """Sites that all keep the default name would silently be one cluster."""
    unnamed = [
        (device.name, group)
        for device in devices
        if role_of(device) != "none" and cluster_of(device) == DEFAULT_CLUSTER
        for group in device.groups
        if group.startswith(SITE_PREFIX)
    ]
    sites = sorted({site for _, site in unnamed})
    if len(sites) > 1:
        text = (
            f"expected no cluster called {DEFAULT_CLUSTER} on nodes of several sites"
            f" ({', '.join(sites)}): set k3s_cluster for each site, or one other name for a"
            " cluster across them"
        )
        yield from ((name, "k3s_cluster", text) for name, _ in unnamed)


def _members(cluster: Cluster) -> Iterator[Finding]:
    if not cluster.servers:
        text = f"expected a server in the cluster {cluster.name}, it has agents alone"
        yield from ((agent.name, "k3s_cluster", text) for agent in cluster.agents)
    seen: dict[str, str] = {}
    for device in (*cluster.servers, *cluster.agents):
        name = node_name(device.name)
        if not is_node_name(name):
            text = (
                f"expected a name of letters, digits, '-' and '.' for the device, at most"
                f" {NAME_LENGTH}: it would be the node {name[:80]!r}"
            )
            yield device.name, "k3s_role", text
        if name in seen:
            text = (
                f"expected another name of the device: {device.name} and {seen[name]} would both be"
                f" the node {name} of the cluster {cluster.name}"
            )
            yield device.name, "k3s_cluster", text
        seen.setdefault(name, device.name)


def _datastore(cluster: Cluster) -> Iterator[Finding]:
    count, first = len(cluster.servers), cluster.first
    endpoint = first.variables.get("k3s_server_datastore_endpoint")
    if cluster.datastore == "sqlite" and count > 1:
        text = f"expected etcd or external for {count} servers, got sqlite: it serves one alone"
        yield first.name, "k3s_server_datastore", text
    if cluster.datastore == "etcd" and count % 2 == 0:
        text = (
            f"expected an odd number of servers with embedded etcd in the cluster {cluster.name},"
            f" got {count}: an even number stands no more failures, and splits in halves"
        )
        yield from ((server.name, "k3s_role", text) for server in cluster.servers)
    if cluster.datastore == "external" and endpoint is None:
        yield first.name, "k3s_server_datastore_endpoint", "expected a URL, got nothing"
    if cluster.datastore != "external" and endpoint is not None:
        text = f"expected no URL, as the cluster keeps its data in {cluster.datastore}, got one"
        yield first.name, "k3s_server_datastore_endpoint", text


def _agreement(cluster: Cluster) -> Iterator[Finding]:
    first = cluster.first
    nodes = (*cluster.servers[1:], *cluster.agents)
    for device in nodes:
        for name, default in _AGREED_VARIABLES:
            of_servers = name.startswith("k3s_server_") or name == "k3s_hardening"
            if of_servers and device not in cluster.servers:
                continue
            here, there = (each.variables.get(name, default) for each in (device, first))
            if here != there:
                secret = name == "k3s_server_datastore_endpoint"
                yield device.name, name, _differs(cluster, "another one" if secret else None, here)
    for server in cluster.servers[1:]:
        here, there = (_config(each) for each in (server, first))
        for key in AGREED:
            if here.get(key) != there.get(key):
                text = _differs(cluster, None, here.get(key))
                yield server.name, "k3s_config", f"{key}: {text}"
        wanted = _disabled(first)
        if _disabled(server) != wanted:
            text = _differs(cluster, ", ".join(sorted(_disabled(server))) or "nothing", None)
            yield server.name, "k3s_server_disable", text


def _differs(cluster: Cluster, shown: str | None, value: Any) -> str:
    return (
        f"expected the same on all nodes of the cluster {cluster.name} as on {cluster.first.name},"
        f" got {describe(value) if shown is None else shown}"
    )


def _config(device: Named) -> Mapping[str, Any]:
    found = device.variables.get("k3s_config", {})
    return found if isinstance(found, Mapping) else {}


def _disabled(device: Named) -> frozenset[str]:
    names = device.variables.get("k3s_server_disable", ())
    both = [*(names if isinstance(names, list) else ()), *_listed(_config(device).get("disable"))]
    return frozenset(map(str, both))


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _versions(cluster: Cluster) -> Iterator[Finding]:
    """Agents must not be newer than any server."""
    try:
        oldest = min(parse(str(each.variables.get("k3s_version"))) for each in cluster.servers)
        for agent in cluster.agents:
            version = str(agent.variables.get("k3s_version"))
            if parse(version) > oldest:
                text = f"expected no newer version than on the servers of {cluster.name}"
                yield agent.name, "k3s_version", f"{text}, got {version}"
    except ValueError:
        return  # told where the versions themselves are checked
