"""What is done to whole clusters beside an upgrade: one node after the other, the servers' order
minded, and what can be taken back is taken back."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

from muster.errors import MusterError
from muster.k3s.cluster import Cluster, leaving_problem, staying
from muster.k3s.naming import node_name
from muster.k3s.session import NO_PROGRAM, UNREACHABLE, NodeError, Reply

START_SECONDS = 300.0
"""How long a node may take until it is Ready again."""
WORK_SECONDS = 700.0
"""Bound of one piece of work on a node, with its waiting."""
MARGIN_SECONDS = 90.0
"""Beside the time that a drain itself may take: to connect, and to undo it."""

BUSY_ROUNDS, BUSY_SECONDS = 30, 2.0
"""How often, and after which pause, a node is asked again that is at work."""

Say = Callable[[str], None]


class Asked(Protocol):
    """Nodes that can be told something; see :class:`muster.k3s.session.Nodes`."""

    def ask(
        self, names: Sequence[str], verb: str, document: Any = None, seconds: float = ...
    ) -> dict[str, Reply]: ...

    def tell(
        self, name: str, verb: str, document: Mapping[str, Any] | None = None, seconds: float = ...
    ) -> Mapping[str, Any]: ...


def wait(nodes: Asked, name: str) -> None:
    """Wait until a node is Ready, and votes if it has an etcd.

    :raises NodeError: it is not, after ``START_SECONDS``.
    """
    document = {"node": node_name(name), "seconds": START_SECONDS}
    nodes.tell(name, "wait", document, START_SECONDS + 90.0)


def rotate_certificates(nodes: Asked, clusters: Sequence[Cluster], names: Collection[str],
                        say: Say) -> None:  # fmt: skip
    """Have nodes make their certificates anew, the servers first, one node at a time.

    :raises NodeError: a node did not come back; those after it were not touched.
    """
    for cluster in clusters:
        for node in cluster.nodes:
            if node.name in names:
                nodes.tell(node.name, "rotate-certificates", {}, WORK_SECONDS)
                wait(nodes, node.name)
                say(f"{node.name}: has new certificates")


def rotate_token(nodes: Asked, cluster: Cluster, say: Say) -> None:
    """Give a cluster another token, and hand it to the nodes that join with it.

    :raises NodeError: a node did not come back. Run again, all nodes get a token anew.
    """
    first = cluster.first.name
    before = nodes.tell(first, "token")
    nodes.tell(first, "rotate-token", {}, WORK_SECONDS)
    after = nodes.tell(first, "token")
    # The server that made the cluster is configured with the password alone.
    password = str(after["token"]).rpartition(":")[2]
    _take(nodes, first, password, say)
    for server in cluster.servers[1:]:
        _take(nodes, server.name, str(after["token"]), say)
    if before.get("agent_token") == after.get("agent_token"):
        say("agents join with a token of their own, which stays")
        return
    for agent in cluster.agents:
        _take(nodes, agent.name, str(after["agent_token"]), say)


def _take(nodes: Asked, name: str, token: str, say: Say) -> None:
    nodes.tell(name, "take-token", {"token": token}, WORK_SECONDS)
    wait(nodes, name)
    say(f"{name}: has the new token")


def restore(
    nodes: Asked, cluster: Cluster, snapshot: str, say: Say, token: str | None = None
) -> None:
    """Take a cluster back to what a snapshot holds, which lies on its first server.

    :param token: the cluster's token of that time, None if it is the one that the server keeps.
    :raises MusterError: it was not possible, or was interrupted; where nothing was restored, all
        servers run as before.
    """
    first, others = cluster.first.name, [server.name for server in cluster.servers[1:]]
    stopped: list[str] = []
    restoring = False
    try:
        for name in (*others, first):
            stopped.append(name)  # one that did not answer may have stopped
            nodes.tell(name, "stop", {}, WORK_SECONDS)
        say("K3s is stopped on all servers; what runs on the nodes goes on")
        document = {"snapshot": snapshot, **({"token": token} if token else {})}
        restoring = True
        nodes.tell(first, "restore", document, WORK_SECONDS)
    except (NodeError, KeyboardInterrupt) as error:
        if restoring and getattr(error, "code", NO_PROGRAM) in _UNSURE:
            # The others would revive the old cluster beside the restored one.
            raise MusterError(
                f"{_why(error)}; whether {first} has restored is not known, so K3s stays stopped on"
                f" {', '.join(stopped)}: run this again"
            ) from None
        left = _start_again(nodes, [first, *others], stopped)
        told = f"these do not run: {', '.join(left)}" if left else "all servers run as before"
        raise MusterError(f"{_why(error)}; {told}") from None
    say(f"{first}: {snapshot} is restored")
    done: list[str] = []
    try:
        # All before any starts: where this is cut off, none of them revives the old cluster.
        for name in others:
            nodes.tell(name, "put-datastore-aside")
        joining: dict[str, Any] = {}
        for name in (first, *others):
            if joining:
                nodes.tell(name, "take-token", joining, WORK_SECONDS)
            else:
                nodes.tell(name, "start", {}, WORK_SECONDS)
            wait(nodes, name)
            if name == first and token and others:
                joining = {"token": nodes.tell(first, "token")["token"]}
            done.append(name)
            say(f"{name}: is in the restored cluster")
    except (NodeError, KeyboardInterrupt) as error:
        left = [name for name in (first, *others) if name not in done]
        told = (
            f"restored, but not up yet: {', '.join(left)}; what they held before is kept in"
            " /var/lib/rancher/k3s/server; mend it, then run this again"
        )
        raise MusterError(f"{_why(error)}; {told}") from None


_UNSURE = (UNREACHABLE, NO_PROGRAM, "disturbed")
"""After what a restore may have happened, or not."""


def _why(error: BaseException) -> str:
    return str(error) or "interrupted"


def _start_again(nodes: Asked, order: Sequence[str], stopped: Collection[str]) -> list[str]:
    """Start servers; returns those that did not."""
    left = [name for name in order if name in stopped]
    for _ in range(BUSY_ROUNDS):
        # Together: a server of etcd does not come up before most of them do.
        replies = nodes.ask(left, "start", {}, WORK_SECONDS)
        left = [name for name in left if replies[name].error]
        if not any(replies[name].code == "busy" for name in left):
            break
        time.sleep(BUSY_SECONDS)  # it does to its end what it was told before
    return left


def reset_order(clusters: Sequence[Cluster], names: Collection[str]) -> list[tuple[Cluster, str]]:
    """Nodes in the order in which they leave: agents first, then servers, the first of all last."""
    order: list[tuple[Cluster, str]] = []
    for cluster in clusters:
        leaving = (*cluster.agents, *reversed(cluster.servers))
        order += [(cluster, node.name) for node in leaving if node.name in names]
    return order


def leave(
    nodes: Asked,
    cluster: Cluster,
    name: str,
    leaving: Collection[str],
    *,
    drain_seconds: float | None,
) -> None:
    """Take a node out of its cluster and leave nothing of K3s on it.

    :param leaving: all nodes that leave; where no server stays, the cluster ends and nobody is
        told.
    :param drain_seconds: how long it may take to be drained, None if it is not.
    :raises MusterError: a server is to leave while another one is not Ready.
    :raises NodeError: it was not possible; a node that could not be drained is as before.
    """
    servers = staying(cluster, leaving)
    document = {"node": node_name(name)}
    if servers:  # where it is out of reach, the cluster keeps it
        nodes.tell(name, "inspect")
    if servers and name in [server.name for server in cluster.servers]:
        told = tell_one_of(nodes, servers, "nodes", {})["nodes"]
        if problem := leaving_problem(cluster, name, told):
            raise MusterError(f"{name}: {problem}")
    if servers and drain_seconds is not None:
        try:
            seconds = max(WORK_SECONDS, drain_seconds + MARGIN_SECONDS)
            tell_one_of(nodes, servers, "drain", {**document, "seconds": drain_seconds}, seconds)
        except NodeError as error:
            if error.code != "no_node":  # which has left already
                raise
    if servers:  # before it stops: etcd must not count on it any more
        tell_one_of(nodes, servers, "delete-node", document)
    nodes.tell(name, "reset", {}, WORK_SECONDS)
    if servers:  # its kubelet may have been quick to come back in between
        tell_one_of(nodes, servers, "delete-node", document)


def tell_one_of(
    nodes: Asked,
    servers: Sequence[str],
    verb: str,
    document: Mapping[str, Any],
    seconds: float = WORK_SECONDS,
) -> Mapping[str, Any]:
    """Have the first server do something that can.

    :raises NodeError: none could, or the node is the trouble.
    """
    error: NodeError | None = None
    for server in servers:
        try:
            return nodes.tell(server, verb, document, seconds)
        except NodeError as problem:
            if problem.code in ("no_node", "drain_failed"):
                raise
            error = problem
    if error is None:
        raise AssertionError("expected a server that stays")
    raise error
