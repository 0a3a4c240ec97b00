"""What an upgrade of K3s does to one node: drain it, provision it, let pods come again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from muster.fields import parse_duration
from muster.fleet.aside import AsideFleet
from muster.fleet.interface import Answer, Order, Trouble, Verb
from muster.fleet.over_k3s import PROGRAM, server_name
from muster.inventory import Device
from muster.k3s.cluster import Cluster, Named, cluster_of, clusters, upgrade_problem
from muster.k3s.naming import node_name

DRAIN_SECONDS = 300.0
MARGIN_SECONDS = 90.0
"""Beside the time that a drain itself may take: to connect, and to undo it."""

Install = Callable[[str], tuple[str, bool]]
"""Provisions the device of that name; returns why it failed, "" if it did not, and whether it is
of any use to try again."""


class Upgrading:
    """Upgrades nodes, each by itself.

    :param aside: reaches the servers by :func:`muster.fleet.over_k3s.server_name`.
    :param devices: every device of the inventory.
    """

    def __init__(self, aside: AsideFleet, devices: Sequence[Device], install: Install) -> None:
        self._aside, self._install = aside, install
        self._devices = {device.name: device for device in devices}
        self._clusters = clusters(devices)
        self._failed: dict[str, str] = {}

    def __call__(self, name: str) -> str:
        """Upgrade one node; returns why that failed, "" if it did not."""
        if name in self._failed:  # the engine tries again; what has failed for good need not
            return self._failed[name]
        problem, again = self._upgrade(name)
        if problem and not again:
            self._failed[name] = problem
        return problem

    def _upgrade(self, name: str) -> tuple[str, bool]:
        device = self._devices[name]
        cluster = self._clusters[cluster_of(device)]
        # Others may have gone away since the plan was made, and the strategy not have minded.
        if any(server.name != name for server in cluster.servers):
            told = self._tell(cluster, name, Verb.NODES, {}, 0.0)
            if told.trouble is not None:
                return told.message, told.trouble is Trouble.UNREACHABLE
            wanted = str(device.variables.get("k3s_version") or "")
            if problem := upgrade_problem(cluster, name, wanted, told.document["nodes"]):
                return problem, True
        limit = drain_seconds(device, cluster)
        if limit is None:
            return self._install(name)
        about = {"node": node_name(name)}
        told = self._tell(cluster, name, Verb.DRAIN, {**about, "seconds": limit}, limit)
        if told.trouble is not None:
            return told.message, told.trouble is Trouble.UNREACHABLE
        problem, again = self._install(name)
        told = self._tell(cluster, name, Verb.UNCORDON, about, 0.0)
        if told.trouble is not None:
            stays = f"{name} stays cordoned: {told.message}"
            return (f"{problem}; {stays}" if problem else stays), True
        return problem, again

    def _tell(
        self, cluster: Cluster, name: str, verb: Verb, document: Mapping[str, object], takes: float
    ) -> Answer:
        """Tell the first server that can do it; the node itself is asked last."""
        answer = None
        for server in helpers(cluster, name):
            order = Order(server_name(server.name), verb, document, takes + MARGIN_SECONDS, PROGRAM)
            answer = self._aside.ask(order)
            if answer.trouble is not Trouble.UNREACHABLE and answer.code not in _OF_SERVER:
                return answer
        if answer is None:
            raise AssertionError(f"cluster {cluster.name} has no server")
        return answer


_OF_SERVER = frozenset({"api_unreachable", "no_server", "no_k3s", "no_program"})
"""Refusals that say something of the server that was asked, not of the node."""


def helpers(cluster: Cluster, name: str) -> list[Named]:
    """Servers that can be asked to do something about a node, itself last."""
    return sorted(cluster.servers, key=lambda server: server.name == name)


def drain_seconds(device: Device, cluster: Cluster) -> float | None:
    """How long a node may take to be drained, None if it is not: nor is one that is alone, whose
    pods have nowhere to go."""
    if len(cluster.nodes) < 2 or not device.variables.get("k3s_drain", True):
        return None
    return parse_duration(device.variables.get("k3s_drain_timeout", DRAIN_SECONDS))
