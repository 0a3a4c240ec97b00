"""A fleet of nodes: what their cluster is told, and when a node counts as out of reach."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Mapping
from typing import Any

import pytest

from muster.errors import InputError
from muster.fleet.interface import Answer, Order, Trouble, Verb
from muster.fleet.over_k3s import K3sFleet, Node, nodes_among, server_name
from muster.inventory import Device
from muster.k3s.workload import daemon_set, daemon_set_name, namespace
from muster.release import Release

VARIANT: dict[str, Any] = {"image": "models/digits@sha256:" + "a" * 64}
REGISTRY = "site:5000"


def make_release(version: str = "2.0", **variant: Any) -> Release:
    document = {
        "model": "digits",
        "version": version,
        "variants": {"hw_a": {**VARIANT, **variant}, "hw_b": VARIANT},
        "gates": [{"name": "ready", "type": "readiness"}],
    }
    return Release.model_validate(document)


RELEASE = make_release()
NODES = {name: Node("pier", ("s1", "s2"), REGISTRY) for name in ("s1", "n1", "n2")} | {
    "far": Node("hill", ("h1",), REGISTRY)
}


class ScriptedFleet:
    """Answers every order at once, as it was told to."""

    def __init__(self) -> None:
        self.orders: list[Order] = []
        self.trouble: dict[str, Trouble] = {}
        self.documents: dict[Verb, Mapping[str, Any]] = {}
        self._answers: deque[Answer] = deque()

    def submit(self, order: Order) -> None:
        self.orders.append(order)
        trouble = self.trouble.get(order.device)
        document = {} if trouble else self.documents.get(order.verb, {})
        message = "no connection" if trouble else ""
        self._answers.append(Answer(order.device, order.verb, document, trouble, message=message))

    def next_answer(self, timeout: float | None) -> Answer | None:
        return self._answers.popleft() if self._answers else None

    def now(self) -> float:
        return 0.0

    def wall_time(self) -> float:
        return 0.0

    def close(self) -> None:
        pass

    @property
    def told(self) -> list[tuple[str, str]]:
        return [(order.device, order.verb.value) for order in self.orders]


@pytest.fixture
def below() -> ScriptedFleet:
    return ScriptedFleet()


@pytest.fixture
def fleet(below: ScriptedFleet) -> K3sFleet:
    return K3sFleet(below, NODES)


def stage(device: str, variant: str = "hw_a", release: Release = RELEASE) -> Order:
    document = {"document": release.canonical, "variant": variant, "registry": None}
    return Order(device, Verb.STAGE, document, 60.0)


def everything(fleet: K3sFleet) -> list[Answer]:
    found = []
    while (answer := fleet.next_answer(None)) is not None:
        found.append(answer)
    return found


def test_the_cluster_is_told_before_the_first_node_and_only_once(
    fleet: K3sFleet, below: ScriptedFleet
) -> None:
    fleet.submit(stage("n1"))
    fleet.submit(stage("n2"))
    assert [answer.device for answer in everything(fleet)] == ["n1", "n2"]
    fleet.submit(stage("s1"))
    assert [answer.device for answer in everything(fleet)] == ["s1"]
    assert below.told == [
        (server_name("s1"), "apply"),
        ("n1", "stage"),
        ("n2", "stage"),
        ("s1", "stage"),
    ]
    assert below.orders[0].program == "muster-k3s"
    assert below.orders[0].document == {
        "manifests": [namespace(), daemon_set(RELEASE, "hw_a", REGISTRY)],
        "prune": {"model": "digits", "keep": 10},
    }


def test_a_server_gets_one_order_at_a_time(fleet: K3sFleet, below: ScriptedFleet) -> None:
    for order in (stage("n1"), stage("n2", "hw_b"), stage("far")):
        fleet.submit(order)
    assert below.told == [(server_name("s1"), "apply"), (server_name("h1"), "apply")]
    assert {answer.device for answer in everything(fleet)} == {"n1", "n2", "far"}
    assert below.told.count((server_name("s1"), "apply")) == 2


def test_another_server_is_asked_when_one_is_away(fleet: K3sFleet, below: ScriptedFleet) -> None:
    below.trouble[server_name("s1")] = Trouble.UNREACHABLE
    fleet.submit(stage("n1"))
    (answer,) = everything(fleet)
    assert answer.trouble is None
    assert below.told == [
        (server_name("s1"), "apply"),
        (server_name("s2"), "apply"),
        ("n1", "stage"),
    ]


def test_without_any_server_nothing_is_staged(fleet: K3sFleet, below: ScriptedFleet) -> None:
    below.trouble = {server_name(name): Trouble.UNREACHABLE for name in ("s1", "s2")}
    fleet.submit(stage("n1"))
    (answer,) = everything(fleet)
    assert (answer.device, answer.verb, answer.trouble) == ("n1", Verb.STAGE, Trouble.UNREACHABLE)
    assert answer.message == "cluster pier: no connection"
    assert ("n1", "stage") not in below.told
    below.trouble = {}
    fleet.submit(stage("n1"))
    assert [answer.trouble for answer in everything(fleet)] == [None]


def test_tasks_and_other_devices_pass(fleet: K3sFleet, below: ScriptedFleet) -> None:
    fleet.submit(Order("n1", Verb.STAGE, {"task": {}}, 1.0, "muster-task"))
    fleet.submit(stage("lonely"))
    assert below.told == [("n1", "stage"), ("lonely", "stage")]


@pytest.mark.parametrize(
    ("verb", "document", "away"),
    [
        (Verb.INSPECT, {"runtime": {"name": "k3s", "ready": False}}, True),
        (Verb.INSPECT, {"runtime": {"name": "k3s", "ready": True}}, False),
        (Verb.INSPECT, {"runtime": {"name": "docker", "ready": False}}, False),
        (Verb.PROBE, {"runtime_ready": False}, True),
        (Verb.PROBE, {"runtime_ready": True}, False),
        (Verb.SWITCH, {"ready": False}, False),
    ],
)
def test_a_node_that_its_cluster_lost_is_away(
    fleet: K3sFleet, below: ScriptedFleet, verb: Verb, document: dict[str, Any], away: bool
) -> None:
    below.documents[verb] = document
    fleet.submit(Order("n1", verb, {}, 1.0))
    (answer,) = everything(fleet)
    assert (answer.trouble is Trouble.UNREACHABLE) is away
    assert ("not Ready" in answer.message) is away
    fleet.submit(Order("lonely", verb, {}, 1.0))
    assert [answer.trouble for answer in everything(fleet)] == [None]


def device(name: str, **variables: Any) -> Device:
    variables = {
        "muster_device_runtime": "k3s",
        "k3s_cluster": "pier",
        "k3s_role": "agent",
        "muster_registry": REGISTRY,
    } | variables
    return Device(name, name, 22, "site_pier", "hw_a", (), variables)


def test_nodes_are_found_with_servers_outside_the_limit() -> None:
    known = [device("s1", k3s_role="server"), device("n1"), device("d", muster_device_runtime="")]
    assert nodes_among(known[1:], known) == {"n1": Node("pier", ("s1",), REGISTRY)}
    assert nodes_among(known[2:], known) == {}


@pytest.mark.parametrize(
    ("known", "complaint"),
    [
        ([device("n1", k3s_role="none")], "device n1: k3s_role: expected server or agent"),
        ([device("n1")], "expected a device with k3s_role: server in its cluster pier"),
        (
            [device("n1"), device("s1", k3s_role="server", muster_registry="other:5000")],
            "muster_registry: expected one for all nodes of cluster pier",
        ),
    ],
)
def test_a_node_that_can_not_be_told_is_refused(known: list[Device], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        nodes_among(known, known)


# What a cluster is told


def test_a_daemonset_runs_where_a_node_asks_for_it() -> None:
    found = daemon_set(RELEASE, "hw_a", REGISTRY)
    assert found["spec"]["updateStrategy"] == {"type": "OnDelete"}
    pod = found["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {
        "muster.model/digits": RELEASE.id,
        "muster.variant/digits": "hw_a",
        "muster.registry/digits": hashlib.sha256(REGISTRY.encode()).hexdigest()[:12],
    }
    (container,) = pod["containers"]
    assert container["image"] == f"{REGISTRY}/{VARIANT['image']}"
    assert container["ports"] == [{"containerPort": 8080, "hostPort": 8000}]
    assert container["securityContext"] == {"allowPrivilegeEscalation": False}
    assert "resources" not in container
    template = found["spec"]["template"]["metadata"]
    selected = found["spec"]["selector"]["matchLabels"].items()
    assert selected <= template["labels"].items()
    assert template["annotations"] == {"muster.container": f"muster-digits-{RELEASE.id}"}


def test_a_variant_gets_what_it_asks_for() -> None:
    release = make_release(
        env={"B": "2", "A": "1"}, memory="64MiB", devices=["/dev/apex_0"], cdi=["hailo.ai/npu=0"]
    )
    template = daemon_set(release, "hw_a", REGISTRY)["spec"]["template"]
    (container,) = template["spec"]["containers"]
    assert container["env"] == [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]
    assert container["resources"] == {"limits": {"memory": str(64 << 20)}}
    assert container["securityContext"] == {"privileged": True}
    assert {"name": "device-0", "hostPath": {"path": "/dev/apex_0"}} in template["spec"]["volumes"]
    assert template["metadata"]["annotations"]["cdi.k8s.io/muster"] == "hailo.ai/npu=0"


def test_every_release_and_variant_has_a_name_of_its_own() -> None:
    names = {
        daemon_set_name(release, variant, registry)
        for release in (RELEASE, make_release("2.1"))
        for variant in ("hw_a", "hw_b")
        for registry in (REGISTRY, "other:5000")
    }
    assert len(names) == 8
    longest = RELEASE.model_copy(update={"model": "m" * 41})
    assert len(daemon_set_name(longest, "hw_a", REGISTRY)) <= 63
