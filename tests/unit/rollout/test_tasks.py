"""Tasks go over devices by the engine that rolls releases out: in waves, with gates, resumable."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gevent
import pytest

from muster.fleet.configuring import ConfiguringFleet
from muster.fleet.interface import Answer, Order, Trouble, Verb
from muster.gates import Verdict
from muster.inventory import Device, Inventory
from muster.rollout import controller
from muster.rollout.jobs import assess_device
from muster.rollout.journal import Journal, open_journal
from muster.rollout.leases import LeaseHeldError
from muster.rollout.machine import DeviceState as D
from muster.rollout.machine import RolloutState as R
from muster.rollout.records import Snapshot
from muster.strategy import Strategy
from muster.tasks import ACTIONS, CONFIGURE, DEVICE, FIRMWARE, REBOOT, Task, is_done, select_kind

CLOCKS: dict[str, Any] = {"min_healthy_time": 1.0, "healthy_deadline": 5.0, "probe_interval": 0.5}
STRATEGY = Strategy.model_validate(
    CLOCKS | {"waves": [{"size": 1}, {"size": "rest"}], "failure_budget": {"on_breach": "abort"}}
)


@dataclass
class Simulated:
    """One device as the task program presents it."""

    generation: int = 0
    rollout: str | None = None
    phase: str = "idle"
    done: list[str] = field(default_factory=list)
    outcome: dict[str, Any] | None = None
    restarts: int = 0
    sick: bool = False
    away: bool = False
    away_until: float = 0.0
    firmware: list[dict[str, Any]] = field(default_factory=list)
    actions: tuple[str, ...] = ACTIONS


class TaskFleet:
    """A fleet of simulated devices that know tasks; every answer comes at once."""

    def __init__(self, *names: str) -> None:
        self.devices = {name: Simulated() for name in names}
        self.orders: list[Order] = []
        self.die_at = -1
        self._answers: deque[Answer] = deque()
        self._now = 1000.0

    def submit(self, order: Order) -> None:
        if len(self.orders) == self.die_at:
            self.die_at = -1
            raise KeyboardInterrupt
        self.orders.append(order)
        self._answers.append(self._answer(order))

    def _answer(self, order: Order) -> Answer:
        device, given = self.devices[order.device], order.document
        if device.away or self._now < device.away_until:
            return Answer(order.device, order.verb, trouble=Trouble.UNREACHABLE, message="away")
        task = given["task"]["id"]
        document: dict[str, Any] = {}
        if order.verb is Verb.INSPECT:
            document = {
                "tasks": device.actions,
                "firmware": device.firmware,
                "model": {
                    "generation": device.generation,
                    "rollout": device.rollout,
                    "phase": device.phase,
                    "current": {"id": task, "serving": True} if task in device.done else None,
                    "last_good": device.done[-1] if device.done else None,
                    "last_outcome": device.outcome,
                    "guard": {"armed": False, "remaining": None},
                },
            }
        elif order.verb is Verb.SWITCH:
            if given["generation"] > device.generation:
                device.generation, device.rollout = given["generation"], given["rollout"]
                device.phase, device.restarts = "switched", device.restarts + 1
            document = {"ready": True}
        elif order.verb is Verb.PROBE:
            unready = {"unready": 2 * device.sick, "problem": "refused" * device.sick}
            document = {"models": {"digits": unready}, "samples": 2, "failed_units": []}
            document["old_firmware"] = []
        elif order.verb is Verb.CONFIRM:
            device.phase, device.done = "idle", [*device.done, task]
            device.outcome = {"generation": device.generation, "outcome": "confirmed"}
        elif order.verb is Verb.REVERT:
            device.phase = "idle"
            if device.sick:
                return Answer(
                    order.device, order.verb, trouble=Trouble.REFUSED,
                    code="revert_failed", message="digits: refused",
                )  # fmt: skip
            document = {"to": None, "ready": True}
        return Answer(order.device, order.verb, document)

    def next_answer(self, timeout: float | None) -> Answer | None:
        if self._answers:
            return self._answers.popleft()
        gevent.sleep(0)  # as a fleet over SSH does, which waits for its greenlets
        self._now += timeout or 0.0
        return None

    def now(self) -> float:
        return self._now

    def wall_time(self) -> float:
        return 1.8e9 + self._now

    def close(self) -> None:
        pass


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with open_journal(f"sqlite:///{tmp_path}/journal.db") as journal:
        yield journal


def inventory(*names: str) -> Inventory:
    groups = ("hw_coral",)
    return Inventory(
        Path("/nowhere/hosts.yml"),
        tuple(Device(name, name, 22, None, None, groups, {}) for name in names),
    )


def begin(
    fleet: TaskFleet, task: Task, strategy: Strategy = STRATEGY, **options: Any
) -> tuple[Snapshot, Inventory]:
    devices = inventory(*fleet.devices)
    prepared = controller.prepare(devices, task, strategy, fleet, **options)
    return controller.new(prepared, devices, task, strategy, kind=task.action), devices


def drive(journal: Journal, fleet: TaskFleet, task: Task, **options: Any) -> Snapshot:
    snapshot, devices = begin(fleet, task, **options)
    record = controller.drive(journal, snapshot, fleet, devices.devices)
    return journal.load(record.id)


def states(snapshot: Snapshot) -> dict[str, D]:
    return {device.device: device.state for device in snapshot.devices}


def test_a_task_goes_wave_by_wave_to_its_end(journal: Journal) -> None:
    fleet = TaskFleet("a", "b", "c")
    seen = drive(journal, fleet, Task.new(REBOOT))
    assert set(states(seen).values()) == {D.COMMITTED}
    assert seen.rollout.state is R.SUCCEEDED
    assert seen.rollout.exit_code == 0
    assert seen.rollout.reason == "3 of 3 devices came back"
    assert seen.rollout.model == DEVICE
    assert seen.rollout.kind == "reboot"
    assert [device.restarts for device in fleet.devices.values()] == [1, 1, 1]
    switched = [order.device for order in fleet.orders if order.verb is Verb.SWITCH]
    confirmed = [order.device for order in fleet.orders if order.verb is Verb.CONFIRM]
    assert switched[0] == confirmed[0]
    order = [o.verb for o in fleet.orders if o.device == switched[0]]
    assert order.index(Verb.CONFIRM) < len(order)


def test_one_that_does_not_serve_afterwards_stops_the_rest(journal: Journal) -> None:
    fleet = TaskFleet("a", "b", "c")
    fleet.devices["a"].sick = True
    seen = drive(journal, fleet, Task.new(REBOOT))
    assert states(seen) == {"a": D.QUARANTINED, "b": D.PENDING, "c": D.PENDING}
    assert seen.rollout.exit_code == 4
    assert fleet.devices["b"].restarts == 0
    left_alone = controller.quarantine(journal, DEVICE)
    assert list(left_alone) == ["a"]
    again = drive(journal, fleet, Task.new(REBOOT), quarantined=left_alone)
    assert states(again) == {"a": D.REJECTED, "b": D.COMMITTED, "c": D.COMMITTED}


def test_one_that_is_away_is_deferred_and_the_others_go_on(journal: Journal) -> None:
    fleet = TaskFleet("a", "b", "c")
    fleet.devices["b"].away = True
    seen = drive(journal, fleet, Task.new(REBOOT))
    assert states(seen) == {"a": D.COMMITTED, "b": D.DEFERRED, "c": D.COMMITTED}
    assert seen.rollout.exit_code == 6


def test_a_device_with_an_old_program_is_rejected(journal: Journal) -> None:
    fleet = TaskFleet("a", "b")
    fleet.devices["a"].actions = ()
    seen = drive(journal, fleet, Task.new(REBOOT))
    assert states(seen) == {"a": D.REJECTED, "b": D.COMMITTED}
    assert "muster provision" in next(d.reason for d in seen.devices if d.device == "a")


def test_firmware_goes_only_where_there_is_newer(journal: Journal) -> None:
    fleet = TaskFleet("a", "b")
    fleet.devices["b"].firmware = [{"device": "x", "current": "1", "available": "2"}]
    seen = drive(journal, fleet, Task.new(FIRMWARE))
    assert states(seen) == {"a": D.ALREADY_CURRENT, "b": D.COMMITTED}
    assert fleet.devices["a"].restarts == 0


def test_what_is_known_to_be_right_is_left_alone(journal: Journal) -> None:
    fleet = TaskFleet("a", "b")
    seen = drive(journal, fleet, Task.new(CONFIGURE), done={"a": "is as it should be"})
    assert states(seen) == {"a": D.ALREADY_CURRENT, "b": D.COMMITTED}


@pytest.mark.parametrize("order", range(16))
def test_wherever_the_controller_dies_a_resume_ends_it(journal: Journal, order: int) -> None:
    fleet = TaskFleet("a", "b", "c")
    snapshot, devices = begin(fleet, Task.new(REBOOT))
    fleet.die_at = len(fleet.orders) + order
    try:
        controller.drive(journal, snapshot, fleet, devices.devices)
    except KeyboardInterrupt:
        fleet._answers.clear()
        snapshot = journal.load(snapshot.rollout.id)
        controller.drive(journal, snapshot, fleet, devices.devices)
    seen = journal.load(snapshot.rollout.id)
    assert set(states(seen).values()) == {D.COMMITTED}
    assert [device.restarts for device in fleet.devices.values()] == [1, 1, 1]


@pytest.mark.parametrize(("seconds", "state"), [(4.0, D.COMMITTED), (600.0, D.LOST)])
def test_a_resumed_controller_waits_for_a_device_that_restarts(
    journal: Journal, seconds: float, state: D
) -> None:
    fleet = TaskFleet("a")
    snapshot, devices = begin(fleet, Task.new(REBOOT))
    fleet.die_at = len(fleet.orders) + 2  # after its switch was ordered: the probe
    with pytest.raises(KeyboardInterrupt):
        controller.drive(journal, snapshot, fleet, devices.devices)
    fleet._answers.clear()
    snapshot = journal.load(snapshot.rollout.id)
    snapshot.devices[0].state = D.SWITCHING
    journal.write(snapshot.rollout, [], snapshot.devices)
    fleet.devices["a"].away_until = fleet.now() + seconds
    controller.drive(journal, snapshot, fleet, devices.devices)
    assert states(journal.load(snapshot.rollout.id)) == {"a": state}


def test_a_task_and_a_rollout_exclude_each_other(journal: Journal) -> None:
    fleet = TaskFleet("a", "b")
    snapshot, _ = begin(fleet, Task.new(REBOOT))
    journal.create(snapshot)
    lease = journal.acquire(snapshot.rollout, ["a"])
    other, _ = begin(fleet, Task.new(REBOOT))
    other.rollout.model = "digits"
    journal.create(other)
    with pytest.raises(LeaseHeldError, match=f"{DEVICE} on a"):
        journal.acquire(other.rollout, ["a", "b"])
    journal.acquire(other.rollout, ["b"])
    with pytest.raises(LeaseHeldError, match="digits on b"):
        journal.acquire(snapshot.rollout, ["b"])
    journal.release(lease)


def test_the_journal_gives_the_task_back() -> None:
    task = Task.new(REBOOT)
    assert Task.from_canonical(task.canonical) == task
    assert Task.new(REBOOT).id != task.id


@pytest.mark.parametrize(
    ("groups", "kind"), [(("hw_coral", "site_a"), "hw_coral"), (("site_a",), "device")]
)
def test_canaries_are_one_of_each_kind(groups: tuple[str, ...], kind: str) -> None:
    assert select_kind(Task.new(REBOOT), groups) == (kind, "")


def test_only_firmware_can_be_there_already() -> None:
    assert is_done(Task.new(FIRMWARE), {"firmware": []}) == "no newer firmware"
    assert is_done(Task.new(FIRMWARE), {"firmware": [{"available": "2"}]}) == ""
    assert is_done(Task.new(REBOOT), {}) == ""


@pytest.mark.parametrize(
    ("changes", "verdicts"),
    [
        ({}, {"models": "passed", "units": "passed"}),
        ({"samples": 0}, {"models": "inconclusive", "units": "passed"}),
        ({"models": {}}, {"models": "passed", "units": "passed"}),
        (
            {"models": {"m": {"unready": 1, "problem": "refused"}}},
            {"models": "failed", "units": "passed"},
        ),
        ({"failed_units": ["x.service"]}, {"models": "passed", "units": "failed"}),
        (
            {"old_firmware": [{"device": "b", "current": "1"}]},
            {"models": "passed", "units": "passed", "firmware": "failed"},
        ),
    ],
)
def test_what_a_probe_of_a_device_means(changes: dict[str, Any], verdicts: dict[str, str]) -> None:
    good = {"models": {"m": {"unready": 0, "problem": ""}}, "samples": 3}
    answer = {**good, "failed_units": [], "old_firmware": [], **changes}
    found = {a.gate: a.verdict for a in assess_device(answer)}
    assert found == {gate: Verdict(word) for gate, word in verdicts.items()}


# -- configure ----------------------------------------------------------------------------------


def configured(problems: dict[str, str]) -> tuple[TaskFleet, ConfiguringFleet, list[str]]:
    inner, provisioned = TaskFleet("a", "b"), []

    def provision(name: str) -> str:
        gevent.sleep(0)
        provisioned.append(name)
        return problems.get(name, "")

    return inner, ConfiguringFleet(inner, provision), provisioned


def switch(name: str, action: str = CONFIGURE) -> Order:
    task = Task.new(action).document
    return Order(name, Verb.SWITCH, {"task": task, "generation": 1, "rollout": "r"}, 5.0)


def test_a_device_is_provisioned_before_it_notes_so() -> None:
    inner, fleet, provisioned = configured({})
    fleet.submit(switch("a"))
    assert inner.orders == []
    gevent.sleep(0.01)
    answer = fleet.next_answer(1.0)
    assert answer is not None
    assert answer.trouble is None
    assert provisioned == ["a"]
    assert [order.device for order in inner.orders] == ["a"]


def test_a_defect_in_provisioning_is_an_answer_and_no_endless_wait() -> None:
    def breaks(_name: str) -> str:
        raise ValueError("Expecting value: line 1")

    inner = TaskFleet("a", "b")
    fleet = ConfiguringFleet(inner, breaks)
    fleet.submit(switch("a"))
    gevent.sleep(0.01)
    answer = fleet.next_answer(1.0)
    assert answer is not None
    assert answer.trouble is Trouble.REFUSED
    assert "ValueError: Expecting value: line 1" in answer.message
    assert inner.orders == []


def test_a_device_that_could_not_be_provisioned_is_not_told_that_it_was() -> None:
    inner, fleet, _ = configured({"a": "packages: no space"})
    fleet.submit(switch("a"))
    gevent.sleep(0.01)
    answer = fleet.next_answer(None)
    assert answer is not None
    assert answer.trouble is Trouble.REFUSED
    assert answer.message == "provisioning failed: packages: no space"
    assert inner.orders == []


def test_other_orders_go_straight_on() -> None:
    inner, fleet, provisioned = configured({})
    fleet.submit(switch("a", REBOOT))
    assert [order.device for order in inner.orders] == ["a"]
    assert provisioned == []


def test_a_device_that_can_not_be_configured_is_rejected_and_counts(journal: Journal) -> None:
    inner, fleet, _ = configured({"a": "packages: no space", "b": ""})
    devices = inventory("a", "b")
    task = Task.new(CONFIGURE)
    prepared = controller.prepare(devices, task, STRATEGY, fleet)
    snapshot = controller.new(prepared, devices, task, STRATEGY, kind=CONFIGURE)
    record = controller.drive(journal, snapshot, fleet, devices.devices)
    seen = journal.load(record.id)
    assert states(seen) == {"a": D.REJECTED, "b": D.PENDING}
    assert seen.rollout.exit_code == 1
    assert "no space" in next(d.reason for d in seen.devices if d.device == "a")
    assert inner.devices["a"].restarts == 0
