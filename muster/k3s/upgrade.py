"""The waves of an upgrade: servers first, one of each cluster at a time, then agents. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from muster.k3s.cluster import Cluster
from muster.planning import Plan, PlanDevice, PlannedDevice, Wave, plan, rules_of
from muster.strategy import Strategy
from muster.tasks import Task, select_kind


def server_turns(clusters: Iterable[Cluster], chosen: Collection[str]) -> list[list[str]]:
    """Names of the servers that are upgraded at the same time: never two of one cluster."""
    rows = [[s.name for s in cluster.servers if s.name in chosen] for cluster in clusters]
    turns = itertools.zip_longest(*rows)
    return [[name for name in turn if name is not None] for turn in turns]


def plan_upgrade(
    devices: Sequence[PlanDevice],
    clusters: Iterable[Cluster],
    task: Task,
    strategy: Strategy,
    matching: Mapping[str, Collection[str]] | None = None,
) -> Plan:
    """Cut nodes into waves.

    Servers take the soak and the approval of the strategy's first wave; agents are cut as the
    strategy says.

    :param devices: the nodes to be upgraded.
    :param matching: names of the devices that each ``pattern`` of the strategy selects.
    """
    by_name = {device.name: device for device in devices}
    turns = server_turns(clusters, by_name)
    servers = {name for turn in turns for name in turn}
    agents = plan(
        [device for device in devices if device.name not in servers], task, strategy, matching
    )
    first = rules_of(strategy, len(devices))[0]
    waves = [
        Wave(
            index,
            f"server {index + 1} of {len(turns)}",
            tuple(PlannedDevice(n, select_kind(task, by_name[n].groups)[0]) for n in turn),
            first.soak,
            first.approval,
        )
        for index, turn in enumerate(turns)
    ]
    later = [replace(wave, index=wave.index + len(waves)) for wave in agents.waves]
    return Plan((*waves, *later), agents.rejected)
