"""What nodes are, from what they say; and which of them an upgrade is about."""

from __future__ import annotations

from typing import Any

import pytest
from k3s_stand_ins import program

from muster.commands.k3s_upgrade import Wanted, choose, obstacles
from muster.fleet.scripts import Ran
from muster.inventory import Device
from muster.k3s.cluster import clusters
from muster.k3s.session import read_reply
from muster.k3s.state import NodeState, look, state_of

OLD, NEW = "v1.20.2+k3s1", "v1.21.1+k3s1"


def device(name: str, role: str = "agent", **variables: Any) -> Device:
    known = {"k3s_role": role, "k3s_cluster": "c", "k3s_version": NEW, **variables}
    return Device(name, name, 22, None, None, (), known)


def inspected(role: str = "agent", **how: Any) -> dict[str, Any]:
    node = {"name": "x", "ready": True, "reason": "", "version": OLD, "labels": {}, "roles": []}
    node |= {"voter": True if role == "server" else None, "unschedulable": False}
    seen = {"role": role, "unit": f"k3s-{role}", "active": True, "binary": OLD, "error": ""}
    seen |= {"datastore": "etcd" if role == "server" else None, "node": node, "certificates": []}
    return seen | how


def test_an_answer_is_read() -> None:
    assert read_reply(Ran(True, out='noise\n{"ok":true,"x":1}')).document == {"x": 1}
    refused = '{"ok":false,"error":{"code":"busy","message":"try\\nlater\\u001b","detail":{}}}'
    reply = read_reply(Ran(True, out=refused))
    assert (reply.code, reply.error) == ("busy", "try later")


@pytest.mark.parametrize(
    ("ran", "code"),
    [
        (Ran(False, "cut"), "unreachable"),
        (Ran(True, "no answer within 3 s"), "unreachable"),
        (Ran(True, err="sh: muster-k3s: not found"), "no_program"),
        (Ran(True, out="[1]"), "no_program"),
    ],
)
def test_no_answer_is_told_apart(ran: Ran, code: str) -> None:
    reply = read_reply(ran)
    assert reply.code == code
    assert reply.error


def test_a_node_that_is_well_has_no_problem() -> None:
    state = state_of(device("a_1"), inspected(), "", 0.0)
    assert (state.node, state.running, state.wanted, state.problem) == ("a-1", OLD, NEW, "")
    assert state.answers
    assert state.ready


@pytest.mark.parametrize(
    ("seen", "problem"),
    [
        (inspected(role="none", node=None), "not installed"),
        (inspected(role="agent", active=False), "does not run"),
        (inspected(role="agent", node=None, error="refused"), "refused"),
        (inspected(role="server"), "k3s_role is agent"),
    ],
)
def test_what_is_wrong_with_a_node(seen: dict[str, Any], problem: str) -> None:
    assert problem in state_of(device("a"), seen, "", 0.0).problem


def test_a_server_without_a_vote_is_not_well() -> None:
    seen = inspected("server")
    seen["node"]["voter"] = False
    assert "voter" in state_of(device("s", "server"), seen, "", 0.0).problem


class Nodes:
    def __init__(self, **answers: Any) -> None:
        self.answers, self.asked = answers, []

    def ask(self, names: list[str], verb: str, *_more: Any, **_options: Any) -> dict[str, Any]:
        self.asked.append((verb, tuple(names)))
        found = {}
        for name in names:
            answer = self.answers[f"{name}_{verb}"]
            ran = Ran(False, answer) if isinstance(answer, str) else Ran(True)
            reply = read_reply(ran)
            found[name] = reply if isinstance(answer, str) else type(reply)(answer)
        return found


def test_a_server_tells_of_a_node_that_is_silent() -> None:
    devices = {each.name: each for each in (device("s", "server"), device("a"), device("b"))}
    told = program.node_entry(
        {
            "metadata": {"name": "a"},
            "status": {"nodeInfo": {"kubeletVersion": OLD}, "conditions": []},
        }
    )
    nodes: Any = Nodes(
        s_inspect=inspected("server"), a_inspect="cut", b_inspect=inspected(),
        s_nodes={"nodes": [told]},
    )  # fmt: skip
    states = look(nodes, clusters(devices.values()).values(), devices, 0.0)
    assert (states["a"].running, states["a"].ready, states["a"].problem) == (OLD, False, "cut")
    assert not states["a"].answers
    assert states["b"].ready


def test_nobody_is_asked_twice_where_all_answer() -> None:
    devices = {"s": device("s", "server")}
    nodes: Any = Nodes(s_inspect=inspected("server"))
    look(nodes, clusters(devices.values()).values(), devices, 0.0)
    assert nodes.asked == [("inspect", ("s",))]


def state(name: str, role: str = "agent", **how: Any) -> NodeState:
    known = {"running": OLD, "binary": OLD, "active": True, "ready": True, "answers": True}
    known |= {"datastore": "etcd" if role == "server" else None, **how}
    return NodeState(name, name, "c", role, NEW, **known)


def wanted(*states: NodeState, names: set[str] | None = None) -> Wanted:
    found = clusters([device(each.device, each.role) for each in states]).values()
    by_name = {each.device: each for each in states}
    return choose(list(found), by_name, names if names is not None else set(by_name))


def test_only_those_that_differ_are_chosen() -> None:
    found = wanted(
        state("s", "server"),
        state("a", running=NEW, binary=NEW),
        state("b"),
        state("c", running=OLD, binary=NEW),
        names={"s", "a", "c"},
    )
    assert found.chosen == {"s", "c"}
    assert found.right == {"a": f"runs {NEW} already"}
    assert found.changing_servers == {"c": ["s"]}


def test_servers_have_to_be_well_and_agents_need_not() -> None:
    ill = {"ready": False, "problem": "not Ready: disk"}
    told = obstacles(wanted(state("s", "server", **ill), state("a", **ill)), snapshot=True)
    assert told == ["cluster c: s: expected a server that is well: not Ready: disk"]


def test_an_external_datastore_is_saved_by_others() -> None:
    found = wanted(state("s", "server", datastore="external"), state("a"))
    assert "--no-snapshot" in obstacles(found, snapshot=True)[0]
    assert obstacles(found, snapshot=False) == []


def test_a_cluster_in_which_nothing_changes_is_no_obstacle() -> None:
    ill = {"problem": "cut", "ready": None, "running": None}
    found = wanted(state("s", "server", **ill), state("a"), names=set())
    assert obstacles(found, snapshot=True) == []


def test_broken_rules_are_obstacles() -> None:
    found = wanted(state("s", "server", running="v1.19.1+k3s1", binary=OLD), state("a"))
    assert "no minor version may be left out" in obstacles(found, snapshot=True)[0]
