"""A node of K3s that runs the control plane."""

from __future__ import annotations

from pyinfra import host, inventory
from pyinfra.api.deploy import deploy
from pyinfra.operations import files as pyinfra_files

from muster.k3s.cluster import Cluster, clusters
from roles.facts import FACT_SECONDS
from roles.guarded import refuse
from roles.k3s.bringing_up import Start, take_turn
from roles.k3s.config import AGENT_TOKEN, TOKEN, api_url
from roles.k3s.facts import Node, NodeState
from roles.k3s.hardening import AUDIT_LOGS
from roles.k3s.preparing import (
    address_of,
    all_devices,
    bringing,
    device_name,
    hosts_of,
    own_cluster,
    prepared,
)
from roles.k3s.tokens import Wanted
from roles.k3s_server.manifests import manifest_files
from roles.k3s_server.variables import Variables
from roles.operations import place_files

SERVER = "/var/lib/rancher/k3s/server"
_SOURCE = f"{SERVER}/token"


@deploy("k3s_server")
def k3s_server(variables: Variables | None) -> None:
    """Make a device a server of its cluster; servers start one after the other.

    :param variables: None on an agent, which waits for the servers.
    """
    own, start = _prepared(variables) if variables is not None else (-1, None)
    # A turn is an operation that all nodes have, so no node is ahead of its turn. All clusters of
    # the inventory take their turns at the same time.
    for turn in host.loop(range(_most_servers())):
        mine = start if turn == own else None
        take_turn(name=f"servers that start as number {turn + 1}", start=mine)


def _prepared(variables: Variables) -> tuple[int, Start | None]:
    """The turn of this device, and what it starts then; None if it can't be a server."""
    cluster = own_cluster(variables)
    names = [server.name for server in cluster.servers]
    own = names.index(device_name())
    join = _join(variables, cluster, own)
    if isinstance(join, Unclear):
        refuse(name="the cluster that is there already", reason=join.reason)
        return own, None
    ready = prepared(variables, cluster, join)
    if ready is None:
        return own, None
    manifests = manifest_files(variables)
    # K3s makes its own folder so, too, but it is not there before the first start.
    _private(name="folder of the server", path=SERVER)
    if variables.k3s_hardening:
        _private(name="folder of the audit log", path=AUDIT_LOGS)
    if manifests:
        place_files(name="manifests", files=manifests)
    in_run = hosts_of([server for server in cluster.servers if server.name != names[own]])
    voter = cluster.datastore == "etcd"
    return own, Start(
        bringing(variables, ready, voter=voter, others=in_run),
        tuple(_tokens(variables, join, in_run)),
        tuple(ready.files),
    )


def _private(name: str, path: str) -> None:
    pyinfra_files.directory(name=name, path=path, user="root", group="root", mode="700")


class Unclear:
    """Nobody knows whether a cluster is there already.

    :param reason: what was expected.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason


def _join(variables: Variables, cluster: Cluster, own: int) -> str | Unclear | None:
    """URL that this server joins; None if it makes the cluster."""
    nodes: dict[str, Node] = {}
    for server in cluster.servers:
        for name in hosts_of([server]):
            each = inventory.get_host(name)
            if each.connected:
                nodes[server.name] = each.get_fact(NodeState, _timeout=FACT_SECONDS)
    peer = whom_to_join([server.name for server in cluster.servers], own, nodes)
    if peer is None or isinstance(peer, Unclear):
        return peer
    return api_url(variables, address_of(peer))


def whom_to_join(servers: list[str], own: int, nodes: dict[str, Node]) -> str | Unclear | None:
    """Name of the server that a server joins; None if it makes the cluster, or has made it.

    A server that comes back empty must never make a second cluster beside the one that lives on
    the others, even if it is the first in the inventory.

    :param servers: of the cluster, in the order of the inventory.
    :param own: index of the server in question.
    :param nodes: what there is of K3s on those that are in this run.
    """
    here = nodes.get(servers[own], Node())
    others = [name for name in servers if name != servers[own]]
    if here.has_data:
        return others[0] if here.joined and others else None
    with_data = [name for name in others if nodes.get(name, Node()).has_data]
    if with_data:
        return with_data[0]
    if own > 0:
        return servers[0]
    unknown = [name for name in others if name not in nodes]
    if unknown:
        return Unclear(
            f"expected all servers of the cluster in this run, {', '.join(unknown)} is not: a"
            " cluster may live there already, which this server would have to join"
        )
    return None


def _tokens(variables: Variables, join: str | None, in_run: list[str]) -> list[Wanted]:
    if join is None:
        return [
            Wanted(TOKEN, password=variables.k3s_server_token),
            Wanted(AGENT_TOKEN, password=variables.k3s_server_agent_token),
        ]
    return [
        Wanted(TOKEN, _SOURCE, tuple(in_run)),
        Wanted(AGENT_TOKEN, AGENT_TOKEN, tuple(in_run)),
    ]


def _most_servers() -> int:
    return max(len(cluster.servers) for cluster in clusters(all_devices()).values())
