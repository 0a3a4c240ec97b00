"""``muster k3s``: what people type, what it asks of nodes and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from test_k3s_operations import Nodes as Told

from muster.cli import run
from muster.commands import k3s as commands
from muster.commands.k3s_upgrade import Wanted, in_turns, save
from muster.errors import InputError, MusterError
from muster.fleet.interface import Answer, Order, Trouble
from muster.inventory import Device, Inventory
from muster.k3s.cluster import clusters
from muster.k3s.session import Reply
from muster.k3s.state import NodeState
from muster.planning import Plan
from muster.rollout.controller import Prepared
from muster.rollout.decide import Next
from muster.rollout.journal import open_journal
from muster.rollout.leases import LeaseHeldError
from muster.rollout.machine import DeviceState
from muster.strategy import Strategy
from muster.tasks import CONFIGURE, DEVICE, Task

OLD, NEW = "v1.33.1+k3s1", "v1.34.1+k3s1"


class Described:
    """An inventory without Ansible: what it says is in ``clusters``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clusters: dict[str, dict[str, str]] = {}

    def load(self, _path: Path | None = None, limit: str | None = None) -> Inventory:
        """Stands in for ``load_inventory``; a pattern is names with colons between them."""
        known = [
            self._device(name, {"k3s_role": role, "k3s_cluster": cluster, "k3s_version": NEW})
            for cluster, members in self.clusters.items()
            for name, role in members.items()
        ]
        known.append(self._device("camera", {}))
        names = limit.split(":") if limit else [device.name for device in known]
        chosen = tuple(device for device in known if device.name in names)
        return Inventory(self.path, chosen, tuple(known))

    @staticmethod
    def _device(name: str, variables: Mapping[str, Any]) -> Device:
        return Device(name, "192.0.2.1", 22, None, None, (), variables)


@pytest.fixture
def inventory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Described:
    """A cluster of a server and two agents, and a device that is no node."""
    described = Described(tmp_path / "hosts.yml")
    described.clusters["north"] = {"s1": "server", "a1": "agent", "a2": "agent"}
    monkeypatch.setattr(commands, "load_inventory", described.load)
    monkeypatch.setenv("MUSTER_STATE_DIR", str(tmp_path / "state"))
    return described


class Nodes(Told):
    """Nodes that answer as K3s of the older version does."""

    def ask(
        self,
        names: Sequence[str],
        verb: str,
        document: Any = None,
        seconds: float = 0.0,
        progress: Callable[[str], None] = lambda _name: None,
    ) -> dict[str, Reply]:
        sent = {name: document(name) if callable(document) else document for name in names}
        found = {}
        for name in names:
            found |= super().ask([name], verb, sent[name])
            if verb == "inspect" and not found[name].error:
                found[name] = Reply(inspected(name))
        return found


def inspected(name: str) -> dict[str, Any]:
    role = "server" if name.startswith("s") else "agent"
    node = {"name": name, "ready": True, "reason": "", "version": OLD, "unschedulable": False}
    node["voter"] = True if role == "server" else None
    return {
        "role": role, "unit": "k3s", "active": True, "binary": OLD, "error": "", "node": node,
        "datastore": "etcd" if role == "server" else None, "certificates": [],
    }  # fmt: skip


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Nodes:
    made = Nodes()

    @contextmanager
    def connected(_devices: Any) -> Iterator[Nodes]:
        yield made

    monkeypatch.setattr(commands, "connected_nodes", connected)
    return made


def answer(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_status_tells_every_node(
    inventory: Described, nodes: Nodes, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["k3s", "status", "--json"]) == 0
    found = {state["device"]: state for state in answer(capsys)}
    assert set(found) == {"s1", "a1", "a2"}
    assert (found["s1"]["running"], found["s1"]["wanted"]) == (OLD, NEW)
    assert run(["k3s", "status"]) == 0
    assert OLD in capsys.readouterr().out


def test_status_fails_where_a_node_is_not_well(inventory: Described, nodes: Nodes) -> None:
    nodes.fails = {("a1", "inspect"): "unreachable"}
    nodes.answers["s1 nodes"] = [{"nodes": []}]
    assert run(["k3s", "status"]) == 1
    assert run(["k3s", "status", "a2"]) == 0


def test_a_pattern_has_to_select_nodes(
    inventory: Described, nodes: Nodes, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["k3s", "status", "camera"]) == 2
    assert "expected devices with k3s_role" in capsys.readouterr().err


def test_one_of_several_clusters_has_to_be_named(
    inventory: Described, nodes: Nodes, capsys: pytest.CaptureFixture[str]
) -> None:
    inventory.clusters = {"north": {"s1": "server"}, "south": {"s2": "server"}}
    nodes.answers["s2 snapshot"] = [{"name": "x", "size": 1}]
    assert run(["k3s", "snapshot", "save"]) == 2
    assert "north, south" in capsys.readouterr().err
    assert run(["k3s", "snapshot", "save", "--cluster", "east"]) == 2
    assert run(["k3s", "snapshot", "save", "--cluster", "south"]) == 0


def snapshots(kept: bool | None) -> dict[str, Any]:
    found = {"name": "before", "size": 1 << 20, "created": 0.0, "token_is_kept": kept}
    return {"snapshots": [found]}


def test_snapshots_are_listed(
    inventory: Described, nodes: Nodes, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes.answers["s1 snapshots"] = [snapshots(False)]
    assert run(["k3s", "snapshot", "list"]) == 0
    assert "needs an older token" in capsys.readouterr().out
    nodes.fails = {("s1", "snapshots"): "unreachable"}
    assert run(["k3s", "snapshot", "list", "--json"]) == 1
    assert answer(capsys) == {"snapshots": [], "errors": {"s1": "no"}}


def test_a_snapshot_is_restored(inventory: Described, nodes: Nodes) -> None:
    nodes.answers["s1 snapshots"] = [snapshots(True)]
    assert run(["k3s", "restore", "before", "-y"]) == 0
    assert "s1 restore" in nodes.told


def test_nothing_is_stopped_for_a_snapshot_that_can_t_be_restored(
    inventory: Described, nodes: Nodes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes.answers["s1 snapshots"] = [snapshots(False)]
    assert run(["k3s", "restore", "never", "-y"]) == 2
    assert run(["k3s", "restore", "before", "-y"]) == 2
    assert "--token-file" in capsys.readouterr().err
    assert not any("stop" in call for call in nodes.told)
    file = tmp_path / "token"
    file.write_text("K10abc::server:hidden\n")
    assert run(["k3s", "restore", "before", "-y", "--token-file", str(file)]) == 0
    assert nodes.sent["s1 restore"]["token"] == "K10abc::server:hidden"
    captured = capsys.readouterr()
    assert "hidden" not in captured.out + captured.err


@pytest.mark.parametrize(
    "command",
    [["restore", "before"], ["rotate-certificates"], ["rotate-token"], ["reset", "--no-drain"]],
)
def test_nodes_that_somebody_is_at_work_on_are_left_alone(
    inventory: Described, nodes: Nodes, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    nodes.answers["s1 snapshots"] = [snapshots(True)]
    with open_journal() as journal, journal.held("an upgrade", ["a2"]):
        assert run(["k3s", *command, "-y"]) == 1
    assert "for an upgrade" in capsys.readouterr().err
    assert set(nodes.told) <= {"s1 snapshots", "s1 check-snapshot"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_who_is_told_to_end_says_what_to_do(
    inventory: Described,
    nodes: Nodes,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
) -> None:
    # who runs the tests in the background may have Ctrl-C ignored
    python = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    before = signal.signal(number, python)

    def tell(*_given: Any) -> None:
        os.kill(os.getpid(), number)
        time.sleep(20)

    monkeypatch.setattr(nodes, "tell", tell)
    try:
        assert run(["k3s", "rotate-certificates", "a1", "-y"]) == 1
        assert signal.getsignal(number) is python
    finally:
        signal.signal(number, before)
    assert "interrupted: a node does what it was told last" in capsys.readouterr().err
    with open_journal() as journal, journal.held("a reset", ["a1"]):
        pass  # the nodes are free


def test_a_broken_snapshot_keeps_a_restore_from_beginning(
    inventory: Described, nodes: Nodes, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes.answers["s1 snapshots"] = [snapshots(True)]
    nodes.fails = {("s1", "check-snapshot"): "broken_snapshot"}
    assert run(["k3s", "restore", "before", "-y"]) == 2
    assert nodes.told == ["s1 snapshots", "s1 check-snapshot"]


def test_nobody_else_gets_nodes_that_are_at_work(
    inventory: Described, nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell, held = nodes.tell, []

    def told(*given: Any) -> Mapping[str, Any]:
        with (
            open_journal() as journal,
            pytest.raises(LeaseHeldError),
            journal.held("a reset", ["a1"]),
        ):
            pytest.fail("it is at work")
        held.append(given)
        return tell(*given)

    monkeypatch.setattr(nodes, "tell", told)
    assert run(["k3s", "rotate-certificates", "a1", "-y"]) == 0
    assert len(held) == 2


def test_a_server_that_is_silent_keeps_a_restore_from_beginning(
    inventory: Described, nodes: Nodes
) -> None:
    nodes.fails = {("s1", "snapshots"): "unreachable"}
    assert run(["k3s", "restore", "before", "-y"]) == 1
    assert nodes.told == ["s1 snapshots"]


def test_a_server_that_would_make_a_cluster_of_its_own_keeps_a_restore_from_beginning(
    inventory: Described, nodes: Nodes, capsys: pytest.CaptureFixture[str]
) -> None:
    inventory.clusters["north"]["s2"] = "server"
    nodes.answers["s1 snapshots"] = [{**snapshots(True), "joins": True}]
    nodes.answers["s2 snapshots"] = [{"snapshots": [], "joins": False}]
    assert run(["k3s", "restore", "before", "-y"]) == 2
    assert "s2: expected `server:`" in capsys.readouterr().err
    assert not any("stop" in call for call in nodes.told)
    nodes.answers["s2 snapshots"] = [{"snapshots": [], "joins": True}]
    assert run(["k3s", "restore", "before", "-y"]) == 0


def test_certificates_of_the_selected_nodes_are_rotated(inventory: Described, nodes: Nodes) -> None:
    assert run(["k3s", "rotate-certificates", "a1", "-y"]) == 0
    assert nodes.told == ["a1 rotate-certificates", "a1 wait"]


def test_a_new_token_is_shown_to_nobody(
    inventory: Described, nodes: Nodes, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes.answers["s1 token"] = [{"token": "K10x::server:hidden", "agent_token": None}]
    assert run(["k3s", "rotate-token", "-y", "--json"]) == 0
    captured = capsys.readouterr()
    assert "hidden" not in captured.out + captured.err


def test_a_node_is_reset_with_the_help_of_a_server(inventory: Described, nodes: Nodes) -> None:
    assert run(["k3s", "reset", "a1", "-y", "--no-drain"]) == 0
    assert nodes.told == ["a1 inspect", "s1 delete-node", "a1 reset", "s1 delete-node"]


def test_a_node_may_take_as_long_to_be_drained_as_the_inventory_says(
    inventory: Described, nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe = Described._device
    more = {"k3s_drain_timeout": "20m"}
    monkeypatch.setattr(
        Described, "_device", staticmethod(lambda name, given: describe(name, {**given, **more}))
    )
    assert run(["k3s", "reset", "a1", "-y"]) == 0
    assert nodes.sent["s1 drain"] == {"node": "a1", "seconds": 1200.0}


def test_agents_keep_a_server(
    inventory: Described, nodes: Nodes, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["k3s", "reset", "s1", "-y"]) == 2
    assert "a1, a2 would have none" in capsys.readouterr().err
    assert nodes.told == []


def test_a_whole_cluster_ends_with_its_servers_last(inventory: Described, nodes: Nodes) -> None:
    assert run(["k3s", "reset", "-y"]) == 0
    assert nodes.told == ["a1 reset", "a2 reset", "s1 reset"]


def wanted(described: Described) -> Wanted:
    found = tuple(clusters(described.load().known).values())
    states = {
        node.name: NodeState(
            node.name, node.name, "north", "server" if node.name == "s1" else "agent", NEW,
            running=OLD, binary=OLD,
        )
        for cluster in found
        for node in cluster.nodes
    }  # fmt: skip
    return Wanted(found, states, frozenset(states), {})


def prepared(left_out: Mapping[str, Next]) -> Prepared:
    return Prepared(Plan((), {}), left_out, {}, {})


def test_a_server_that_can_t_take_its_turn_ends_an_upgrade_before_it_begins(
    inventory: Described,
) -> None:
    known, task = inventory.load(limit="s1:a1:a2"), Task.new(CONFIGURE, k3s=True)
    busy = prepared({"s1": Next(DeviceState.DEFERRED, "is busy")})
    with pytest.raises(InputError, match="is busy"):
        in_turns(busy, known, wanted(inventory), task, Strategy())
    away = prepared({"a1": Next(DeviceState.DEFERRED, "is away")})
    planned = in_turns(away, known, wanted(inventory), task, Strategy()).plan
    assert [[d.name for d in wave.devices] for wave in planned.waves] == [["s1"], ["a2"]]


class Fleet:
    def __init__(self, trouble: Trouble | None = None) -> None:
        self.trouble, self.orders = trouble, []

    def submit(self, order: Order) -> None:
        self.orders.append(order)

    def next_answer(self, _timeout: float | None) -> Answer:
        order = self.orders[-1]
        document = {} if self.trouble else {"name": "made"}
        return Answer(order.device, order.verb, document, self.trouble, message="disk full")


def test_a_snapshot_is_saved_for_each_cluster_whose_servers_change(inventory: Described) -> None:
    fleet: Any = Fleet()
    assert save(fleet, wanted(inventory), "r1") == ["cluster north: saved as made on s1"]
    (order,) = fleet.orders
    assert (order.device, order.program) == ("s1#k3s", "muster-k3s")
    assert order.document == {"name": "muster-v1.33.1-k3s1-r1"}


def test_there_is_no_upgrade_without_a_snapshot(inventory: Described) -> None:
    fleet: Any = Fleet(Trouble.REFUSED)
    with pytest.raises(MusterError, match="no upgrade: disk full; or upgrade with --no-snapshot"):
        save(fleet, wanted(inventory), "r1")


def test_an_upgrade_is_a_task_of_its_own_kind() -> None:
    task = Task.new(CONFIGURE, k3s=True)
    assert (task.kind, task.model, task.done) == ("upgrade", DEVICE, "run their version of K3s")
    assert Task.from_canonical(task.canonical) == task
    assert Task.new(CONFIGURE).kind == "configure"
