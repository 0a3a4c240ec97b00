"""The commands for the clusters of K3s that an inventory describes."""

from __future__ import annotations

import dataclasses
import json
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from muster.commands.k3s_upgrade import nodes_of, upgrade
from muster.commands.lifecycle import pattern_argument
from muster.commands.options import inventory_option, journal_option, json_option
from muster.commands.rollout import ask, yes_option
from muster.display import counted, make_console, plain_table
from muster.doctor.findings import CERTIFICATE, Severity, graded, size
from muster.errors import InputError, MusterError
from muster.fleet.upgrading import drain_seconds
from muster.inventory import Device, Inventory, load_inventory
from muster.k3s import operations
from muster.k3s.cluster import Cluster, clusters, clusters_with, staying, stranded
from muster.k3s.session import Nodes, connected_nodes
from muster.k3s.state import NodeState, look
from muster.rollout import controller
from muster.rollout.journal import Journal, open_journal

_STYLES = {Severity.OK: "", Severity.WARNING: "yellow", Severity.PROBLEM: "bold red"}

cluster_option = click.option(
    "--cluster", "name", metavar="NAME", help="Which cluster, where the inventory has several."
)


@click.group()
def k3s() -> None:
    """Look after clusters of K3s: versions, snapshots, certificates, tokens.

    Nodes are devices with k3s_role in the inventory; `muster provision` makes them.
    """


k3s.add_command(upgrade)


@k3s.command()
@pattern_argument
@inventory_option
@json_option
def status(pattern: str | None, inventory_path: Path, as_json: bool) -> int:
    """Show nodes: their version, whether they are Ready, how long their certificates hold.

    Exit code 1 when a node is not as it should be.
    """
    inventory = nodes_of(load_inventory(inventory_path, pattern))
    states = _look(inventory)
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(state) for state in states], indent=2))
    else:
        _show(make_console(), states)
    return 1 if any(state.problem for state in states) else 0


@k3s.group()
def snapshot() -> None:
    """Save what a cluster holds, and list what was saved."""


@snapshot.command()
@cluster_option
@click.option("--name", "label", default="muster", show_default=True, help="How its name begins.")
@inventory_option
@json_option
def save(name: str | None, label: str, inventory_path: Path, as_json: bool) -> int:
    """Save what the cluster holds, on its first server.

    etcd by K3s itself, SQLite by a copy. An external datastore is not ours to save.
    """
    cluster, _, devices = _cluster(inventory_path, name)
    with _status("saving"), connected_nodes(devices) as nodes:
        first = cluster.first.name
        made = nodes.tell(first, "snapshot", {"name": label}, operations.WORK_SECONDS)
    if as_json:
        click.echo(json.dumps({"server": first, **made}, indent=2))
    else:
        click.echo(f"{made['name']} on {first}, {size(made['size'])}")
    return 0


@snapshot.command(name="list")
@cluster_option
@inventory_option
@json_option
def list_(name: str | None, inventory_path: Path, as_json: bool) -> int:
    """List the snapshots that lie on the servers.

    Exit code 1 when a server did not answer.
    """
    cluster, _, devices = _cluster(inventory_path, name)
    with _status("asking servers"), connected_nodes(devices) as nodes:
        replies = nodes.ask([server.name for server in cluster.servers], "snapshots")
    found = [
        {"server": server, **each}
        for server, reply in replies.items()
        for each in reply.document.get("snapshots", ())
    ]
    errors = {server: reply.error for server, reply in replies.items() if reply.error}
    if as_json:
        click.echo(json.dumps({"snapshots": found, "errors": errors}, indent=2))
    else:
        table = plain_table("snapshot", "server", "made", "size", "")
        for each in found:
            made = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(each["created"]))
            lost = "needs an older token" if each["token_is_kept"] is False else ""
            table.add_row(each["name"], each["server"], made, size(each["size"]), lost)
        for server, error in errors.items():
            table.add_row("", server, "", "", Text(error, style="red"))
        make_console().print(table)
    return 1 if errors else 0


@k3s.command()
@click.argument("snapshot_name", metavar="SNAPSHOT")
@cluster_option
@click.option(
    "--token-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="File with the cluster's token of that time, if it was changed since.",
)
@inventory_option
@journal_option
@yes_option
@json_option
def restore(
    snapshot_name: str,
    name: str | None,
    token_file: Path | None,
    inventory_path: Path,
    journal_url: str | None,
    yes: bool,
    as_json: bool,
) -> int:
    """Take a cluster back to what SNAPSHOT holds.

    K3s is stopped on all servers, the first takes the snapshot, the others join it anew, one at a
    time. Whatever the cluster was told since the snapshot is lost. It has to lie on the first
    server, and the token of that time has to be there.
    """
    cluster, inventory, devices = _cluster(inventory_path, name)
    token = token_file.read_text(encoding="utf-8").strip() if token_file else None
    with (
        _journal(journal_url, inventory, devices) as journal,
        connected_nodes(devices) as nodes,
    ):
        check_snapshot(nodes, cluster, snapshot_name, token_given=token is not None)
        question = (
            f"Take the cluster {cluster.name} back to {snapshot_name}, and lose what is newer?"
        )
        ask(yes or as_json, question)
        with _at_work(journal, "k3s restore", [device.name for device in devices]):
            operations.restore(nodes, cluster, snapshot_name, _say, token)
    return _done(as_json, cluster=cluster.name, restored=snapshot_name)


def check_snapshot(nodes: Nodes, cluster: Cluster, name: str, *, token_given: bool) -> None:
    """Find out, before anything is stopped, whether a snapshot can be restored.

    :raises MusterError: a server does not answer.
    :raises InputError: there is no such snapshot on the first server, its token is gone, or
        another server would not join the first again.
    """
    names = [server.name for server in cluster.servers]
    replies = nodes.ask(names, "snapshots")
    if silent := [f"{server}: {r.error}" for server, r in replies.items() if r.error]:
        raise MusterError(f"expected all servers to answer: {'; '.join(silent)}")
    for server in names[1:]:
        if not replies[server].document.get("joins", True):
            raise InputError(
                f"{server}: expected `server:` in its config.yaml: it made the cluster, and would"
                " make another one beside the restored one; put it first in the inventory"
            )
    first = cluster.first.name
    found = {
        server: {each["name"]: each for each in reply.document["snapshots"]}
        for server, reply in replies.items()
    }
    if name not in found[first]:
        elsewhere = [server for server in names if name in found[server]]
        hint = f"; it lies on {elsewhere[0]}: copy it there" if elsewhere else ""
        raise InputError(f"{name}: expected a snapshot on {first}, the first server{hint}")
    if found[first][name]["token_is_kept"] is False and not token_given:
        raise InputError(
            f"{name}: the token was changed since; expected --token-file with the one of that time"
        )
    reply = nodes.ask([first], "check-snapshot", {"snapshot": name}, operations.WORK_SECONDS)[first]
    if reply.error:
        raise InputError(f"{first}: {reply.error}")


@k3s.command(name="rotate-certificates")
@pattern_argument
@inventory_option
@journal_option
@yes_option
@json_option
def rotate_certificates(
    pattern: str | None, inventory_path: Path, journal_url: str | None, yes: bool, as_json: bool
) -> int:
    """Make the certificates of nodes anew; servers first, one node at a time.

    K3s restarts on each; the containers go on. It stops at the first that does not come back.
    """
    inventory = nodes_of(load_inventory(inventory_path, pattern))
    with _journal(journal_url, inventory, inventory.devices) as journal:
        ask(yes or as_json, f"Restart K3s on {counted(len(inventory.devices), 'node')}?")
        with (
            _at_work(journal, "k3s rotate-certificates", inventory.names),
            connected_nodes(inventory.devices) as nodes,
        ):
            operations.rotate_certificates(
                nodes, list(clusters(inventory.known).values()), inventory.names, _say
            )
    return _done(as_json, rotated=inventory.names)


@k3s.command(name="rotate-token")
@cluster_option
@inventory_option
@journal_option
@yes_option
@json_option
def rotate_token(
    name: str | None, inventory_path: Path, journal_url: str | None, yes: bool, as_json: bool
) -> int:
    """Give a cluster another token, and its servers, which restart one at a time.

    Agents have a token of their own, which stays. Snapshots from before need the old token: keep
    it if you want to go back to them.
    """
    cluster, inventory, devices = _cluster(inventory_path, name)
    lost = "; snapshots so far need the token of today, which nobody keeps"
    with _journal(journal_url, inventory, devices) as journal:
        ask(yes or as_json, f"Restart K3s on {counted(len(cluster.servers), 'server')}{lost}?")
        with (
            _at_work(journal, "k3s rotate-token", [device.name for device in devices]),
            connected_nodes(devices) as nodes,
        ):
            operations.rotate_token(nodes, cluster, _say)
    return _done(as_json, cluster=cluster.name, rotated=True)


@k3s.command()
@pattern_argument
@click.option("--no-drain", is_flag=True, help="Do not move the pods of a node first.")
@inventory_option
@journal_option
@yes_option
@json_option
def reset(
    pattern: str | None,
    no_drain: bool,
    inventory_path: Path,
    journal_url: str | None,
    yes: bool,
    as_json: bool,
) -> int:
    """Take nodes out of their clusters, and K3s off the devices; nothing of it stays.

    Agents first, then servers, one at a time: drained, removed from the cluster, then cleaned.
    Without PATTERN all nodes: the clusters end, with all that they hold. See also `muster reset`.
    """
    inventory = nodes_of(load_inventory(inventory_path, pattern))
    found = list(clusters(inventory.known).values())
    names = inventory.names
    if problems := stranded(found, names):
        raise InputError([f"{inventory.path}: {text}" for text in problems])
    ends = [c.name for c in found if not staying(c, names)]
    lost = f" The cluster {', '.join(ends)} ends with all that it holds." if ends else ""
    devices = {device.name: device for device in inventory.known}
    servers = [s.name for c in found for s in c.servers]
    reached = [devices[each] for each in dict.fromkeys([*names, *servers])]
    with _journal(journal_url, inventory, inventory.devices) as journal:
        ask(yes or as_json, f"Take K3s off {counted(len(names), 'device')}?{lost}")
        with _at_work(journal, "k3s reset", names), connected_nodes(reached) as nodes:
            for cluster, each in operations.reset_order(found, names):
                limit = None if no_drain else drain_seconds(devices[each], cluster)
                operations.leave(nodes, cluster, each, names, drain_seconds=limit)
                _say(f"{each}: nothing of K3s is left")
    return _done(as_json, reset=names)


def _say(text: str) -> None:
    click.echo(text, err=True)


def _done(as_json: bool, **result: Any) -> int:
    if as_json:
        click.echo(json.dumps(result, indent=2))
    return 0


@contextmanager
def _status(text: str) -> Iterator[Callable[[str], None]]:
    with Console(stderr=True).status(text) as shown:
        yield lambda told: shown.update(told)


@contextmanager
def _journal(url: str | None, inventory: Inventory, devices: Sequence[Device]) -> Iterator[Journal]:
    """The journal; no unfinished rollout in it counts on what the devices hold."""
    with open_journal(url) as journal:
        controller.check_in_no_rollout(
            journal, dataclasses.replace(inventory, devices=tuple(devices))
        )
        yield journal


@contextmanager
def _at_work(journal: Journal, work: str, names: Sequence[str]) -> Iterator[None]:
    """Keep others away from nodes; who is told to end meanwhile has time to leave them well."""

    def end(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    # without a terminal, or with one that is gone, all of them mean the same
    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        with journal.held(work, names):
            yield
    except KeyboardInterrupt:
        raise MusterError(
            "interrupted: a node does what it was told last to its end; see `muster k3s status`,"
            " and run this again"
        ) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _cluster(path: Path, name: str | None) -> tuple[Cluster, Inventory, list[Device]]:
    """A cluster of an inventory, with the devices that are its nodes.

    :raises InputError: there is none of that name, or there are several and none was named.
    """
    inventory = nodes_of(load_inventory(path))
    found = {each.name: each for each in clusters(inventory.known).values() if each.servers}
    known = ", ".join(sorted(found)) or "none with a server"
    if name is None and len(found) != 1:
        raise InputError(f"{path}: expected --cluster; the inventory has {known}")
    if name is not None and name not in found:
        raise InputError(f"{path}: --cluster {name}: expected one of the inventory: {known}")
    cluster = found[name] if name is not None else next(iter(found.values()))
    members = {node.name for node in cluster.nodes}
    return cluster, inventory, [device for device in inventory.known if device.name in members]


def _look(inventory: Inventory) -> list[NodeState]:
    """The states of the selected nodes; others of their clusters may be asked about them."""
    names = set(inventory.names)
    found = clusters_with(inventory.known, names)
    devices = {device.name: device for device in inventory.known}
    asked = [devices[node.name] for cluster in found for node in cluster.nodes]
    text = counted(len(asked), "node")
    with _status(f"asking {text}"), connected_nodes(asked) as nodes:
        states = look(nodes, found, devices, time.time())
    return [states[node.name] for cluster in found for node in cluster.nodes if node.name in names]


def _show(console: Console, states: Sequence[NodeState]) -> None:
    table = plain_table("cluster", "node", "role", "runs", "wanted", "Ready", "voter", "days", "")
    words: Mapping[bool | None, str] = {True: "yes", False: "no", None: ""}
    for state in states:
        days = Text("")
        if state.days is not None:
            style = _STYLES[graded(state.days, CERTIFICATE, below=True)]
            days = Text(f"{state.days:.0f}", style=style)
        differs = state.running != state.wanted
        table.add_row(
            state.cluster,
            state.device,
            state.role,
            state.running or "?",
            Text(state.wanted, style="yellow" if differs else ""),
            Text(words[state.ready] or "?", style="" if state.ready else "bold red"),
            words[state.voter],
            days,
            Text(state.problem or ("cordoned" if state.cordoned else ""), style="dim"),
        )
    console.print(table)
