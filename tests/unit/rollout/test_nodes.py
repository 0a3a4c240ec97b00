"""Whole rollouts over simulated nodes of a cluster: the engine is the same, the fleet another."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from drill import Drill, Recorder, bad, strategy

from muster.fleet.interface import Answer, Order, Trouble, Verb
from muster.fleet.over_k3s import K3sFleet, Node, server_name
from muster.fleet.simulated import Quality, SimulatedDevice, SimulatedFleet
from muster.rollout.machine import DeviceState, RolloutState

SERVERS = ("s1", "s2", "s3")


class SimulatedCluster(SimulatedFleet):
    """Simulated nodes, and servers that are told what to run.

    :param away: servers that do not answer.
    :param lost_after: nodes that their cluster loses sight of when they run that release.
    """

    def __init__(
        self,
        devices: Iterable[SimulatedDevice],
        *arguments: Any,
        away: Iterable[str] = (),
        lost_after: Iterable[str] = (),
        release: str = "",
    ) -> None:
        super().__init__(devices, *arguments)
        self.away = {server_name(name) for name in away}
        self.lost, self.release = set(lost_after), release
        self.applied: list[tuple[str, str]] = []

    def submit(self, order: Order) -> None:
        if order.verb is Verb.APPLY:
            heapq.heappush(self._heap, (self._clock + 1.0, next(self._number), order))
        else:
            super().submit(order)

    def _carry_out(self, order: Order) -> Answer:
        if order.verb is Verb.APPLY:
            if order.device in self.away:
                return Answer(order.device, order.verb, {}, Trouble.UNREACHABLE, message="away")
            _, daemon_set = order.document["manifests"]
            self.applied.append((order.device, daemon_set["metadata"]["name"]))
            return Answer(order.device, order.verb)
        answer = super()._carry_out(order)
        if order.verb is Verb.PROBE and answer.trouble is None:
            runs = self.devices[order.device].current
            ready = order.device not in self.lost or runs != self.release
            answer = replace(answer, document={**answer.document, "runtime_ready": ready})
        return answer


def nodes(cluster: SimulatedCluster) -> K3sFleet:
    return K3sFleet(cluster, {name: Node("pier", SERVERS, "site:5000") for name in cluster.devices})


def run(drill: Drill, cluster: SimulatedCluster, **options: Any) -> RolloutState:
    snapshot = drill.prepare(cluster, strategy(**options))
    fleet: Any = nodes(cluster)
    return drill.drive(snapshot, fleet, facts=drill.facts(cluster))


def currents(cluster: SimulatedCluster) -> set[str | None]:
    return {device.current for device in cluster.devices.values()}


def test_every_variant_is_told_once_and_the_release_arrives(drill: Drill) -> None:
    cluster = SimulatedCluster(drill.devices(12))
    assert run(drill, cluster) is RolloutState.SUCCEEDED
    assert currents(cluster) == {drill.release.id}
    assert len(cluster.applied) == len(set(cluster.applied)) == 2


def test_servers_that_are_away_do_not_hold_it_up(drill: Drill) -> None:
    cluster = SimulatedCluster(drill.devices(6), away=("s1", "s2"))
    assert run(drill, cluster) is RolloutState.SUCCEEDED
    assert {server for server, _ in cluster.applied} == {server_name("s3")}


def test_without_servers_nothing_is_touched(drill: Drill) -> None:
    cluster = SimulatedCluster(drill.devices(6), away=SERVERS)
    state = run(drill, cluster, offline={"policy": "defer"})
    assert state is not RolloutState.SUCCEEDED
    assert currents(cluster) == {drill.old.id}


def test_a_bad_release_goes_back_everywhere(drill: Drill) -> None:
    cluster = SimulatedCluster(drill.devices(6), bad(drill.release, Quality.WRONG))
    assert run(drill, cluster) is RolloutState.ROLLED_BACK
    assert currents(cluster) == {drill.old.id}


def test_a_node_lost_by_its_cluster_through_the_switch_has_failed(drill: Drill) -> None:
    devices = drill.devices(6)
    cluster = SimulatedCluster(devices, lost_after=[devices[0].name], release=drill.release.id)
    snapshot = drill.prepare(cluster, strategy())
    fleet: Any = nodes(cluster)
    state = drill.drive(snapshot, fleet, Recorder(), facts=drill.facts(cluster))
    cluster.let_guards_act()
    assert state is RolloutState.ROLLED_BACK
    assert currents(cluster) == {drill.old.id}
    assert drill.records(snapshot)[devices[0].name].state in {
        DeviceState.LOST,
        DeviceState.ROLLED_BACK,
    }
