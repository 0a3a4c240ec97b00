"""The command that upgrades the K3s of nodes: a task, by the one engine."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from muster.commands.driving import Driving
from muster.commands.lifecycle import (
    fleet_of,
    pattern_argument,
    servers_of,
    show_plan,
    strategy_of_task,
    task_options,
)
from muster.commands.rollout import ask, prepare_shown
from muster.display import counted, make_console, plain_table
from muster.errors import InputError, MusterError
from muster.fleet.interface import Fleet, Order, Trouble, Verb
from muster.fleet.over_k3s import PROGRAM, server_name
from muster.inventory import Inventory, load_inventory
from muster.k3s.cluster import Cluster, clusters_with, role_of
from muster.k3s.session import connected_nodes
from muster.k3s.skew import Member, problems
from muster.k3s.state import NodeState, look
from muster.k3s.upgrade import plan_upgrade
from muster.planning import PlanDevice
from muster.provisioning import SITE_ROLES
from muster.role_variables import check_variables
from muster.rollout import controller
from muster.rollout.controller import Prepared
from muster.rollout.journal import open_journal
from muster.rollout.machine import DeviceState
from muster.strategy import Strategy
from muster.tasks import CONFIGURE, DEVICE, Task

SNAPSHOT_SECONDS = 660.0


@click.command()
@pattern_argument
@click.option(
    "--no-snapshot",
    is_flag=True,
    help="Save nothing before, where the datastore was saved by its own means.",
)
@task_options
def upgrade(pattern: str | None, no_snapshot: bool, **options: Any) -> int:
    """Bring nodes to the version of K3s that the inventory says (k3s_version).

    Servers first, one of a cluster at a time, then agents in the waves of the strategy. What
    Kubernetes does not allow is refused before anything is touched. A snapshot is saved first; a
    node is drained, provisioned, and has to run the version and be Ready. What was upgraded stays
    so when another fails. Without PATTERN all nodes.
    """
    return run_upgrade(pattern, snapshot=not no_snapshot, **options)


@dataclass(frozen=True)
class Wanted:
    """What an upgrade is to do.

    :param states: how every node of the clusters is.
    :param chosen: names of the nodes that are to change.
    :param right: why there is nothing to do on the other nodes that were selected.
    """

    clusters: tuple[Cluster, ...]
    states: Mapping[str, NodeState]
    chosen: frozenset[str]
    right: Mapping[str, str]

    @property
    def changing_servers(self) -> dict[str, list[str]]:
        """Servers that are to change, by cluster; only clusters that have some."""
        found = {
            each.name: [s.name for s in each.servers if s.name in self.chosen]
            for each in self.clusters
        }
        return {name: servers for name, servers in found.items() if servers}


def run_upgrade(
    pattern: str | None,
    *,
    snapshot: bool,
    inventory_path: Path,
    strategy_path: Path | None,
    journal_url: str | None,
    include_quarantined: bool,
    yes: bool,
    driving: Driving,
) -> int:
    """Plan an upgrade, show it, and drive it to its end.

    :param snapshot: whether what the clusters hold is saved first.
    :returns: the exit code.
    :raises InputError: nothing differs, or a rule would be broken.
    """
    inventory, strategy = load_inventory(inventory_path, pattern), strategy_of_task(strategy_path)
    inventory = nodes_of(inventory)
    check_variables(inventory, SITE_ROLES)
    wanted = find_out(inventory)
    if not driving.as_json:
        _show_versions(make_console(), wanted)
    if found := obstacles(wanted, snapshot=snapshot):
        raise InputError([f"{inventory.path}: {text}" for text in found])
    if not wanted.chosen:
        told = "all nodes run their k3s_version already, to have another one change it"
        raise InputError(f"{inventory.path}: nothing differs: {told}")
    task = Task.new(CONFIGURE, k3s=True)
    servers = servers_of(inventory)
    with (
        open_journal(journal_url) as journal,
        controller.connected_fleet(inventory.devices, servers=servers) as ssh,
    ):
        fleet = fleet_of(task, ssh, inventory)
        left_alone = {} if include_quarantined else controller.quarantine(journal, DEVICE)
        prepared = prepare_shown(
            inventory, task, strategy, fleet,
            quiet=driving.as_json, quarantined=left_alone, done=wanted.right,
        )  # fmt: skip
        prepared = in_turns(prepared, inventory, wanted, task, strategy)
        if not driving.as_json:
            show_plan(make_console(), prepared, task)
        record = controller.new(prepared, inventory, task, strategy, limit=pattern, kind=task.kind)
        ask(yes or driving.as_json, f"Upgrade {counted(prepared.planned, 'node')}?")
        if snapshot:
            for text in save(ssh, wanted, record.rollout.id):
                click.echo(text, err=True)
        return driving.run(journal, record, fleet, inventory)


def nodes_of(inventory: Inventory) -> Inventory:
    """The same with its nodes of K3s alone.

    :raises InputError: there is none.
    """
    devices = tuple(device for device in inventory.devices if role_of(device) != "none")
    if not devices:
        raise InputError(f"{inventory.path}: expected devices with k3s_role, got none")
    return replace(inventory, devices=devices)


def find_out(inventory: Inventory) -> Wanted:
    """Ask all nodes of the clusters that have selected nodes which version runs there."""
    names = set(inventory.names)
    found = clusters_with(inventory.known, names)
    devices = {device.name: device for device in inventory.known}
    asked = [devices[node.name] for cluster in found for node in cluster.nodes]
    text = counted(len(asked), "node")
    with Console(stderr=True).status(f"asking {text}"), connected_nodes(asked) as nodes:
        states = look(nodes, found, devices, time.time())
    return choose(found, states, names)


def choose(
    found: Sequence[Cluster], states: Mapping[str, NodeState], names: Collection[str]
) -> Wanted:
    """Which of the selected nodes are to change."""
    right = {
        name: f"runs {state.running} already"
        for name, state in states.items()
        if name in names and state.running == state.wanted and state.binary in (None, state.wanted)
    }
    chosen = frozenset(name for name in states if name in names and name not in right)
    return Wanted(tuple(found), states, chosen, right)


def obstacles(wanted: Wanted, *, snapshot: bool) -> list[str]:
    """Why an upgrade must not begin: rules of versions, servers that are not well, no snapshot."""
    found = []
    for cluster in wanted.clusters:
        if not any(node.name in wanted.chosen for node in cluster.nodes):
            continue
        states = [wanted.states[node.name] for node in cluster.nodes]
        found += problems(cluster.name, [_member(each, wanted.chosen) for each in states])
        found += [
            f"cluster {cluster.name}: {each.device}: expected a server that is well: {each.problem}"
            for each in states
            if each.role == "server" and each.problem
        ]
        external = [each.device for each in states if each.datastore == "external"]
        if snapshot and external and cluster.name in wanted.changing_servers:
            found.append(
                f"cluster {cluster.name}: {external[0]}: its datastore is a server of its own: save"
                " it by its own means, then upgrade with --no-snapshot"
            )
    return found


def _member(state: NodeState, chosen: Collection[str]) -> Member:
    return Member(
        state.device, state.role == "server", state.running, state.wanted, state.device in chosen
    )


def in_turns(
    prepared: Prepared, inventory: Inventory, wanted: Wanted, task: Task, strategy: Strategy
) -> Prepared:
    """The same with the waves of an upgrade.

    :raises InputError: a server can't take its turn.
    """
    missing = [
        f"{inventory.path}: {name}: expected a server that can take its turn: {found.reason}"
        for name, found in sorted(prepared.left_out.items())
        if wanted.states[name].role == "server"
        and name in wanted.chosen
        and found.state is not DeviceState.ALREADY_CURRENT
    ]
    if missing:
        raise InputError(missing)
    matching = {
        rule.pattern: {device.name for device in inventory.select(rule.pattern)}
        for rule in strategy.waves
        if rule.pattern is not None
    }
    members = [
        PlanDevice(device.name, device.site, device.groups)
        for device in inventory.devices
        if device.name not in prepared.left_out
    ]
    planned = plan_upgrade(members, wanted.clusters, task, strategy, matching)
    return replace(prepared, plan=planned)


def save(fleet: Fleet, wanted: Wanted, rollout: str) -> list[str]:
    """Save what each cluster holds whose servers are to change; returns what to tell.

    :param fleet: nothing else may be under way in it.
    :raises MusterError: a snapshot could not be saved; nothing was changed then.
    """
    told = []
    for cluster, servers in wanted.changing_servers.items():
        version = str(wanted.states[servers[0]].running).replace("+", "-")
        name = f"muster-{version}-{rollout}"
        order = Order(
            server_name(servers[0]), Verb.SNAPSHOT, {"name": name}, SNAPSHOT_SECONDS, PROGRAM
        )
        fleet.submit(order)
        answer = fleet.next_answer(SNAPSHOT_SECONDS)
        if answer is None or answer.trouble is not None:
            why = "no answer" if answer is None else answer.message
            kind = answer.trouble if answer else Trouble.UNREACHABLE
            hint = "" if kind is Trouble.UNREACHABLE else "; or upgrade with --no-snapshot"
            raise MusterError(f"cluster {cluster}: {servers[0]}: no snapshot, so no upgrade: {why}"
                              f"{hint}")  # fmt: skip
        told.append(f"cluster {cluster}: saved as {answer.document['name']} on {servers[0]}")
    return told


def _show_versions(console: Console, wanted: Wanted) -> None:
    table = plain_table("cluster", "node", "role", "runs", "wanted", "")
    for cluster in wanted.clusters:
        for node in cluster.nodes:
            state = wanted.states[node.name]
            style = "yellow" if node.name in wanted.chosen else "dim"
            table.add_row(
                cluster.name, state.device, state.role, state.running or "?",
                Text(state.wanted, style=style), Text(state.problem, style="red"),
            )  # fmt: skip
    console.print(table)
