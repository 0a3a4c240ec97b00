"""Nodes of K3s clusters: devices as all others, whose containers their cluster makes.

Everything is told to the node itself, by the fleet below this one, as its own guard has to be able
to take a switch back. The cluster is told one thing, by one of its servers, before the first node
stages a variant of a release: the DaemonSet that makes the pods of the nodes that ask for it.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from muster.errors import InputError
from muster.fleet.interface import Answer, Fleet, Order, Trouble, Verb
from muster.inventory import Device
from muster.k3s.cluster import cluster_of, clusters, role_of
from muster.k3s.workload import KEPT, daemon_set, namespace
from muster.release import Release

PROGRAM = "muster-k3s"
APPLY_SECONDS = 150.0
RUNTIME = "k3s"


@dataclass(frozen=True)
class Node:
    """What has to be known of a device that is a node.

    :param cluster: name of its cluster.
    :param servers: devices that can be told what its cluster is to run, in the order in which they
        are tried.
    :param registry: ``host:port`` from which the cluster's nodes pull.
    """

    cluster: str
    servers: tuple[str, ...]
    registry: str


def is_node(device: Device) -> bool:
    """Whether a device's models run on K3s."""
    return bool(device.variables.get("muster_device_runtime") == RUNTIME)


def nodes_among(devices: Sequence[Device], known: Sequence[Device]) -> dict[str, Node]:
    """The devices whose models run on K3s.

    :param known: every device of the inventory: servers need not be among ``devices``.
    :raises InputError: a device that is no node, a cluster without server or with two registries.
    """
    found, problems = {}, []
    every = clusters(known)
    for device in filter(is_node, devices):
        cluster = every.get(cluster_of(device))
        registries = sorted(
            {
                str(each.variables.get("muster_registry"))
                for each in (cluster.nodes if cluster else ())
                if each.variables.get("muster_device_runtime") == RUNTIME
            }
        )
        if role_of(device) == "none":
            text = "k3s_role: expected server or agent, as muster_device_runtime is k3s"
            problems.append(f"device {device.name}: {text}")
        elif cluster is None or not cluster.servers:
            text = "k3s_cluster: expected a device with k3s_role: server in its cluster"
            problems.append(f"device {device.name}: {text} {cluster_of(device)}")
        elif len(registries) > 1:
            text = f"expected one for all nodes of cluster {cluster.name}, as one pod is for all"
            told = ", ".join(registries)
            problems.append(f"device {device.name}: muster_registry: {text}; got {told}")
        else:
            servers = tuple(server.name for server in cluster.servers)
            found[device.name] = Node(cluster.name, servers, registries[0])
    if problems:
        raise InputError(problems)
    return found


def server_name(device: str) -> str:
    """Name under which the fleet below knows a device as a server: a device gets one order at a
    time, and a server may be at work as a node."""
    return f"{device}#k3s"


@dataclass
class _Work:
    """A DaemonSet on its way to a cluster.

    :param waiting: orders that go out when it is there.
    :param left: servers that have not been tried.
    """

    node: Node
    document: Mapping[str, object]
    waiting: list[Order]
    left: list[str]


class K3sFleet:
    """Passes orders on to another fleet; what a node stages, its cluster is told first.

    :param fleet: knows every server also by :func:`server_name`.
    :param nodes: the nodes by name; other devices may be in the fleet too.
    """

    def __init__(self, fleet: Fleet, nodes: Mapping[str, Node]) -> None:
        self._fleet, self._nodes = fleet, nodes
        self._done: set[tuple[str, str, str]] = set()
        self._works: dict[str, deque[_Work]] = defaultdict(deque)
        self._ready: deque[Answer] = deque()
        self.now, self.wall_time, self.close = fleet.now, fleet.wall_time, fleet.close

    def submit(self, order: Order) -> None:
        """Start an order; return at once."""
        node = self._nodes.get(order.device)
        if node is None or order.program or order.verb is not Verb.STAGE:
            self._fleet.submit(order)
            return
        release = Release.from_canonical(str(order.document["document"]))
        variant = str(order.document["variant"])
        if (node.cluster, release.id, variant) in self._done:
            self._fleet.submit(order)
            return
        registry = str(order.document.get("registry") or node.registry)
        document = {
            "manifests": [namespace(), daemon_set(release, variant, registry)],
            "prune": {"model": release.model, "keep": KEPT},
        }
        works = self._works[node.cluster]
        for work in works:
            if work.document == document:
                work.waiting.append(order)
                return
        works.append(_Work(node, document, [order], list(node.servers)))
        if len(works) == 1:
            self._apply(works[0])

    def _apply(self, work: _Work) -> None:
        server = server_name(work.left.pop(0))
        self._fleet.submit(Order(server, Verb.APPLY, work.document, APPLY_SECONDS, PROGRAM))

    def next_answer(self, timeout: float | None) -> Answer | None:
        """Wait for an answer; see :class:`muster.fleet.interface.Fleet`."""
        until = None if timeout is None else self.now() + timeout
        while not self._ready:
            left = None if until is None else max(0.0, until - self.now())
            answer = self._fleet.next_answer(left)
            if answer is None:
                return None
            if answer.verb is not Verb.APPLY:
                return _judged(answer) if answer.device in self._nodes else answer
            self._go_on(answer)
        return self._ready.popleft()

    def _go_on(self, answer: Answer) -> None:
        """Try the next server, or let the nodes go on that waited for this one."""
        works = next(
            works
            for works in self._works.values()
            if works and answer.device in map(server_name, works[0].node.servers)
        )
        work = works[0]
        if answer.trouble is not None and work.left:
            self._apply(work)
            return
        works.popleft()
        for order in work.waiting:
            if answer.trouble is None:
                document = order.document
                release = Release.from_canonical(str(document["document"])).id
                self._done.add((work.node.cluster, release, str(document["variant"])))
                self._fleet.submit(order)
            else:
                told = f"cluster {work.node.cluster}: {answer.message}"
                self._ready.append(
                    replace(answer, device=order.device, verb=order.verb, message=told)
                )
        if works:
            self._apply(works[0])


def _judged(answer: Answer) -> Answer:
    """A node that its cluster has lost sight of is out of reach, although it answers."""
    if answer.trouble is not None:
        return answer
    if answer.verb is Verb.INSPECT:
        runtime = answer.document.get("runtime") or {}
        ready = runtime.get("name") != RUNTIME or runtime.get("ready")
    elif answer.verb is Verb.PROBE:
        ready = answer.document.get("runtime_ready", True)
    else:
        ready = True
    if ready:
        return answer
    text = "the node is not Ready in its cluster, or can't reach it"
    return Answer(
        answer.device, answer.verb, {}, Trouble.UNREACHABLE, message=text, seconds=answer.seconds
    )
