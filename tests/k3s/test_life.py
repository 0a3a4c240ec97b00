"""A cluster from its upgrade to its end, by the commands that people type."""

from __future__ import annotations

import json
import shutil

import pytest
from cluster_life import WITHOUT_THE_REST, Life, upgrade
from conftest import MakeLife


@pytest.fixture(scope="module")
def life(make_life: MakeLife) -> Life:
    """A server ``s1`` and the agents ``a1`` and ``a2``, provisioned."""
    agent = {"memory": "1GiB", "variables": {"k3s_role": "agent"}}
    server = {"variables": {"k3s_role": "server"}}
    return make_life("life", {"s1": server, "a1": agent, "a2": agent})


def test_a_cluster_says_how_it_is(life: Life) -> None:
    states = life.states()
    assert {name: state["running"] for name, state in states.items()} == dict.fromkeys(
        ("s1", "a1", "a2"), life.versions[0]
    )
    assert all(state["ready"] for state in states.values())
    assert states["s1"]["voter"] is True
    assert all(state["days"] > 300 for state in states.values())


def test_nothing_is_upgraded_where_nothing_differs(life: Life) -> None:
    assert "nothing differs" in upgrade(life, expect=2).stderr


def test_broken_rules_are_told_before_anything_is_touched(life: Life) -> None:
    if len(life.versions) > 2:
        life.set(k3s_version=life.versions[2])
        told = upgrade(life, expect=2).stderr
        assert f"s1 (runs {life.versions[0]})" in told
        assert "no minor version may be left out" in told
    life.set(k3s_version=life.versions[1])
    told = upgrade(life, "a1", expect=2).stderr
    assert "expected no newer version than that of the servers" in told
    assert set(life.running().values()) == {life.versions[0]}


def test_a_second_node_that_fails_stops_an_upgrade(life: Life) -> None:
    """The first stays upgraded, the third is not touched, and the cluster serves."""
    broken = life.site.folder / "broken"
    shutil.copytree(life.artifacts / life.versions[1], broken / life.versions[1])
    for file in (broken / life.versions[1]).glob("sha256sum-*"):
        file.write_text(file.read_text().replace("a", "b"))
    before = {"k3s_role": "agent", "k3s_artifacts": str(broken)}
    life.set_for("a1", **before)
    life.set(k3s_version=life.versions[1])
    done = upgrade(life, expect=1)
    assert "checksum" in done.stdout + done.stderr
    old, new = life.versions[:2]
    states = life.states()
    assert {name: state["running"] for name, state in states.items()} == {
        "s1": new, "a1": old, "a2": old
    }  # fmt: skip
    assert not any(state["cordoned"] for state in states.values())
    assert "a1" in life.node("s1").kubectl("get nodes")
    snapshots = json.loads(life.run("k3s", "snapshot", "list", "--json").stdout)["snapshots"]
    assert any(each["name"].startswith("muster-") for each in snapshots)


def test_an_upgrade_goes_on_when_the_cause_is_mended(life: Life) -> None:
    life.set_for("a1", k3s_role="agent")
    upgrade(life)
    assert set(life.running().values()) == {life.versions[1]}
    history = life.run("history", "--json").stdout
    assert "upgrade" in history


def test_a_doctor_knows_what_is_wrong_with_a_node(life: Life) -> None:
    life.node("a2").run("systemctl stop k3s-agent")
    found = json.loads(life.run("doctor", "a2", "--json", expect=1).stdout)["devices"][0][
        "findings"
    ]
    (finding,) = [each for each in found if each["check"] == "k3s"]
    assert "k3s-agent.service does not run" in finding["what"]
    life.node("a2").run("systemctl start k3s-agent")


def test_a_cluster_goes_back_to_a_snapshot(life: Life) -> None:
    server = life.node("s1")
    server.kubectl("create namespace before")
    name = json.loads(life.run("k3s", "snapshot", "save", "--json").stdout)["name"]
    server.kubectl("create namespace after")
    life.run("k3s", "restore", name, "-y")
    spaces = server.kubectl("get namespaces -o name").split()
    assert "namespace/before" in spaces
    assert "namespace/after" not in spaces


def test_certificates_are_made_anew(life: Life) -> None:
    path = "/var/lib/rancher/k3s/server/tls/client-admin.crt"
    before = life.node("s1").run(f"cat {path}")
    life.run("k3s", "rotate-certificates", "s1", "-y")
    assert life.node("s1").run(f"cat {path}") != before
    assert life.states()["s1"]["ready"]


def test_a_node_leaves_and_nothing_stays_of_it(life: Life) -> None:
    life.run("k3s", "reset", "a1", "-y")
    assert life.node("a1").run(WITHOUT_THE_REST) == ""
    nodes = life.node("s1").nodes()
    assert set(nodes) == {"s1", "a2"}
    assert not any(node["spec"].get("unschedulable") for node in nodes.values())


def test_a_server_is_not_taken_from_its_agents(life: Life) -> None:
    assert "a2 would have none" in life.run("k3s", "reset", "s1:a1", "-y", expect=2).stderr
    assert "a2 would have none" in life.run("reset", "s1:a1", "-y", expect=2).stderr


def test_a_device_that_is_reset_leaves_its_cluster(life: Life) -> None:
    strategy = life.site.folder / "strategy.yml"
    life.run("reset", "a2", "-y", "-s", strategy)
    assert life.node("a2").run(WITHOUT_THE_REST) == ""
    assert set(life.node("s1").nodes()) == {"s1"}
