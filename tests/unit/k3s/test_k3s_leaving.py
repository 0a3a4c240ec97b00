"""What a cluster is told when one of its nodes is reset or retired."""

from __future__ import annotations

from typing import Any

import pytest
from test_k3s_upgrading import Aside, device, told_of

from muster.fleet.interface import Answer, Order, Trouble
from muster.fleet.leaving import Leaving, forget_nodes, leaving_fleet, leaving_problems
from muster.inventory import Device

SERVERS = tuple(device(f"s{i}", "server") for i in (1, 2, 3))
AGENT, ALONE = device("Edge_1"), Device("camera", "camera", 22, None, None, (), {})
DEVICES = (*SERVERS, AGENT, device("a2"), ALONE)


def leaving(aside: Aside, *names: str) -> Leaving:
    return Leaving(aside, DEVICES, names)  # type: ignore[arg-type]


def test_a_node_is_drained_first_and_forgotten_at_the_end() -> None:
    aside = Aside()
    out = leaving(aside, "Edge_1", "s1")
    assert out.drain("Edge_1") == ""
    assert out.forget("Edge_1") == ""
    assert aside.told == ["s2_drain edge-1", "s2_delete-node edge-1"]


def test_etcd_forgets_a_server_before_anything_is_wiped() -> None:
    aside = Aside()
    assert leaving(aside, "s1").drain("s1") == ""
    assert aside.told == ["s2_nodes", "s2_drain s1", "s2_delete-node s1"]


def test_a_server_that_is_not_drained_is_forgotten_first_as_well() -> None:
    aside = Aside()
    devices = (device("s1", "server", k3s_drain=False), *SERVERS[1:])
    assert Leaving(aside, devices, {"s1"}).drain("s1") == ""  # type: ignore[arg-type]
    assert aside.told == ["s2_nodes", "s2_delete-node s1"]


def test_a_server_whose_etcd_does_not_let_it_go_is_not_wiped() -> None:
    aside = Aside(**{f"{name}_delete-node": (Trouble.REFUSED, "kubectl_failed")
                     for name in ("s2", "s3")})  # fmt: skip
    assert leaving(aside, "s1").drain("s1") == "no"


def test_a_server_does_not_leave_while_another_one_is_away() -> None:
    aside = Aside(nodes=[told_of("s1"), told_of("s2"), told_of("s3", ready=False)])
    assert "s3 is not Ready" in leaving(aside, "s1").drain("s1")
    assert aside.told == ["s2_nodes"]
    # one that was never in the cluster, or has left it, is missed by nobody
    aside = Aside(nodes=[told_of("s1"), told_of("s2")])
    assert leaving(aside, "s1").drain("s1") == ""


def test_a_device_that_is_no_node_is_none_of_a_cluster_s_business() -> None:
    aside = Aside()
    assert leaving(aside, "camera").drain("camera") == ""
    assert leaving(aside, "camera").forget("camera") == ""
    assert not aside.told


def test_a_cluster_that_ends_is_told_nothing() -> None:
    aside = Aside()
    names = [each.name for each in DEVICES]
    assert leaving(aside, *names).drain("s1") == ""
    assert leaving(aside, *names).forget("s1") == ""
    assert not aside.told


def test_a_drain_that_fails_is_told_and_no_other_server_tried() -> None:
    aside = Aside(s1_drain=(Trouble.REFUSED, "drain_failed"))
    assert leaving(aside, "a2").drain("a2") == "no"
    assert aside.told == ["s1_drain a2"]


def test_another_server_is_asked_where_one_is_silent() -> None:
    aside = Aside(**{"s1_delete-node": (Trouble.UNREACHABLE, "")})
    assert leaving(aside, "a2").forget("a2") == ""
    assert aside.told == ["s1_delete-node a2", "s2_delete-node a2"]


def test_a_node_that_is_gone_already_is_no_failure() -> None:
    aside = Aside(s1_drain=(Trouble.REFUSED, "no_node"))
    assert leaving(aside, "a2").drain("a2") == ""


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (["s1"], ""),
        (["Edge_1", "a2"], ""),
        (["s1", "s2", "s3", "Edge_1", "a2"], ""),
        (["camera"], ""),
        (["s1", "s2"], "one server at a time"),
        (["s1", "s2", "s3", "a2"], "Edge_1 would have none"),
    ],
)
def test_a_cluster_must_go_on_or_end(names: list[str], problem: str) -> None:
    told = leaving_problems(DEVICES, names)
    assert problem in told[0] if problem else told == []


def test_a_fleet_without_nodes_is_left_as_it_is() -> None:
    fleet: Any = object()
    assert leaving_fleet(fleet, DEVICES, ["camera"]) is fleet


class Fleet:
    def __init__(self, *troubles: Trouble | None) -> None:
        self.troubles, self.orders = list(troubles), []

    def submit(self, order: Order) -> None:
        self.orders.append(order)

    def next_answer(self, _timeout: float | None) -> Answer:
        order = self.orders[-1]
        return Answer(order.device, order.verb, trouble=self.troubles.pop(0), message="cut")


def test_what_is_out_of_reach_is_forgotten_too() -> None:
    fleet: Any = Fleet(Trouble.UNREACHABLE, None)
    assert forget_nodes(fleet, DEVICES, {"a2", "camera"}) == {}
    assert [order.device for order in fleet.orders] == ["s1#k3s", "s2#k3s"]
    assert fleet.orders[0].document == {"node": "a2"}


def test_a_cluster_that_can_t_be_told_is_named() -> None:
    fleet: Any = Fleet(*[Trouble.UNREACHABLE] * 3)
    assert forget_nodes(fleet, DEVICES, {"a2"}) == {"a2": "cut"}
