"""Three servers with embedded etcd and an agent, with configuration written by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import MakeFleet
from k3s_nodes import TOKEN, Node, wait_for, wait_ready

SERVERS = ("one", "two", "three")


@pytest.fixture(scope="module")
def nodes(
    make_k3s_fleet: MakeFleet, k3s_artifacts: Path, k3s_versions: list[str]
) -> dict[str, Node]:
    """Servers ``one`` to ``three``, which joined one after the other, and the agent ``four``."""
    fleet = make_k3s_fleet("cluster", {**dict.fromkeys(SERVERS), "four": {"memory": "1GiB"}})
    nodes = {name: Node(fleet, name) for name in (*SERVERS, "four")}
    for node in nodes.values():
        node.install(k3s_artifacts, k3s_versions[0])
    first = nodes["one"]
    url = f"https://{first.address}:6443"
    first.configure("server", cluster_init=True, secrets_encryption=True)
    first.start("server")
    token = first.run(f"cat {TOKEN}").strip()
    wait_for("one votes", lambda: first.condition("one", "EtcdIsVoter") == "True")
    for name in SERVERS[1:]:
        nodes[name].configure("server", server=url, token=token, secrets_encryption=True)
        nodes[name].start("server")
        wait_for(f"{name} votes", lambda n=name: first.condition(n, "EtcdIsVoter") == "True")
    nodes["four"].configure("agent", server=url, token=token)
    nodes["four"].start("agent")
    wait_ready(first, *nodes)
    return nodes


def config_map(node: Node, name: str) -> bool:
    return node.run(f"k3s kubectl get configmap {name}", expect=None).startswith("NAME")


def heartbeat(server: Node, node: str) -> str:
    return server.kubectl(f"get lease -n kube-node-lease {node} -o jsonpath={{.spec.renewTime}}")


def test_the_others_serve_on_when_the_first_dies(nodes: dict[str, Node]) -> None:
    first, second = nodes["one"], nodes["two"]
    first.fleet.fault("kill", "one")
    try:
        wait_for("the cluster answers", lambda: "four" in second.nodes())
        wait_for("one is missed", lambda: second.condition("one", "Ready") == "Unknown")
        before = heartbeat(second, "four")
        wait_for("the agent has found another server", lambda: heartbeat(second, "four") != before)
        assert second.condition("four", "Ready") == "True"
        second.kubectl("create configmap while-one-was-dead")
    finally:
        first.fleet.fault("heal", "one")
    wait_ready(second, "one")
    assert config_map(first, "while-one-was-dead")


def test_a_snapshot_brings_back_what_was_there(nodes: dict[str, Node]) -> None:
    first = nodes["one"]
    first.kubectl("create configmap before")
    first.run("k3s etcd-snapshot save --name drill 2>&1")
    listed = first.run("k3s etcd-snapshot ls")
    path = next(word for word in listed.split() if word.startswith("file://")).removeprefix(
        "file://"
    )
    first.kubectl("create configmap after")
    for name in SERVERS:
        nodes[name].run("systemctl stop k3s")
    said = first.run(f"k3s server --cluster-reset --cluster-reset-restore-path={path} 2>&1")
    assert "cluster membership has been reset" in said
    first.start("server")
    for name in SERVERS[1:]:
        nodes[name].run("rm -rf /var/lib/rancher/k3s/server/db")
        nodes[name].start("server")
        wait_for(f"{name} votes again", lambda n=name: first.condition(n, "EtcdIsVoter") == "True")
    wait_ready(first, *nodes)
    assert config_map(first, "before")
    assert not config_map(first, "after")


def test_a_second_reset_is_refused_until_the_server_was_started(nodes: dict[str, Node]) -> None:
    third = nodes["three"]
    third.run("touch /var/lib/rancher/k3s/server/db/reset-flag")
    assert "reset-flag" in third.run("k3s server --cluster-reset 2>&1", expect=1)
    third.run("rm /var/lib/rancher/k3s/server/db/reset-flag")


def test_a_server_that_joined_another_is_not_reset(nodes: dict[str, Node]) -> None:
    said = nodes["three"].run("k3s server --cluster-reset 2>&1", expect=1)
    assert "server URL is set" in said


def test_a_token_is_not_rotated_without_the_old_one(nodes: dict[str, Node]) -> None:
    first = nodes["one"]
    before = first.run(f"cat {TOKEN}")
    first.run("k3s token rotate --token wrong --new-token new 2>&1", expect=1)
    assert first.run(f"cat {TOKEN}") == before


def test_a_deleted_server_is_no_member_any_more(nodes: dict[str, Node]) -> None:
    first, third = nodes["one"], nodes["three"]
    third.run("systemctl disable --now k3s")
    first.kubectl("delete node three")
    members = (
        "cd /var/lib/rancher/k3s/server/tls/etcd && curl -sS --cacert server-ca.crt"
        " --cert client.crt --key client.key -d '{}' https://127.0.0.1:2379/v3/cluster/member/list"
    )
    gone: Callable[[], bool] = lambda: "three-" not in first.run(members)  # noqa: E731
    wait_for("three has left", gone)
