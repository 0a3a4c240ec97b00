"""What an upgrade does to one node, with the servers that help it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gevent
import gevent.queue
import pytest

from muster.fleet.aside import AsideFleet
from muster.fleet.interface import Answer, Order, Trouble, Verb
from muster.fleet.upgrading import Upgrading, drain_seconds, helpers
from muster.inventory import Device
from muster.k3s.cluster import clusters


def device(name: str, role: str = "agent", **variables: Any) -> Device:
    return Device(name, name, 22, None, None, (), {"k3s_role": role, **variables})


DEVICES = (device("s1", "server"), device("s2", "server"), device("Edge_1"))


def told_of(name: str, version: str = "v1.21.0+k3s1", *, ready: bool = True) -> dict[str, Any]:
    """What a server tells of a node."""
    return {"name": name, "ready": ready, "version": version}


class Aside:
    """Servers that do what they are told, but for what ``fails``.

    :param nodes: of the cluster, as a server tells.
    """

    def __init__(
        self, nodes: Sequence[Mapping[str, Any]] | None = None, **fails: tuple[Trouble, str]
    ) -> None:
        self.fails = fails
        self.nodes = [told_of(f"s{i}") for i in (1, 2, 3)] if nodes is None else nodes
        self.told: list[str] = []

    def ask(self, order: Order) -> Answer:
        call = f"{order.device.partition('#')[0]}_{order.verb.value}"
        self.told.append(f"{call} {order.document.get('node', '')}".strip())
        trouble, code = self.fails.get(call, (None, ""))
        document = {"nodes": self.nodes} if order.verb is Verb.NODES and not trouble else {}
        return Answer(order.device, order.verb, document, trouble, code, "no")


def upgrading(aside: Aside, result: tuple[str, bool] = ("", False)) -> tuple[Upgrading, list[str]]:
    installed: list[str] = []

    def install(name: str) -> tuple[str, bool]:
        installed.append(name)
        return result

    return Upgrading(aside, DEVICES, install), installed  # type: ignore[arg-type]


def test_a_node_is_drained_installed_and_let_back() -> None:
    aside = Aside()
    upgrade, installed = upgrading(aside)
    assert upgrade("Edge_1") == ""
    assert aside.told == ["s1_nodes", "s1_drain edge-1", "s1_uncordon edge-1"]
    assert installed == ["Edge_1"]


def test_a_server_asks_another_one_first() -> None:
    aside = Aside(s2_drain=(Trouble.REFUSED, "api_unreachable"))
    upgrade, _ = upgrading(aside)
    assert upgrade("s1") == ""
    assert aside.told == ["s2_nodes", "s2_drain s1", "s1_drain s1", "s2_uncordon s1"]


def test_a_node_that_can_t_be_drained_is_not_touched() -> None:
    aside = Aside(s1_drain=(Trouble.REFUSED, "drain_failed"))
    upgrade, installed = upgrading(aside)
    assert upgrade("Edge_1") == "no"
    assert not installed
    assert aside.told == ["s1_nodes", "s1_drain edge-1"]
    assert upgrade("Edge_1") == "no"
    assert len(aside.told) == 2


NEW = "v1.21.0+k3s1"


@pytest.mark.parametrize(
    ("name", "nodes", "problem"),
    [
        ("s1", [told_of("s1"), told_of("s2", ready=False)], "the server s2 is not Ready"),
        ("s1", [told_of("s1")], "the server s2 is not Ready"),
        ("s1", [told_of("s1", ready=False), told_of("s2", "v1.20.2+k3s1")], ""),
        ("Edge_1", [told_of("s1", ready=False), told_of("s2")], "the server s1 is not Ready"),
        ("Edge_1", [told_of("s1"), told_of("s2", "v1.20.2+k3s1")], "s2 runs v1.20.2+k3s1"),
        ("Edge_1", [told_of("s1"), told_of("s2", "v1.21.0+k3s2")], ""),
    ],
)
@pytest.mark.parametrize("drained", [True, False])
def test_a_node_waits_for_the_servers_of_its_cluster(
    name: str, nodes: Sequence[Mapping[str, Any]], problem: str, *, drained: bool
) -> None:
    more = {"k3s_version": NEW, "k3s_drain": drained}
    devices = [device("s1", "server", **more), device("s2", "server", **more)]
    aside, installed = Aside(nodes), []

    def install(name: str) -> tuple[str, bool]:
        installed.append(name)
        return "", False

    upgrade = Upgrading(aside, [*devices, device("Edge_1", **more)], install)  # type: ignore[arg-type]
    told = upgrade(name)
    assert problem in told if problem else told == ""
    assert installed == ([] if problem else [name])
    assert not problem or not any("drain" in call for call in aside.told)


def test_servers_that_are_silent_hold_an_upgrade_up() -> None:
    gone = (Trouble.UNREACHABLE, "")
    upgrade, installed = upgrading(Aside(s1_nodes=gone, s2_nodes=gone))
    assert upgrade("Edge_1") == "no"
    assert not installed


def test_a_server_without_others_asks_nobody() -> None:
    aside, alone = Aside(), device("s1", "server")
    upgrade = Upgrading(aside, [alone], lambda _: ("", False))  # type: ignore[arg-type]
    assert upgrade("s1") == ""
    assert not aside.told


def test_a_node_that_failed_is_let_back_and_not_tried_again() -> None:
    aside = Aside()
    upgrade, installed = upgrading(aside, ("checksum differs", False))
    assert upgrade("Edge_1") == "checksum differs"
    assert upgrade("Edge_1") == "checksum differs"
    assert installed == ["Edge_1"]
    assert aside.told[-1] == "s1_uncordon edge-1"


def test_a_node_out_of_reach_is_tried_again() -> None:
    upgrade, installed = upgrading(Aside(), ("unreachable", True))
    for _ in range(2):
        assert upgrade("Edge_1") == "unreachable"
    assert installed == ["Edge_1", "Edge_1"]


def test_a_node_that_stays_cordoned_is_told() -> None:
    gone = (Trouble.UNREACHABLE, "")
    upgrade, _ = upgrading(Aside(s1_uncordon=gone, s2_uncordon=gone))
    assert "stays cordoned" in upgrade("Edge_1")


@pytest.mark.parametrize(
    ("variables", "seconds"),
    [({}, 300.0), ({"k3s_drain": False}, None), ({"k3s_drain_timeout": "2m"}, 120.0)],
)
def test_the_inventory_says_whether_a_node_is_drained(
    variables: Mapping[str, Any], seconds: float | None
) -> None:
    node = device("a", **variables)
    assert drain_seconds(node, clusters([*DEVICES, node])["default"]) == seconds


def test_a_node_that_is_alone_is_not_drained() -> None:
    alone = device("s", "server")
    assert drain_seconds(alone, clusters([alone])["default"]) is None


def test_a_server_is_its_own_last_helper() -> None:
    cluster = clusters(DEVICES)["default"]
    assert [each.name for each in helpers(cluster, "s1")] == ["s2", "s1"]


class Fleet:
    """Answers each order a moment later."""

    def __init__(self) -> None:
        self.answers: Any = gevent.queue.Queue()

    def submit(self, order: Order) -> None:
        gevent.spawn_later(0.01, self.answers.put, Answer(order.device, order.verb))

    def next_answer(self, timeout: float | None) -> Answer | None:
        try:
            return self.answers.get(timeout=timeout)
        except gevent.queue.Empty:
            return None

    def now(self) -> float:
        return gevent.get_hub().loop.now()

    wall_time = now

    def close(self) -> None:
        pass


def order(name: str, verb: Verb) -> Order:
    return Order(name, verb, {}, 1.0)


def test_what_is_asked_aside_does_not_reach_the_engine() -> None:
    fleet = AsideFleet(Fleet())
    aside = gevent.spawn(fleet.ask, order("s1#k3s", Verb.DRAIN))
    fleet.submit(order("a", Verb.SWITCH))
    answers = [fleet.next_answer(0.2), fleet.next_answer(0.2)]
    assert [each.device for each in answers if each] == ["a"]
    assert aside.get(timeout=1).device == "s1#k3s"


def test_a_server_is_asked_one_thing_at_a_time() -> None:
    fleet = AsideFleet(Fleet())
    asked = [gevent.spawn(fleet.ask, order("s1#k3s", Verb.DRAIN)) for _ in range(3)]
    assert fleet.next_answer(0.5) is None
    assert all(each.ready() for each in asked)
