"""A cluster of three servers: upgraded, given another token and taken back, one at a time."""

from __future__ import annotations

import json

import pytest
from cluster_life import Life, upgrade
from conftest import MakeLife

SERVERS = ("s1", "s2", "s3")


@pytest.fixture(scope="module")
def life(make_life: MakeLife) -> Life:
    """Three servers with embedded etcd, provisioned."""
    return make_life("servers", {name: {"variables": {"k3s_role": "server"}} for name in SERVERS})


def assert_all_vote(life: Life) -> None:
    states = life.states()
    assert {name: state["voter"] for name, state in states.items()} == dict.fromkeys(SERVERS, True)


def test_servers_are_upgraded_one_at_a_time(life: Life) -> None:
    life.set(k3s_version=life.versions[1])
    out = upgrade(life, "--json").stdout
    result = json.loads(out.splitlines()[-1])
    waves = [wave["name"] for wave in result["waves"]]
    assert waves == ["server 1 of 3", "server 2 of 3", "server 3 of 3"]
    assert set(life.running().values()) == {life.versions[1]}
    assert_all_vote(life)


def test_another_token_reaches_all_servers(life: Life) -> None:
    path = "/var/lib/rancher/k3s/server/token"
    before = life.node("s2").run(f"cat {path}")
    done = life.run("k3s", "rotate-token", "-y")
    after = life.node("s2").run(f"cat {path}")
    assert after != before
    assert after.strip().rpartition(":")[2] not in done.stdout + done.stderr
    assert_all_vote(life)
    life.run("provision", "--expect-no-change")


def test_all_servers_go_back_to_a_snapshot(life: Life) -> None:
    life.node("s2").kubectl("create namespace before")
    name = json.loads(life.run("k3s", "snapshot", "save", "--json").stdout)["name"]
    life.node("s2").kubectl("create namespace after")
    life.run("k3s", "restore", name, "-y")
    for server in SERVERS:
        spaces = life.node(server).kubectl("get namespaces -o name").split()
        assert "namespace/before" in spaces
        assert "namespace/after" not in spaces
    assert_all_vote(life)
