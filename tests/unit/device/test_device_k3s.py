"""The device program on a node of a K3s cluster, with a stand-in for the cluster's API."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from device_stand_ins import (
    MODEL,
    REGISTRY,
    TIMER,
    UNIT,
    Device,
    ModelServer,
    Release,
    StandInSystemd,
    World,
    device,
    killed_at,
    seen_checkpoints,
)

NODE = "pier-1"
KUBELET_CONFIG = """\
apiVersion: v1
clusters:
- cluster:
    server: https://127.0.0.1:{port}
    certificate-authority: {folder}/ca.crt
  name: local
users:
- name: user
  user:
    client-certificate: {folder}/client.crt
    client-key: {folder}/client.key
"""


class StandInCluster(device.Cluster):
    """The API of a cluster of one node, with the DaemonSets of every release."""

    def __init__(self, paths: Any, world: World) -> None:
        super().__init__(paths, NODE)
        self.world = world

    def ask(self, method: str, path: str, document: Any = None) -> dict[str, Any]:
        content = self.world.read()
        if content["runtime_down"]:
            raise device.Failure("cluster_unreachable", "the cluster does not answer: timed out")
        split = urlsplit(path)
        if split.path == f"/api/v1/nodes/{NODE}":
            if method == "PATCH":
                with self.world.change() as content:
                    for name, value in document["metadata"]["labels"].items():
                        content["labels"][name] = value
                reconcile(self.world)
            return self._node()
        assert split.path.startswith(device.PODS)
        if method == "DELETE":
            with self.world.change() as content:
                content["containers"].pop(split.path.rpartition("/")[2], None)
            reconcile(self.world)
            return {}
        query = {name: values[0] for name, values in parse_qs(split.query).items()}
        assert query["fieldSelector"] == f"spec.nodeName={NODE}"
        assert query["labelSelector"] in ("muster.model", f"muster.model={MODEL}")
        return {"items": [_pod(*each) for each in content["containers"].items()]}

    def _node(self) -> dict[str, Any]:
        content = self.world.read()
        labels = {name: value for name, value in content["labels"].items() if value is not None}
        ready = {"type": "Ready", "status": "False" if content["not_ready"] else "True"}
        status = {"conditions": [ready], "nodeInfo": {"kubeletVersion": "v1.20.2+k3s1"}}
        return {"metadata": {"name": NODE, "labels": labels}, "status": status}


def _pod(name: str, container: dict[str, Any]) -> dict[str, Any]:
    waiting = {"reason": "CrashLoopBackOff", "message": "back-off"} if container["broken"] else None
    return {
        "metadata": {
            "name": name,
            "uid": container["uid"],
            "labels": {"muster.model": MODEL, "muster.release": container["release"]},
            "annotations": {"muster.container": name},
        },
        "status": {
            "phase": "Running",
            "containerStatuses": [
                {"restartCount": container["restarts"], "state": {"waiting": waiting}}
            ],
        },
    }


def reconcile(world: World) -> None:
    """What the controller of the DaemonSets and the kubelet do."""
    with world.change() as content:
        release = content["labels"].get(f"muster.model/{MODEL}")
        known = content["labels"].get(f"muster.variant/{MODEL}") == "hw_coral"
        wanted = f"muster-{MODEL}-{release}" if release and known else None
        containers = content["containers"]
        for name in [name for name in containers if name != wanted]:
            del containers[name]
        if wanted and wanted not in containers:
            crashing = release in content["crashing"]
            containers[wanted] = {
                "release": release,
                "model": MODEL,
                "slot": "",
                "running": not crashing,
                "broken": "CrashLoopBackOff" if crashing else "",
                "restarts": 4 if crashing else 0,
                "uid": str(len(content["started"])),
            }
            content["started"].append(release)


class NodeRuntime(device.K3sRuntime):
    """Images as the world has them; everything else asks the cluster."""

    def __init__(self, paths: Any, world: World) -> None:
        super().__init__(paths)
        self.world, self.cluster = world, StandInCluster(paths, world)

    def _call(self, *arguments: str, timeout: float = 60.0, given: str = "") -> Any:
        content, image = self.world.read(), arguments[-1]
        verb = arguments[1]
        if verb == "inspecti":
            return device.Finished(0 if image in content["images"] else 1, "", "")
        if verb == "pull" and image not in content["registry"]:
            return device.Finished(1, "", f"failed to pull {image}: not found")
        with self.world.change() as content:
            if verb == "pull":
                content["images"].append(image)
            elif verb == "rmi":
                content["images"].remove(image)
            else:
                assert arguments[:3] == ("ctr", "images", "label")
                content["pinned"].append(arguments[3])
        return device.Finished(0, "", "")


class NodeHost(device.Host):
    def __init__(self, dev: NodeDevice) -> None:
        super().__init__(dev.paths, dev.clock, None, NodeRuntime(dev.paths, dev.world))
        timers = StandInSystemd(dev.world)
        for name in ("start", "stop", "is_active", "restarts", "kill", "is_enabled"):
            setattr(self.systemd, name, _apart(self.systemd, timers, name))


def _apart(units: Any, timers: StandInSystemd, name: str) -> Any:
    """The method of what a unit belongs to: the node's labels, or systemd."""
    ours, theirs = getattr(units, name), getattr(timers, name)
    return lambda unit: (ours if device.MODEL_UNIT.fullmatch(unit) else theirs)(unit)


class NodeDevice(Device):
    """A device that is a node."""

    def __init__(self, root: Path, server: ModelServer) -> None:
        super().__init__(root, server)
        with self.world.change() as content:
            content |= {"labels": {}, "not_ready": False, "pinned": []}

    def provision(self, proxy: bool) -> None:
        self.configure(runtime="k3s", registry=REGISTRY, node=NODE)

    def power_cut(self) -> None:
        super().power_cut()
        with self.world.change() as content:
            content["containers"] = {}
        reconcile(self.world)  # the labels outlive it

    @property
    def host(self) -> Any:
        return NodeHost(self)

    def wants(self) -> str | None:
        """The release that the node's labels ask for."""
        found: str | None = self.world.read()["labels"].get(f"muster.model/{MODEL}")
        return found

    def assert_rests_on(self, release: Release | None) -> None:
        super().assert_rests_on(release)
        assert self.wants() == (release.id if release else None)


@pytest.fixture
def node(tmp_path: Path, server: ModelServer) -> NodeDevice:
    return NodeDevice(tmp_path / "device", server)


@pytest.fixture
def old(node: NodeDevice) -> Release:
    release = node.release("1.0")
    node.roll_out(release, 1)
    return release


def test_a_confirmed_release_is_what_the_labels_ask_for(node: NodeDevice, old: Release) -> None:
    new = node.release("1.1")
    node.roll_out(new, 2)
    node.assert_rests_on(new)
    assert node.links() == {"current": new.id, "previous": old.id, "last_good": new.id}
    assert node.world.read()["pinned"] == [f"{REGISTRY}/{r.image}" for r in (old, new)]


def test_what_runs_it_is_the_node(node: NodeDevice, old: Release) -> None:
    assert node.ok("inspect")["runtime"] == {
        "name": "k3s",
        "version": "v1.20.2+k3s1",
        "ready": True,
    }
    with node.world.change() as content:
        content["not_ready"] = True
    assert node.ok("inspect")["runtime"]["ready"] is False
    probed = node.ok("probe", checks=[], duration=0, interval=1)
    assert probed["runtime_ready"] is False


def test_a_pod_that_crashes_is_named_and_goes_back(node: NodeDevice, old: Release) -> None:
    new = node.release("1.1")
    node.stage(new)
    with node.world.change() as content:
        content["crashing"] = [new.id]
    answer = node.switch(new, 2)
    assert answer["ready"] is False
    assert "restarted 4 times" in answer["detail"]
    assert "CrashLoopBackOff: back-off" in answer["detail"]
    node.revert(2)
    node.assert_rests_on(old)


def test_the_first_release_that_fails_leaves_no_label(node: NodeDevice) -> None:
    new = node.release("1.0")
    node.stage(new)
    node.switch(new, 1)
    node.revert(1)
    node.assert_rests_on(None)


def test_the_guard_goes_back_when_the_controller_is_silent(node: NodeDevice, old: Release) -> None:
    new = node.release("1.1")
    node.stage(new)
    node.switch(new, 2, confirm_timeout=30)
    assert node.wants() == new.id
    node.clock.offset += 31
    node.guard()
    node.assert_rests_on(old)


def test_the_guard_tries_until_the_cluster_answers(node: NodeDevice, old: Release) -> None:
    new = node.release("1.1")
    node.stage(new)
    node.switch(new, 2, confirm_timeout=30)
    node.clock.offset += 31
    with node.world.change() as content:
        content["runtime_down"] = True
    for _ in range(10):
        node.guard()
        assert TIMER in node.world.read()["active"]
        assert json.loads((node.state / "state.json").read_text())["phase"] == "reverting"
    assert node.wants() == new.id
    with node.world.change() as content:
        content["runtime_down"] = False
    node.guard()
    node.assert_rests_on(old)


def left_alone(node: NodeDevice) -> None:
    """Nobody comes: the guard acts when its time is over, and finishes with the next tick."""
    node.clock.offset += 120
    node.guard()
    if node.model()["phase"] != "idle":
        node.guard()


def started_again(node: NodeDevice) -> None:
    """The power is cut and comes back."""
    node.power_cut()
    node.boot()


@pytest.mark.parametrize("then", [left_alone, started_again])
def test_killed_at_any_checkpoint_it_ends_on_the_old_release(
    tmp_path: Path, server: ModelServer, then: Callable[[NodeDevice], None]
) -> None:
    number = 0
    while True:
        number += 1
        node = NodeDevice(tmp_path / f"device-{number}", server)
        old, new = node.release("1.0"), node.release("1.1")
        node.roll_out(old, 1)
        node.stage(new)
        document = node.switch_document(new, 2)
        if not killed_at(number, lambda n=node, d=document: n.call("switch", **d)):
            break
        then(node)
        node.assert_rests_on(old)
    assert number > 6


def test_a_restart_keeps_what_is_confirmed(node: NodeDevice, old: Release) -> None:
    node.power_cut()
    assert node.boot()["ok"]
    node.assert_rests_on(old)


def test_the_steps_are_those_of_other_runtimes(node: NodeDevice, old: Release) -> None:
    new = node.release("1.1")
    node.stage(new)
    seen = seen_checkpoints(lambda: node.switch(new, 2))
    assert [name for name in seen if name.startswith("switch:")] == [
        "switch:arming",
        "switch:guarded",
        "switch:created",
        "switch:switching",
        "switch:previous",
        "switch:current",
        "switch:stopped",
        "switch:started",
        "switch:switched",
    ]


def test_blue_green_is_not_offered(node: NodeDevice, old: Release) -> None:
    assert node.ok("inspect")["switch_modes"] == ["recreate"]


def test_the_unit_of_a_model_says_that_it_is_not_used(node: NodeDevice, old: Release) -> None:
    assert UNIT not in node.world.read()["active"]
    with pytest.raises(device.Failure, match="the cluster runs"):
        device.prepare_run(node.host, MODEL)


def test_without_the_kubelets_credentials_nothing_is_asked(tmp_path: Path) -> None:
    cluster = device.Cluster(device.Paths(str(tmp_path)), NODE)
    with pytest.raises(device.Failure, match=r"kubelet\.kubeconfig is not there"):
        cluster.labels()


def test_credentials_that_can_not_be_used_are_named(tmp_path: Path) -> None:
    path = tmp_path / device.KUBELET_CONFIG.lstrip("/")
    path.parent.mkdir(parents=True)
    path.write_text(KUBELET_CONFIG.format(port=1, folder=tmp_path))
    cluster = device.Cluster(device.Paths(str(tmp_path)), NODE)
    with pytest.raises(device.Failure, match=r"kubelet\.kubeconfig can't be used"):
        cluster.labels()
    path.write_text("apiVersion: v1\n")
    with pytest.raises(device.Failure, match="can't be used: 'server'"):
        cluster.labels()


# What a cluster forgets, and what a restart takes away


def labels(node: NodeDevice) -> dict[str, Any]:
    found: dict[str, Any] = node.world.read()["labels"]
    return found


def away(node: NodeDevice, is_away: bool = True) -> None:
    with node.world.change() as content:
        content["runtime_down"] = is_away


def forget(node: NodeDevice) -> None:
    with node.world.change() as content:
        content["labels"] = {}
    reconcile(node.world)


def test_the_lock_that_a_pod_waits_for_is_there_after_a_restart(
    node: NodeDevice, old: Release
) -> None:
    lock = node.root / f"run/muster/{MODEL}.lock"
    node.power_cut()
    assert not lock.exists()
    node.boot()
    assert lock.exists()


def test_a_cluster_that_forgot_is_asked_again(node: NodeDevice, old: Release) -> None:
    forget(node)
    assert node.answer() is None
    assert node.model()["current"]["id"] == old.id
    node.assert_rests_on(old)


def test_a_restored_cluster_is_told_what_runs_by_now(node: NodeDevice, old: Release) -> None:
    before = dict(labels(node))
    new = node.release("1.1")
    node.roll_out(new, 2)
    with node.world.change() as content:
        content["labels"] = before
    reconcile(node.world)
    assert node.answer() == old.id
    node.ok("inspect")
    node.ok("inspect", model=MODEL)
    node.assert_rests_on(new)


def test_a_restart_without_the_cluster_is_no_failure_and_is_made_up_for(
    node: NodeDevice, old: Release
) -> None:
    node.power_cut()
    forget(node)
    away(node)
    assert node.boot()["ok"]
    assert TIMER in node.world.read()["active"]
    node.guard()
    assert TIMER in node.world.read()["active"]
    away(node, False)
    node.guard()
    node.assert_rests_on(old)


def test_a_first_release_is_not_given_up_while_it_still_runs(node: NodeDevice) -> None:
    new = node.release("1.0")
    node.stage(new)
    node.switch(new, 1, confirm_timeout=30)
    node.clock.offset += 31
    away(node)
    node.guard()
    assert json.loads((node.state / "state.json").read_text())["phase"] == "reverting"
    assert node.wants() == new.id
    away(node, False)
    node.guard()
    node.assert_rests_on(None)


def test_the_cluster_is_told_what_the_node_may_go_back_to(node: NodeDevice, old: Release) -> None:
    new = node.release("1.1")
    node.stage(new)
    node.switch(new, 2)
    asked = labels(node)
    assert asked[f"muster.last-good/{MODEL}"] == asked[f"muster.previous/{MODEL}"] == old.id
    assert asked[f"muster.registry/{MODEL}"] == hashlib.sha256(REGISTRY.encode()).hexdigest()[:12]
    node.confirm(2)
    assert labels(node)[f"muster.previous/{MODEL}"] == old.id


def test_a_damaged_configuration_does_not_hide_that_this_is_a_node(
    node: NodeDevice, old: Release
) -> None:
    config = node.root / "etc/muster/device.json"
    (config.parent / "device.json.copy").write_text(config.read_text())
    config.write_text("{")
    host = device.Host(node.paths, node.clock)
    assert host.damaged_config is not None
    assert isinstance(host.systemd, device.NodeUnits)
    assert host.runtime.cluster.node == NODE


def test_an_image_that_is_there_already_is_pinned(node: NodeDevice, old: Release) -> None:
    new = node.release("1.1")
    image = f"{REGISTRY}/{new.image}"
    with node.world.change() as content:
        content["images"].append(image)
    node.stage(new)
    assert image in node.world.read()["pinned"]


def test_an_image_that_another_name_stands_for_is_kept(node: NodeDevice) -> None:
    runtime = NodeRuntime(node.paths, node.world)
    digest = "models/digits@sha256:" + "a" * 64
    assert runtime.same_image(f"one:5000/{digest}", f"two:5000/{digest}")
    assert not runtime.same_image(f"one:5000/{digest}", None)


def test_restarts_are_counted_for_each_pod(node: NodeDevice, old: Release) -> None:
    units, name = node.host.systemd, f"muster-{MODEL}-{old.id}"
    with node.world.change() as content:
        content["containers"][name]["restarts"] = 3
    assert units.restarts(UNIT) == 3
    away(node)
    assert units.restarts(UNIT) == 3  # silence is no news
    away(node, False)
    assert units.restarts(UNIT) == 3
    with node.world.change() as content:
        content["containers"][name].update(restarts=0, uid="another")
    assert units.restarts(UNIT) == 4
