"""What a cluster of K3s is told when one of its nodes is reset or retired."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from muster.fleet.aside import AsideFleet
from muster.fleet.configuring import PreparingFleet, Work
from muster.fleet.interface import Answer, Fleet, Order, Verb
from muster.fleet.over_k3s import PROGRAM, server_name
from muster.fleet.upgrading import MARGIN_SECONDS, drain_seconds
from muster.inventory import Device
from muster.k3s.cluster import (
    Cluster,
    cluster_of,
    clusters,
    leaving_problem,
    role_of,
    staying,
    stranded,
)
from muster.k3s.naming import node_name
from muster.tasks import RESET


class Leaving:
    """Sees nodes out of their clusters.

    :param aside: reaches the servers by :func:`muster.fleet.over_k3s.server_name`.
    :param devices: every device of the inventory.
    :param names: those that leave.
    """

    def __init__(
        self, aside: AsideFleet, devices: Sequence[Device], names: Collection[str]
    ) -> None:
        self._aside, self._names = aside, names
        self._devices = {device.name: device for device in devices}
        self._clusters = clusters(devices)

    def drain(self, name: str) -> str:
        """Have the pods of a node move, and etcd forget a server before it is wiped; returns why
        that failed, "" if it did not."""
        device = self._devices[name]
        cluster = self._cluster(device)
        if cluster is None:
            return ""
        server = role_of(device) == "server"
        if server and (problem := self._others(cluster, name)):
            return problem
        limit = drain_seconds(device, cluster)
        if limit is not None and (
            problem := self._tell(cluster, name, Verb.DRAIN, limit, {"seconds": limit})
        ):
            return problem
        return self._tell(cluster, name, Verb.DELETE_NODE, 0.0, {}) if server else ""

    def _others(self, cluster: Cluster, name: str) -> str:
        """Why a server must not leave just now: etcd may need it."""
        problem = ""
        for server in staying(cluster, self._names):
            order = Order(server_name(server), Verb.NODES, {}, MARGIN_SECONDS, PROGRAM)
            answer = self._aside.ask(order)
            if answer.trouble is None:
                return leaving_problem(cluster, name, answer.document["nodes"])
            problem = answer.message
        return problem

    def forget(self, name: str) -> str:
        """Take a node out of its cluster; returns why that failed, "" if it did not."""
        cluster = self._cluster(self._devices[name])
        return "" if cluster is None else self._tell(cluster, name, Verb.DELETE_NODE, 0.0, {})

    def _cluster(self, device: Device) -> Cluster | None:
        """The cluster that a node leaves, None where there is none or it ends."""
        if role_of(device) == "none":
            return None
        cluster = self._clusters[cluster_of(device)]
        return cluster if staying(cluster, self._names) else None

    def _tell(
        self, cluster: Cluster, name: str, verb: Verb, takes: float, more: dict[str, float]
    ) -> str:
        problem = ""
        for server in staying(cluster, self._names):
            answer = self._aside.ask(about_node(server, name, verb, takes, more))
            if answer.trouble is None or answer.code == "no_node":
                return ""
            problem = answer.message
            if answer.code == "drain_failed":
                break
        return problem


def about_node(server: str, name: str, verb: Verb, takes: float, more: dict[str, float]) -> Order:
    """What a server is told about a node."""
    document = {"node": node_name(name), **more}
    return Order(server_name(server), verb, document, takes + MARGIN_SECONDS, PROGRAM)


def leaving_problems(devices: Sequence[Device], names: Collection[str]) -> list[str]:
    """Why devices must not be reset: agents would be left without a server, or etcd without most
    of its members."""
    of_devices = clusters(devices).values()
    found = stranded(of_devices, names)
    for cluster in of_devices:
        servers = [server.name for server in cluster.servers if server.name in names]
        if len(servers) > 1 and staying(cluster, names):
            found.append(
                f"cluster {cluster.name}: expected one server at a time, or all of them, got"
                f" {', '.join(servers)}: the others could not decide anything without most of them"
            )
    return found


def leaving_fleet(fleet: Fleet, devices: Sequence[Device], names: Collection[str]) -> Fleet:
    """A fleet on which nodes leave their clusters as they are reset: drained before, servers taken
    out before as well, and agents when nothing of K3s runs there any more."""
    if not any(role_of(device) != "none" for device in devices if device.name in names):
        return fleet
    aside = AsideFleet(fleet)
    leaving = Leaving(aside, devices, names)
    return PreparingFleet(
        aside,
        {
            (Verb.SWITCH, RESET): Work(leaving.drain, "draining the node", "drain_failed"),
            (Verb.CONFIRM, RESET): Work(leaving.forget, "leaving the cluster", "leave_failed"),
        },
    )


def forget_nodes(fleet: Fleet, devices: Sequence[Device], names: Collection[str]) -> dict[str, str]:
    """Take devices out of their clusters that can't be asked themselves.

    :param fleet: nothing else may be under way in it.
    :returns: why that failed, by device.
    """
    problems = {}
    found = clusters(devices)
    for device in devices:
        if device.name not in names or role_of(device) == "none":
            continue
        servers = staying(found[cluster_of(device)], names)
        answer: Answer | None = None
        for server in servers:
            fleet.submit(about_node(server, device.name, Verb.DELETE_NODE, 0.0, {}))
            answer = fleet.next_answer(None)
            if answer is None or answer.trouble is None:
                break
        if servers and answer is not None and answer.trouble is not None:
            problems[device.name] = answer.message
    return problems
