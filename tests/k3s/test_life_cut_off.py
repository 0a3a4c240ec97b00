"""What becomes of a cluster when who works at it dies in the middle."""

from __future__ import annotations

import json
import subprocess

import pytest
from cluster_life import Life, upgrade
from conftest import MakeLife
from k3s_nodes import wait_for, wait_ready


@pytest.fixture(scope="module")
def life(make_life: MakeLife) -> Life:
    """A server ``s1`` and the agent ``a1``, provisioned."""
    agent = {"memory": "1GiB", "variables": {"k3s_role": "agent"}}
    return make_life("cut-off", {"s1": {"variables": {"k3s_role": "server"}}, "a1": agent})


def stopped(life: Life, name: str, unit: str) -> bool:
    return life.node(name).run(f"systemctl is-active {unit}", expect=None).strip() != "active"


def killed(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate(timeout=60)


def test_an_upgrade_whose_controller_dies_is_resumed(life: Life) -> None:
    old, new = life.versions[:2]
    life.set(k3s_version=new)
    strategy = life.site.folder / "strategy.yml"
    process = life.site.start("k3s", "upgrade", "-y", "-s", strategy)
    server = life.node("s1")
    wait_for("the server is upgraded", lambda: new in server.run("k3s --version"))
    killed(process)
    assert old in life.node("a1").run("k3s --version")
    wait_ready(server, "s1", "a1")
    assert "created" in server.kubectl("create namespace meanwhile")
    life.run("resume")
    states = life.states()
    assert {state["running"] for state in states.values()} == {new}
    assert not any(state["cordoned"] for state in states.values())
    assert "nothing differs" in upgrade(life, expect=2).stderr


def test_a_restore_whose_controller_dies_is_done_again(life: Life) -> None:
    server = life.node("s1")
    server.kubectl("create namespace before")
    name = json.loads(life.run("k3s", "snapshot", "save", "--json").stdout)["name"]
    server.kubectl("create namespace after")
    process = life.site.start("k3s", "restore", name, "-y")
    wait_for("K3s is stopped", lambda: stopped(life, "s1", "k3s"))
    killed(process)
    wait_for(
        "the node's own work has ended",
        lambda: life.node("s1").run("pgrep -f [m]uster-k3s", expect=None) == "",
    )
    told = life.run("provision", expect=1)
    assert "stopped on s1 for `muster k3s restore`" in told.stdout + told.stderr
    assert stopped(life, "s1", "k3s")
    life.run("k3s", "restore", name, "-y")
    spaces = server.kubectl("get namespaces -o name").split()
    assert "namespace/before" in spaces
    assert "namespace/after" not in spaces
    assert all(state["ready"] for state in life.states().values())


def test_an_interrupted_restore_leaves_the_server_as_it_was(life: Life) -> None:
    server = life.node("s1")
    name = json.loads(life.run("k3s", "snapshot", "save", "--json").stdout)["name"]
    server.kubectl("create namespace kept")
    main = server.run("systemctl show --property MainPID --value k3s").strip()
    server.run(f"kill -STOP {main}")  # it does not end until it is told to go on
    process = life.site.start("k3s", "restore", name, "-y")
    marker = "test -e /run/muster-k3s.stopped && echo there"
    wait_for("K3s is to stop", lambda: "there" in server.run(marker, expect=None))
    process.terminate()
    server.run(f"kill -CONT {main}")
    _, told = process.communicate(timeout=400)
    assert process.returncode == 1
    assert "interrupted; all servers run as before" in told
    wait_ready(server, "s1", "a1")
    assert "namespace/kept" in server.kubectl("get namespaces -o name").split()
    life.run("provision", "--expect-no-change")


def test_a_broken_snapshot_stops_nothing(life: Life) -> None:
    server = life.node("s1")
    folder = "/var/lib/rancher/k3s/server/db/snapshots"
    started = server.run("systemctl show --property ActiveEnterTimestamp k3s")
    server.run(f"cp $(ls {folder}/* | head -n 1) {folder}/cut && truncate -s -4096 {folder}/cut")
    told = life.run("k3s", "restore", "cut", "-y", expect=2)
    assert "the snapshot cut is broken" in told.stderr
    assert server.run("systemctl show --property ActiveEnterTimestamp k3s") == started


def test_a_node_that_was_deleted_by_hand_comes_back(life: Life) -> None:
    server = life.node("s1")
    server.kubectl("delete node a1")
    life.run("provision")
    wait_ready(server, "s1", "a1")
    life.run("provision", "--expect-no-change")


def test_a_server_that_loses_power_as_it_makes_certificates_comes_back(life: Life) -> None:
    process = life.site.start("k3s", "rotate-certificates", "s1", "-y")
    wait_for("K3s is stopped", lambda: stopped(life, "s1", "k3s"))
    life.site.fleet.fault("kill", "s1")
    process.communicate(timeout=400)
    assert process.returncode != 0
    life.site.fleet.fault("heal", "s1")
    wait_ready(life.node("s1"), "s1", "a1")
    life.run("k3s", "rotate-certificates", "s1", "-y")
    assert all(state["ready"] for state in life.states().values())
