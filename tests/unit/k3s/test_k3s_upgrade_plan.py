"""Which upgrades a cluster allows, and in which order its nodes take their turns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.k3s.cluster import Cluster, cluster_of, clusters
from muster.k3s.skew import Member, behind, problems
from muster.k3s.upgrade import plan_upgrade, server_turns
from muster.k3s.versions import change_problem, minor, parse
from muster.planning import PlanDevice
from muster.strategy import Strategy, WaveRule
from muster.tasks import CONFIGURE, Task


@dataclass(frozen=True)
class Device:
    name: str
    variables: Mapping[str, Any] = field(default_factory=dict)


def server(name: str, cluster: str = "a") -> Device:
    return Device(name, {"k3s_role": "server", "k3s_cluster": cluster})


def agent(name: str, cluster: str = "a") -> Device:
    return Device(name, {"k3s_role": "agent", "k3s_cluster": cluster})


def version(minor: int, patch: int = 1, build: int = 1) -> str:
    return f"v1.{minor}.{patch}+k3s{build}"


def member(name: str, running: int | None, wanted: int, **how: bool) -> Member:
    told = None if running is None else version(running)
    is_server = how.get("server", name.startswith("s"))
    return Member(name, is_server, told, version(wanted), how.get("chosen", True))


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("v1.20.2+k3s1", "v1.20.2+k3s2"),
        ("v1.20.2+k3s9", "v1.20.10+k3s1"),
        ("v1.9.9+k3s1", "v1.20.0+k3s1"),
        ("v1.34.0-rc1+k3s1", "v1.34.0-rc2+k3s1"),
        ("v1.34.0-rc2+k3s1", "v1.34.0+k3s1"),
    ],
)
def test_versions_are_compared_by_their_numbers(older: str, newer: str) -> None:
    assert parse(older) < parse(newer)


@pytest.mark.parametrize("text", ["", "1.20.2", "v1.20.2", "v1.20+k3s1", "v1.20.2+k3s1 ", "latest"])
def test_what_is_no_version_of_k3s_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="such as v1"):
        parse(text)


def test_a_node_goes_no_further_than_the_next_minor_and_never_back() -> None:
    assert change_problem(version(20), version(21)) == ""
    assert change_problem("", version(25)) == ""
    assert change_problem(version(20), version(20)) == ""
    assert "v1.21" in change_problem(version(20), version(22))
    assert "downgraded" in change_problem(version(20, 2), version(20, 1))
    assert "left out" in change_problem(version(20), "v2.0.0+k3s1")


def test_devices_of_one_name_are_one_cluster() -> None:
    found = clusters(
        [agent("x", "b"), server("s1"), Device("none"), agent("x2"), server("s2", "b")]
    )
    assert {name: [d.name for d in each.nodes] for name, each in found.items()} == {
        "a": ["s1", "x2"],
        "b": ["s2", "x"],
    }
    assert cluster_of(Device("x")) == "default"


def test_an_upgrade_by_a_minor_is_allowed() -> None:
    assert problems("a", [member("s1", 20, 21), member("s2", 20, 21), member("x", 20, 21)]) == []


def test_every_broken_rule_is_told_with_the_running_version() -> None:
    told = problems("a", [member("s1", 20, 22), member("x", 23, 22), member("y", 20, 22)])
    assert len(told) == 3
    assert all(text.startswith("cluster a: ") for text in told)
    assert "s1 (runs v1.20.1+k3s1): expected the next minor version, v1.21" in told[0]
    assert "x (runs v1.23.1+k3s1): expected no version before" in told[1]
    assert "y (runs v1.20.1+k3s1)" in told[2]


def test_a_server_that_is_left_out_may_be_one_minor_behind_and_no_more() -> None:
    assert problems("a", [member("s1", 20, 21), member("s2", 20, 21, chosen=False)]) == []
    told = problems("a", [member("s1", 21, 22), member("s2", 20, 22, chosen=False)])
    assert any("more than one minor version apart" in text for text in told)


def test_no_agent_is_newer_than_any_server() -> None:
    told = problems("a", [member("s1", 20, 21, chosen=False), member("x", 20, 21)])
    assert told == [
        "cluster a: x (runs v1.20.1+k3s1): expected no newer version than that of the servers,"
        " v1.20.1+k3s1, got v1.21.1+k3s1"
    ]


@pytest.mark.parametrize(("servers", "allowed"), [(21, 2), (27, 2), (28, 3), (34, 3)])
def test_a_kubelet_may_be_as_old_as_kubernetes_allows(servers: int, allowed: int) -> None:
    def told(running: int) -> list[str]:
        waits = member("x", running, running, chosen=False)
        return problems("a", [member("s1", servers - 1, servers), waits])

    assert behind((1, servers)) == allowed
    assert told(servers - allowed) == []
    assert "upgrade it first" in told(servers - allowed - 1)[0]


def test_a_server_of_unknown_version_stops_all() -> None:
    told = problems("a", [member("s1", None, 21), member("x", 20, 21)])
    assert any("s1: expected every server to tell its version" in text for text in told)


def test_an_agent_of_unknown_version_stops_nothing() -> None:
    assert problems("a", [member("s1", 20, 21), member("x", None, 21)]) == []


def test_a_version_of_others_can_t_be_compared() -> None:
    other = Member("x", False, "v1.20.2", version(21), True)
    assert "got 'v1.20.2'" in problems("a", [member("s1", 20, 21), other])[0]


minors = st.integers(18, 34)
members = st.lists(
    st.tuples(st.booleans(), minors, minors, st.integers(1, 3), st.integers(1, 3), st.booleans()),
    min_size=1,
    max_size=6,
)


@given(members)
def test_what_is_allowed_keeps_every_rule_at_every_moment(drawn: list[Any]) -> None:
    """Goes through an allowed upgrade node by node, and looks at each mixture on the way."""
    found = [
        Member(f"n{i}", is_server, version(a, p), version(b, q), chosen)
        for i, (is_server, a, b, p, q, chosen) in enumerate(drawn)
    ]
    if not any(each.is_server for each in found) or problems("a", found):
        return
    now = {each.name: str(each.running) for each in found}
    order = sorted((e for e in found if e.chosen), key=lambda each: not each.is_server)
    for each in order:
        assert parse(now[each.name]) <= parse(each.wanted)
        assert minor(each.wanted)[1] - minor(now[each.name])[1] <= 1
        now[each.name] = each.wanted
        of_servers = [minor(now[e.name])[1] for e in found if e.is_server]
        assert max(of_servers) - min(of_servers) <= 1
        if not each.is_server:
            oldest = min((now[e.name] for e in found if e.is_server), key=parse)
            assert parse(each.wanted) <= parse(oldest)
        for other in found:
            if not other.is_server:
                newest = (1, max(of_servers))
                assert newest[1] - minor(now[other.name])[1] <= behind(newest)


names = st.lists(st.text("abcdef", min_size=1, max_size=3), unique=True, max_size=12)


@given(names, st.data())
def test_servers_come_first_and_never_two_of_a_cluster(drawn: list[str], data: Any) -> None:
    made = [
        Device(
            name,
            {
                "k3s_role": data.draw(st.sampled_from(["server", "agent"])),
                "k3s_cluster": data.draw(st.sampled_from(["a", "b"])),
            },
        )
        for name in drawn
    ]
    chosen = [device for device in made if data.draw(st.booleans())]
    found = clusters(made)
    task = Task.new(CONFIGURE)
    members = [PlanDevice(device.name, None, ()) for device in chosen]
    planned = plan_upgrade(members, found.values(), task, Strategy())
    order = [[device.name for device in wave.devices] for wave in planned.waves]
    assert sorted(name for wave in order for name in wave) == sorted(d.name for d in chosen)
    assert [wave.index for wave in planned.waves] == list(range(len(order)))
    by_name = {device.name: device for device in made}
    agents_began = False
    for wave in order:
        roles = {by_name[name].variables["k3s_role"] for name in wave}
        assert len(roles) == 1
        if roles == {"server"}:
            assert not agents_began
            of = [cluster_of(by_name[name]) for name in wave]
            assert len(of) == len(set(of))
        agents_began |= roles == {"agent"}


def test_servers_wait_for_approval_as_the_first_wave_does() -> None:
    strategy = Strategy(waves=(WaveRule(size=1, soak=7.0, approval=True), WaveRule(size="rest")))
    found = clusters([server("s1"), server("s2"), agent("x"), agent("y"), agent("z")])
    members = [PlanDevice(name, None, ()) for name in ("s1", "s2", "x", "y", "z")]
    planned = plan_upgrade(members, found.values(), Task.new(CONFIGURE), strategy)
    assert [(wave.name, wave.soak, wave.approval) for wave in planned.waves] == [
        ("server 1 of 2", 7.0, True),
        ("server 2 of 2", 7.0, True),
        ("1", 7.0, True),
        ("rest", 0.0, False),
    ]


def test_turns_of_nobody_are_none() -> None:
    assert server_turns([Cluster("a", (server("s"),), ())], []) == []
