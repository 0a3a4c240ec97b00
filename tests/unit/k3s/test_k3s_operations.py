"""What is done to whole clusters: in which order, and what is left where something fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from muster.errors import MusterError
from muster.k3s import operations
from muster.k3s.cluster import Cluster, stranded
from muster.k3s.session import NodeError, Reply


@dataclass(frozen=True)
class Device:
    name: str
    variables: Mapping[str, Any] = field(default_factory=dict)


class Nodes:
    """Nodes that do what they are told, but for what ``fails``."""

    def __init__(self, fails: Mapping[tuple[str, str], str] | None = None) -> None:
        self.fails = fails or {}
        self.told: list[str] = []
        self.sent: dict[str, Mapping[str, Any]] = {}
        self.seconds: dict[str, float] = {}
        self.answers: dict[str, list[dict[str, Any]]] = {}

    def ask(
        self, names: Sequence[str], verb: str, document: Any = None, seconds: float = 0.0
    ) -> dict[str, Reply]:
        found = {}
        for name in names:
            call = f"{name} {verb}"
            self.told.append(call)
            self.sent[call] = dict(document or {})
            self.seconds[call] = seconds
            code = self.fails.get((name, verb))
            queue = self.answers.get(call, [])
            answer = (queue.pop(0) if len(queue) > 1 else queue[0]) if queue else {}
            found[name] = Reply(error="no", code=code) if code else Reply(answer)
        return found

    def tell(
        self,
        name: str,
        verb: str,
        document: Mapping[str, Any] | None = None,
        seconds: float = 0.0,
    ) -> Mapping[str, Any]:
        reply = self.ask([name], verb, document, seconds)[name]
        if reply.error:
            raise NodeError(f"{name}: {verb}: {reply.error}", reply.code)
        return reply.document


SERVERS = tuple(Device(f"s{i}") for i in (1, 2, 3))
AGENTS = (Device("Edge_1"), Device("a2"))
CLUSTER = Cluster("c", SERVERS, AGENTS)


def say(_text: str) -> None:
    pass


def test_certificates_are_rotated_one_node_after_the_other_servers_first() -> None:
    nodes = Nodes()
    names = ["Edge_1", "s2", "s1"]
    operations.rotate_certificates(nodes, [CLUSTER], names, say)
    assert nodes.told == [
        "s1 rotate-certificates", "s1 wait",
        "s2 rotate-certificates", "s2 wait",
        "Edge_1 rotate-certificates", "Edge_1 wait",
    ]  # fmt: skip
    assert nodes.sent["Edge_1 wait"]["node"] == "edge-1"


def test_a_node_that_does_not_come_back_ends_the_rotation() -> None:
    nodes = Nodes({("s1", "wait"): "not_ready"})
    with pytest.raises(NodeError, match="s1: wait"):
        operations.rotate_certificates(nodes, [CLUSTER], ["s1", "s2"], say)
    assert not any(call.startswith("s2") for call in nodes.told)


def test_a_token_goes_to_the_servers_and_not_to_agents_with_their_own() -> None:
    nodes = Nodes()
    nodes.answers["s1 token"] = [
        {"token": "K10x::server:old", "agent_token": "K10x::node:agent"},
        {"token": "K10x::server:new", "agent_token": "K10x::node:agent"},
    ]
    told: list[str] = []
    operations.rotate_token(nodes, CLUSTER, told.append)
    assert nodes.sent["s1 take-token"] == {"token": "new"}
    assert nodes.sent["s2 take-token"] == {"token": "K10x::server:new"}
    assert nodes.told.index("s2 wait") < nodes.told.index("s3 take-token")
    assert "a2 take-token" not in nodes.told
    assert not any("new" in text and "K10" in text for text in told)


def test_agents_get_the_token_that_they_share_with_servers() -> None:
    nodes = Nodes()
    nodes.answers["s1 token"] = [
        {"token": "K10x::server:old", "agent_token": "K10x::server:old"},
        {"token": "K10x::server:new", "agent_token": "K10x::server:new"},
    ]
    operations.rotate_token(nodes, CLUSTER, say)
    assert nodes.sent["a2 take-token"] == {"token": "K10x::server:new"}


def test_a_restore_stops_all_and_the_others_join_anew_one_at_a_time() -> None:
    nodes = Nodes()
    operations.restore(nodes, CLUSTER, "before", say)
    # none can revive the old cluster once the first has the snapshot
    assert nodes.told == [
        "s2 stop", "s3 stop", "s1 stop", "s1 restore",
        "s2 put-datastore-aside", "s3 put-datastore-aside",
        "s1 start", "s1 wait", "s2 start", "s2 wait", "s3 start", "s3 wait",
    ]  # fmt: skip
    assert nodes.sent["s1 restore"] == {"snapshot": "before"}


def test_the_others_join_a_restored_cluster_with_its_token() -> None:
    nodes = Nodes()
    nodes.answers["s1 token"] = [{"token": "K10x::server:older", "agent_token": None}]
    told: list[str] = []
    operations.restore(nodes, CLUSTER, "before", told.append, "older")
    assert nodes.sent["s1 restore"] == {"snapshot": "before", "token": "older"}
    assert nodes.told[6:] == [
        "s1 start", "s1 wait", "s1 token",
        "s2 take-token", "s2 wait", "s3 take-token", "s3 wait",
    ]  # fmt: skip
    assert nodes.sent["s3 take-token"] == {"token": "K10x::server:older"}
    assert not any("older" in text for text in told)


@pytest.mark.parametrize("fails", [("s1", "restore"), ("s3", "stop"), ("s1", "stop")])
def test_a_restore_that_fails_early_starts_all_again(fails: tuple[str, str]) -> None:
    nodes = Nodes({fails: "restore_failed"})
    with pytest.raises(MusterError, match="all servers run as before"):
        operations.restore(nodes, CLUSTER, "before", say)
    stopped = {call.split()[0] for call in nodes.told if call.endswith("stop")}
    started = {call.split()[0] for call in nodes.told if call.endswith("start")}
    assert started == stopped
    assert not any("aside" in call for call in nodes.told)


class Interrupted(Nodes):
    """Nodes that a person interrupts in the middle of something."""

    def __init__(self, name: str, verb: str) -> None:
        super().__init__()
        self.at = f"{name} {verb}"

    def tell(self, name: str, verb: str, *given: Any) -> Mapping[str, Any]:
        told = super().tell(name, verb, *given)
        if f"{name} {verb}" == self.at:
            raise KeyboardInterrupt
        return told


def test_a_restore_that_is_interrupted_early_starts_all_again() -> None:
    nodes = Interrupted("s3", "stop")
    with pytest.raises(MusterError, match="interrupted; all servers run as before"):
        operations.restore(nodes, CLUSTER, "before", say)
    assert nodes.told == ["s2 stop", "s3 stop", "s2 start", "s3 start"]


def test_a_server_that_still_stops_is_started_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = Interrupted("s2", "stop")
    nodes.fails = {("s2", "start"): "busy"}
    monkeypatch.setattr(operations.time, "sleep", lambda _seconds: nodes.fails.clear())
    with pytest.raises(MusterError, match="all servers run as before"):
        operations.restore(nodes, CLUSTER, "before", say)
    assert nodes.told == ["s2 stop", "s2 start", "s2 start"]


def test_the_old_cluster_is_not_revived_where_the_restored_one_may_be() -> None:
    away = Nodes({("s1", "restore"): "unreachable"})
    for nodes in (Interrupted("s1", "restore"), away):
        with pytest.raises(MusterError, match=r"not known.*stopped on s2, s3, s1: run this again"):
            operations.restore(nodes, CLUSTER, "before", say)
        assert not any(call.endswith("start") for call in nodes.told)


def test_who_is_not_up_after_an_interrupted_restore_is_named() -> None:
    nodes = Interrupted("s2", "start")
    with pytest.raises(MusterError, match="interrupted; restored, but not up yet: s2, s3"):
        operations.restore(nodes, CLUSTER, "before", say)


def test_a_server_that_does_not_start_again_is_named() -> None:
    nodes = Nodes({("s1", "restore"): "restore_failed", ("s2", "start"): "service_failed"})
    with pytest.raises(MusterError, match="these do not run: s2"):
        operations.restore(nodes, CLUSTER, "before", say)


def test_who_is_not_up_after_a_restore_is_named() -> None:
    nodes = Nodes({("s2", "wait"): "not_ready"})
    with pytest.raises(MusterError, match="not up yet: s2, s3"):
        operations.restore(nodes, CLUSTER, "before", say)
    assert "s3 start" not in nodes.told


def test_no_server_starts_before_all_others_have_put_theirs_aside() -> None:
    nodes = Nodes({("s3", "put-datastore-aside"): "unreachable"})
    with pytest.raises(MusterError, match="not up yet: s1, s2, s3"):
        operations.restore(nodes, CLUSTER, "before", say)
    assert not any(call.endswith("start") for call in nodes.told)


def test_agents_leave_before_servers_and_the_first_server_last() -> None:
    order = operations.reset_order([CLUSTER], {"s1", "s3", "a2", "Edge_1"})
    assert [name for _, name in order] == ["Edge_1", "a2", "s3", "s1"]


def test_agents_are_not_left_without_a_server() -> None:
    assert stranded([CLUSTER], {"s1", "s2", "a2"}) == []
    assert stranded([CLUSTER], {"s1", "s2", "s3", "Edge_1", "a2"}) == []
    (told,) = stranded([CLUSTER], {"s1", "s2", "s3", "a2"})
    assert "Edge_1 would have none" in told


def test_a_node_is_drained_taken_out_and_cleaned() -> None:
    nodes = Nodes()
    operations.leave(nodes, CLUSTER, "Edge_1", {"Edge_1", "s1"}, drain_seconds=900.0)
    assert nodes.told == [
        "Edge_1 inspect", "s2 drain", "s2 delete-node", "Edge_1 reset", "s2 delete-node",
    ]  # fmt: skip
    assert nodes.sent["s2 drain"] == {"node": "edge-1", "seconds": 900.0}
    assert nodes.seconds["s2 drain"] > 900.0


def test_another_server_helps_out() -> None:
    nodes = Nodes({("s1", "drain"): "unreachable", ("s1", "delete-node"): "api_unreachable"})
    operations.leave(nodes, CLUSTER, "a2", {"a2"}, drain_seconds=300.0)
    assert "s2 drain" in nodes.told
    assert nodes.told[-1] == "s2 delete-node"


def test_a_node_that_can_t_be_drained_stays_as_it_is() -> None:
    nodes = Nodes({("s1", "drain"): "drain_failed"})
    with pytest.raises(NodeError):
        operations.leave(nodes, CLUSTER, "a2", {"a2"}, drain_seconds=300.0)
    assert nodes.told == ["a2 inspect", "s1 drain"]


def test_a_node_that_is_out_of_reach_stays_in_its_cluster() -> None:
    nodes = Nodes({("a2", "inspect"): "unreachable"})
    with pytest.raises(NodeError):
        operations.leave(nodes, CLUSTER, "a2", {"a2"}, drain_seconds=300.0)
    assert nodes.told == ["a2 inspect"]


def test_a_node_that_has_left_already_is_cleaned_none_the_less() -> None:
    nodes = Nodes({("s1", "drain"): "no_node"})
    operations.leave(nodes, CLUSTER, "a2", {"a2"}, drain_seconds=300.0)
    assert "a2 reset" in nodes.told


@pytest.mark.parametrize(("ready", "leaves"), [(True, True), (False, False)])
def test_a_server_leaves_only_while_the_others_are_ready(*, ready: bool, leaves: bool) -> None:
    nodes = Nodes()
    nodes.answers["s1 nodes"] = [
        {"nodes": [{"name": "s1", "ready": True}, {"name": "s2", "ready": ready}]}
    ]
    if leaves:
        operations.leave(nodes, CLUSTER, "s3", {"s3"}, drain_seconds=None)
        assert nodes.told == [
            "s3 inspect", "s1 nodes", "s1 delete-node", "s3 reset", "s1 delete-node",
        ]  # fmt: skip
        return
    with pytest.raises(MusterError, match="s2 is not Ready"):
        operations.leave(nodes, CLUSTER, "s3", {"s3"}, drain_seconds=None)
    assert nodes.told == ["s3 inspect", "s1 nodes"]


def test_nobody_is_told_where_the_cluster_ends() -> None:
    nodes = Nodes()
    operations.leave(nodes, CLUSTER, "s1", {"s1", "s2", "s3", "Edge_1", "a2"}, drain_seconds=300.0)
    assert nodes.told == ["s1 reset"]
