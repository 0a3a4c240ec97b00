"""Models on the nodes of a cluster: the rollouts of single devices, and what differs."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from drills import Drill, Scenario, Table, side_by_side, wait_for
from k3s_nodes import Node, wait_ready
from site_driver import Site
from steady_load import SteadyLoad
from test_failures_controller import (
    BACK,
    BAD,
    FORWARD,
    killed_and_left_alone,
    killed_and_resumed,
    killed_going_back_and_resumed,
)

from examples.digits import publish
from muster.emulator import EmulatedFleet
from muster.inventory import load_inventory

SERVER, AGENTS = "s1", ("n1", "n2", "n3")
HAND_WRITTEN = """
apiVersion: v1
kind: ConfigMap
metadata: {name: theirs, namespace: muster, labels: {muster.model: digits}}
data: {a: b}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: theirs, namespace: default}
spec:
  selector: {matchLabels: {app: theirs}}
  template:
    metadata: {labels: {app: theirs}}
    spec:
      nodeSelector: {theirs: "yes"}
      containers: [{name: pause, image: "theirs:1", imagePullPolicy: Never}]
"""
TABLE = Table()
for _state, _event in FORWARD.items():
    _resumed = functools.partial(killed_and_resumed, wanted=_event)
    _alone = functools.partial(killed_and_left_alone, wanted=_event)
    TABLE.add(f"killed_at_{_state}_it_is_resumed", _resumed)
    TABLE.add(f"killed_at_{_state}_the_node_comes_to_rest", _alone)
for _state, (_breach, _event) in BACK.items():
    _back = functools.partial(killed_going_back_and_resumed, on_breach=_breach, wanted=_event)
    TABLE.add(f"killed_at_{_state}_it_is_resumed", _back)


@pytest.fixture(scope="module")
def site(
    make_k3s_fleet: Callable[..., EmulatedFleet],
    k3s_artifacts: Path,
    k3s_versions: list[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Site:
    """A server and three agents, provisioned by the roles, all of which run models."""
    variables = {
        "muster_device_runtime": "k3s",
        "k3s_version": k3s_versions[0],
        "k3s_artifacts": str(k3s_artifacts),
    }
    devices = {
        name: {
            "hardware": "raspberry_pi",
            "variables": {**variables, "k3s_role": "server" if name == SERVER else "agent"},
        }
        for name in (SERVER, *AGENTS)
    }
    fleet = make_k3s_fleet("models", devices)
    folder = tmp_path_factory.mktemp("models-site")
    site = Site(fleet, folder, publish(fleet.registry_address, fleet.registry_ca, folder / "rel"))
    done = site.muster("provision")
    assert done.returncode == 0, done.stdout + done.stderr
    wait_ready(Node(fleet, SERVER), SERVER, *AGENTS)
    return site


@pytest.fixture(scope="module")
def server(site: Site) -> Node:
    return Node(site.fleet, SERVER)


def kubectl(server: Node, arguments: str) -> Any:
    return json.loads(server.run(f"k3s kubectl {arguments} --output json"))


def addresses(site: Site) -> dict[str, str]:
    return {device.name: device.address for device in load_inventory(site.inventory).devices}


def test_a_release_arrives_on_every_node(site: Site, server: Node) -> None:
    server.run("k3s kubectl create namespace muster")
    server.run(f"k3s kubectl apply --filename - <<'END'\n{HAND_WRITTEN}\nEND")
    site.everywhere("1.0")
    pods = kubectl(server, "--namespace muster get pods")["items"]
    assert {pod["spec"]["nodeName"] for pod in pods} == {SERVER, *AGENTS}
    told = json.loads(site.muster("status", "--json").stdout)["devices"]
    assert all(each["well"] and each["release"].startswith("1.0-") for each in told), told
    assert len(told) == len(pods)
    for name in (SERVER, *AGENTS):  # so that its kubelet leaves the image where it is
        images = Node(site.fleet, name).run("k3s ctr images list").splitlines()
        (ours,) = [line for line in images if "models/digits@" in line]
        assert "io.cri-containerd.pinned=pinned" in ours


def test_a_second_provisioning_changes_nothing(site: Site) -> None:
    assert site.muster("provision", "--expect-no-change").returncode == 0


def test_a_bad_release_goes_back_and_the_other_nodes_lose_nothing(site: Site) -> None:
    site.everywhere("1.0")
    with ExitStack() as stack:
        loads = {
            name: stack.enter_context(SteadyLoad(address, rate=10))
            for name, address in addresses(site).items()
        }
        events = site.rollout(BAD, expect=3)
    (canary,) = {e["device"] for e in events if e.get("to") == "switching"}
    lost = {name: load.requests.lost.total() for name, load in loads.items() if name != canary}
    print({name: str(load.requests) for name, load in loads.items()})
    assert set(lost.values()) == {0}
    assert min(load.requests.sent for load in loads.values()) > 50
    assert set(site.answering().values()) == {"1.0"}


def test_a_wave_of_nodes_leaves_the_others_alone(site: Site, server: Node) -> None:
    site.everywhere("1.0")
    with SteadyLoad(addresses(site)["n3"], rate=10) as load:
        site.rollout("1.1", "--limit", "s1,n1,n2", waves="[{size: 1}, {size: rest}]")
    assert load.requests.lost.total() == 0, load.requests
    assert site.answering() == {"s1": "1.1", "n1": "1.1", "n2": "1.1", "n3": "1.0"}
    # A pod that is made again is the release of its node, not the newest one.
    server.run(
        "k3s kubectl --namespace muster delete pod --field-selector spec.nodeName=n3"
        " --selector muster.model=digits"
    )
    wait_for("n3 serves again", lambda: site.answering()["n3"] == "1.0")


def test_a_node_that_is_not_ready_is_deferred_and_caught_up(site: Site, server: Node) -> None:
    site.everywhere("1.0")
    node = Node(site.fleet, "n2")
    node.run("systemctl stop k3s-agent")
    try:
        wait_for("n2 is NotReady", lambda: not is_ready(server, "n2"), 180)
        events = site.rollout("1.1", expect=6)
        states = {each["device"]: each["state"] for each in events[-1]["devices"]}
        assert states == {"s1": "committed", "n1": "committed", "n3": "committed"} | {
            "n2": "deferred"
        }
        assert site.answering()["n2"] == "1.0"  # its pod goes on without the kubelet
    finally:
        node.run("systemctl start k3s-agent")
    wait_ready(server, "n2")
    done = site.muster("catch-up", "--yes")
    assert done.returncode == 0, done.stderr
    assert set(site.answering().values()) == {"1.1"}


def test_a_node_that_is_cut_off_in_its_switch_goes_back_by_itself(site: Site, server: Node) -> None:
    site.everywhere("1.0")
    drill = Drill(site, site.folder / "cut", ["n1"])
    controller = drill.begin(
        "1.1", healthy_deadline="20s", command_margin="5s", confirm_timeout="30s"
    )
    controller.until(event="device", to="soaking")
    drill.fault("cut")
    try:
        ended = controller.end()
        assert ended.states["n1"] in ("lost", "rolled_back")
        assert ended.code != 0
    finally:
        drill.fault("heal")
    wait_for("n1 has gone back", lambda: drill.state()["phase"] == "idle", 180)
    wait_ready(server, "n1")
    wait_for("n1 serves 1.0", lambda: drill.answers() == "1.0")
    drill.close()


@pytest.mark.parametrize("name", ["n3", SERVER])
def test_a_node_that_loses_its_power_serves_again(site: Site, server: Node, name: str) -> None:
    site.everywhere("1.1")
    site.fleet.fault("kill", name)
    site.fleet.fault("heal", name)
    wait_for(f"{name} serves again", lambda: site.answering()[name] == "1.1", 300)
    wait_ready(server, *AGENTS)
    node = Node(site.fleet, name)
    wait_for(
        "it is up", lambda: "starting" not in node.run("systemctl is-system-running", None), 240
    )
    assert "muster-boot" not in node.run("systemctl --failed --no-legend")


def test_a_node_whose_labels_are_lost_asks_again(site: Site, server: Node) -> None:
    site.everywhere("1.1")
    server.run(
        "k3s kubectl label node n2 muster.model/digits- muster.variant/digits-"
        " && k3s kubectl --namespace muster delete daemonset --all"
    )
    wait_for("nothing serves", lambda: "1.1" not in site.answering().values())
    assert site.muster("status").returncode == 1  # asks every node
    site.rollout("1.1", waves="[{size: rest}]")
    assert set(site.answering().values()) == {"1.1"}


def test_a_node_that_its_cluster_lost_serves_again_when_it_is_provisioned(
    site: Site, server: Node
) -> None:
    site.everywhere("1.1")
    server.run("k3s kubectl delete node n2")
    wait_for("its pod is gone", lambda: site.answering()["n2"] != "1.1")
    done = site.muster("provision")
    assert done.returncode == 0, done.stdout + done.stderr
    wait_for("n2 serves", lambda: site.answering()["n2"] == "1.1")
    assert set(site.answering().values()) == {"1.1"}


def is_ready(server: Node, name: str) -> bool:
    conditions = kubectl(server, f"get node {name}")["status"]["conditions"]
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


@pytest.fixture(scope="module")
def play(
    site: Site, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Callable[[Scenario], None]]:
    items = [item for item in request.session.items if item.path == request.path]
    with side_by_side(site, tmp_path_factory.mktemp("nodes"), items) as playing:
        yield playing


@TABLE.parametrize()
def test_controller(scenario: Scenario, play: Callable[[Scenario], None]) -> None:
    play(scenario)


def test_what_others_have_written_is_left_alone(site: Site, server: Node) -> None:
    theirs = kubectl(server, "--namespace default get daemonset theirs")
    assert theirs["metadata"]["generation"] == 1
    assert kubectl(server, "--namespace muster get configmap theirs")["data"] == {"a": "b"}
