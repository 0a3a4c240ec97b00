"""What the nodes of clusters are, put together from what each of them says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from muster.doctor.services import days_left
from muster.inventory import Device
from muster.k3s.cluster import Cluster, cluster_of, role_of
from muster.k3s.naming import node_name
from muster.k3s.session import Nodes


@dataclass(frozen=True)
class NodeState:
    """A node as it is.

    :param device: its name in the inventory.
    :param node: its name in the cluster.
    :param wanted: ``k3s_version`` of the inventory, "" if it says nothing.
    :param running: version of the kubelet that runs, None if nobody knows.
    :param binary: version of the program on its disk, None if the node did not tell.
    :param ready: whether the cluster calls it Ready, None if nobody knows.
    :param voter: whether its etcd takes part in decisions, None where it has none.
    :param days: until the first of its certificates ends, None if the node did not tell.
    :param problem: why it is not as it should be, "" if it is.
    :param answers: whether it could be asked itself.
    """

    device: str
    node: str
    cluster: str
    role: str
    wanted: str
    running: str | None = None
    binary: str | None = None
    active: bool | None = None
    ready: bool | None = None
    voter: bool | None = None
    cordoned: bool = False
    days: float | None = None
    datastore: str | None = None
    problem: str = ""
    answers: bool = False


def look(
    nodes: Nodes,
    clusters: Iterable[Cluster],
    devices: Mapping[str, Device],
    now: float,
    progress: Callable[[str], None] = lambda _name: None,
) -> dict[str, NodeState]:
    """Ask all nodes of some clusters, and a server of each cluster about those that are silent.

    :param devices: every device of the inventory by name.
    :param now: seconds since 1970 UTC.
    """
    clusters = list(clusters)
    names = [node.name for cluster in clusters for node in cluster.nodes]
    replies = nodes.ask(
        names,
        "inspect",
        lambda name: {"node": node_name(name), "certificates": True},
        progress=progress,
    )
    found = {
        name: state_of(devices[name], reply.document, reply.error, now)
        for name, reply in replies.items()
    }
    for cluster in clusters:
        silent = [node.name for node in cluster.nodes if found[node.name].ready is None]
        if silent:
            told = _of_cluster(nodes, cluster, found)
            for name in silent:
                found[name] = with_node_object(found[name], told.get(node_name(name)))
    return found


def _of_cluster(
    nodes: Nodes, cluster: Cluster, found: Mapping[str, NodeState]
) -> dict[str, Mapping[str, Any]]:
    """All Node objects, from the first server that can tell."""
    for server in cluster.servers:
        if not found[server.name].answers:
            continue
        reply = nodes.ask([server.name], "nodes")[server.name]
        if not reply.error:
            return {str(each["name"]): each for each in reply.document["nodes"]}
    return {}


def state_of(device: Device, seen: Mapping[str, Any], error: str, now: float) -> NodeState:
    """What a node is, from its answer to ``inspect``.

    :param error: why it gave none, "" if it did.
    """
    wanted = str(device.variables.get("k3s_version") or "")
    state = NodeState(
        device.name, node_name(device.name), cluster_of(device), role_of(device), wanted
    )
    if error:
        return replace(state, problem=error)
    state = replace(
        state,
        answers=True,
        binary=seen["binary"],
        active=bool(seen["active"]),
        datastore=seen["datastore"],
        days=_days(seen.get("certificates") or (), now),
    )
    if seen["role"] == "none":
        return replace(state, problem="K3s is not installed")
    if seen["role"] != state.role:
        told = f"is installed as {seen['role']}, but k3s_role is {state.role}"
        return replace(state, problem=told)
    state = with_node_object(state, seen["node"])
    if not seen["active"]:
        return replace(state, problem=f"{seen['unit']} does not run")
    if seen["node"] is None:
        return replace(state, problem=str(seen["error"]) or "it is not in the cluster")
    return state


def with_node_object(state: NodeState, node: Mapping[str, Any] | None) -> NodeState:
    """The same with what its Node object says."""
    if node is None:
        return state
    problem = state.problem
    if not problem and not node["ready"]:
        problem = f"not Ready: {node['reason'] or 'no reason given'}"
    if not problem and state.datastore == "etcd" and node["voter"] is False:
        problem = "its etcd is no voter"
    return replace(
        state,
        running=node["version"],
        ready=bool(node["ready"]),
        voter=node["voter"],
        cordoned=bool(node["unschedulable"]),
        problem=problem,
    )


def _days(certificates: Sequence[Mapping[str, str]], now: float) -> float | None:
    left = [days_left(each["pem"].encode(), now) for each in certificates]
    return min((days for days in left if days is not None), default=None)
