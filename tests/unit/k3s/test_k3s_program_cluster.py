"""``muster-k3s`` on a server: what it does to the cluster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from k3s_stand_ins import Node, node, program

from muster.paths import COLLECTION_ROOT

Failure = program.Failure


def daemonset(name: str, image: str = "m@sha256:1") -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": name, "namespace": "muster"},
        "spec": {"image": image},
    }


def run(verb: str, given: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, str(COLLECTION_ROOT / "files/muster_k3s.py"), verb],
        input=given,
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "MUSTER_ROOT": os.environ["WORLD"]},
        check=False,
    )
    return done.returncode, json.loads(done.stdout)


def test_it_reads_json_and_answers_json(server: Node) -> None:
    assert run("nodes", "{}")[1]["ok"] is True
    status, answer = run("nodes", "what?")
    assert (status, answer["error"]["code"]) == (1, "bad_input")
    status, answer = run("nodes", '{"colour": 1}')
    assert (status, answer["error"]["code"]) == (1, "bad_input")
    assert "colour" in answer["error"]["message"]


def test_nodes_tells_what_matters_of_every_node(server: Node) -> None:
    labels = {"muster.model/digits": "digits-1", "other/label": "x"}
    server.tell(
        nodes=[
            node("server-1", role="control-plane", voter=True),
            node("b", "v1.19.5+k3s2", ready=False, labels=labels),
        ]
    )
    first, second = server.do("nodes")["nodes"]
    assert first["name"] == "b"
    assert (first["ready"], first["version"], first["voter"]) == (False, "v1.19.5+k3s2", None)
    assert first["labels"] == {"muster.model/digits": "digits-1"}
    assert first["reason"] == "kubelet"
    assert (second["ready"], second["voter"], second["roles"]) == (True, True, ["control-plane"])


def test_apply_says_what_it_changed(server: Node) -> None:
    given = [daemonset("digits"), daemonset("faces")]
    answer = server.do("apply", manifests=given)
    assert answer["changed"] == 2
    assert answer["applied"][0] == {"object": "daemonset.apps/digits", "outcome": "created"}
    assert server.do("apply", manifests=given)["changed"] == 0
    assert [each["metadata"]["name"] for each in server.seen()["objects"]] == ["digits", "faces"]
    assert server.do("apply", manifests=[daemonset("digits", "m@sha256:2")])["changed"] == 1


@pytest.mark.parametrize(
    "manifests",
    [
        None,
        [],
        {},
        ["text"],
        [{"kind": "DaemonSet", "metadata": {"name": "x"}}],
        [{"apiVersion": "v1", "kind": "X", "metadata": {}}],
        [{"apiVersion": "v1", "kind": "X", "metadata": "x"}],
    ],
)
def test_apply_refuses_what_is_no_object(server: Node, manifests: Any) -> None:
    with pytest.raises(Failure, match="manifests") as caught:
        server.do("apply", manifests=manifests)
    assert caught.value.code == "bad_input"
    assert not server.calls()


def test_delete_removes_the_named_daemonsets_alone(server: Node) -> None:
    server.do("apply", manifests=[daemonset("digits"), daemonset("faces")])
    assert server.do("delete", daemonsets=["digits", "gone"]) == {"deleted": ["digits"]}
    assert [each["metadata"]["name"] for each in server.seen()["objects"]] == ["faces"]
    assert server.do("delete", daemonsets=["digits"]) == {"deleted": []}
    assert "--namespace=muster" in server.calls()[-1]


@pytest.mark.parametrize("names", [None, "digits", ["--all"], ["a b"], [1]])
def test_delete_takes_names_alone(server: Node, names: Any) -> None:
    with pytest.raises(Failure, match="daemonsets"):
        server.do("delete", daemonsets=names)
    assert not server.calls()


def test_delete_of_nothing_asks_nobody(server: Node) -> None:
    assert server.do("delete", daemonsets=[]) == {"deleted": []}
    assert not server.calls()


def test_an_agent_has_no_rights_in_the_cluster(agent: Node) -> None:
    with pytest.raises(Failure) as caught:
        agent.do("nodes")
    assert caught.value.code == "no_server"


@pytest.mark.parametrize(
    ("says", "code"),
    [
        ("The connection to the server 127.0.0.1:6443 was refused", "api_unreachable"),
        ("Unable to connect to the server: dial tcp", "api_unreachable"),
        ("Error from server (Forbidden): no", "kubectl_failed"),
    ],
)
def test_what_failed_is_told_apart(server: Node, says: str, code: str) -> None:
    server.tell(kubectl_fails=["get"], says=says)
    with pytest.raises(Failure, match="kubectl get") as caught:
        server.do("nodes")
    assert caught.value.code == code


def test_the_administrator_s_kubeconfig_may_lie_in_its_other_place(server: Node) -> None:
    server.at("/etc/rancher/k3s/k3s.yaml").unlink()
    server.write("/var/lib/rancher/k3s/server/cred/admin.kubeconfig", "administrator")
    server.do("nodes")
    assert any("cred/admin.kubeconfig" in word for word in server.calls()[-1])


def test_drain_cordons_and_uncordon_takes_it_back(server: Node) -> None:
    assert server.do("drain", node="agent-1") == {"node": "agent-1", "cordoned": True}
    assert server.node("agent-1")["spec"]["unschedulable"]
    assert server.do("uncordon", node="agent-1")["uncordoned"]
    assert not server.node("agent-1")["spec"]["unschedulable"]
    assert server.node("agent-1")["metadata"]["annotations"] == {}


def test_a_node_that_a_person_cordoned_stays_so(server: Node) -> None:
    found = node("agent-1")
    found["spec"]["unschedulable"] = True
    server.tell(nodes=[found])
    assert not server.do("drain", node="agent-1")["cordoned"]
    assert not server.do("uncordon", node="agent-1")["uncordoned"]
    assert server.node("agent-1")["spec"]["unschedulable"]


def test_drain_and_uncordon_may_be_repeated(server: Node) -> None:
    for _ in range(2):
        assert server.do("drain", node="agent-1")["cordoned"]
    assert server.do("uncordon", node="agent-1")["uncordoned"]
    assert not server.do("uncordon", node="agent-1")["uncordoned"]


def test_a_drain_that_fails_is_undone(server: Node) -> None:
    server.tell(drain_fails=True)
    with pytest.raises(Failure, match="could not be drained") as caught:
        server.do("drain", node="agent-1", seconds=1)
    assert caught.value.code == "drain_failed"
    assert not server.node("agent-1")["spec"]["unschedulable"]


def test_a_node_that_is_not_there_can_t_be_drained(server: Node) -> None:
    with pytest.raises(Failure, match="no node"):
        server.do("drain", node="agent-9")
    assert not server.do("uncordon", node="agent-9")["uncordoned"]


def test_delete_node_is_done_once(server: Node) -> None:
    assert server.do("delete-node", node="agent-1")["deleted"]
    assert not server.do("delete-node", node="agent-1")["deleted"]
    assert [each["metadata"]["name"] for each in server.seen()["nodes"]] == ["server-1"]


@pytest.mark.parametrize("name", ["--all", "A", "a b", "", None, 3])
def test_a_node_has_a_name_of_kubernetes(server: Node, name: Any) -> None:
    for verb in ("drain", "uncordon", "delete-node"):
        with pytest.raises(Failure, match="node"):
            server.do(verb, node=name)
    assert not server.calls()
