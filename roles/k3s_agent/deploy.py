"""A node of K3s that runs pods."""

from __future__ import annotations

from pyinfra.api.deploy import deploy

from roles.k3s.bringing_up import brought_up
from roles.k3s.config import TOKEN, api_url
from roles.k3s.preparing import address_of, bringing, hosts_of, own_cluster, prepared
from roles.k3s.tokens import Wanted
from roles.k3s_agent.variables import Variables

AT_ONCE = 50
"""So many agents join at a time: more are too many for the servers."""

_SOURCE = "/var/lib/rancher/k3s/server/agent-token"


@deploy("k3s_agent")
def k3s_agent(variables: Variables) -> None:
    """Make a device an agent of its cluster."""
    cluster = own_cluster(variables)
    ready = prepared(variables, cluster, api_url(variables, address_of(cluster.first.name)))
    if ready is None:
        return
    servers = tuple(hosts_of(cluster.servers))
    brought_up(
        name=f"agent of {cluster.name}",
        bringing=bringing(variables, ready, others=servers),
        tokens=[Wanted(TOKEN, _SOURCE, servers)],
        files=ready.files,
        _parallel=AT_ONCE,
    )
