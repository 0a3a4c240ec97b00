"""Which devices a retirement takes out of the inventory, and when."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest

from muster.commands import retire
from muster.errors import InputError
from muster.fleet.interface import Answer, Order, Trouble
from muster.inventory import Inventory, load_inventory
from muster.rollout import controller
from muster.rollout.journal import Journal, open_journal
from muster.rollout.machine import DeviceState as D
from muster.rollout.machine import RolloutState as R
from muster.rollout.records import DeviceRecord, RolloutRecord, Snapshot
from muster.tasks import DEVICE, RESET, Task

HOSTS = """\
all:
  vars: {ansible_user: ops}
  hosts:
    cam-1:
    cam-2: # by the door
    cam-3:
"""


class Silent:
    """Devices that answer an inspection, but for some."""

    def __init__(self, *away: str, refusing: tuple[str, ...] = ()) -> None:
        self.away, self.refusing = away, refusing
        self.asked: list[str] = []
        self._answers: deque[Answer] = deque()

    def submit(self, order: Order) -> None:
        self.asked.append(order.device)
        trouble = Trouble.UNREACHABLE if order.device in self.away else None
        trouble = Trouble.REFUSED if order.device in self.refusing else trouble
        self._answers.append(Answer(order.device, order.verb, trouble=trouble))

    def next_answer(self, _timeout: float | None) -> Answer | None:
        return self._answers.popleft() if self._answers else None

    def now(self) -> float:
        return 0.0

    wall_time = now

    def close(self) -> None:
        pass


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with open_journal(f"sqlite:///{tmp_path}/journal.db") as journal:
        yield journal


@pytest.fixture
def inventory(tmp_path: Path) -> Inventory:
    folder = tmp_path / "yard"
    (folder / "host_vars" / "cam-1").mkdir(parents=True)
    (folder / "host_vars" / "cam-1" / "secrets.yml").write_text("token: x\n")
    (folder / "host_vars" / "cam-2.yml").write_text("note: y\n")
    (folder / "hosts.yml").write_text(HOSTS)
    return load_inventory(folder)


def ended(journal: Journal, state: R, **devices: D) -> RolloutRecord:
    task = Task.new(RESET, users=["ops"], keys=["A" * 40])
    record = RolloutRecord(
        id=f"r-{state.value}",
        kind=RESET,
        model=DEVICE,
        release_id=task.id,
        release_document=task.canonical,
        strategy={},
        inventory="/nowhere",
        state=state,
    )
    members = [DeviceRecord(name.replace("_", "-"), state=at) for name, at in devices.items()]
    journal.create(Snapshot(record, [], members))
    return record


def names(inventory: Inventory) -> list[str]:
    return [*load_inventory(inventory.path).names]


def test_what_is_wiped_goes_with_its_variables(journal: Journal, inventory: Inventory) -> None:
    record = ended(journal, R.SUCCEEDED, cam_1=D.COMMITTED, cam_2=D.REJECTED)
    retire.forget(record, journal, Silent(), inventory)
    assert names(inventory) == ["cam-2", "cam-3"]
    assert not (inventory.path / "host_vars" / "cam-1").exists()
    assert (inventory.path / "host_vars" / "cam-2.yml").exists()


@pytest.mark.parametrize("state", [R.PAUSED, R.AWAITING_APPROVAL, R.RUNNING])
def test_nothing_goes_while_it_can_be_resumed(
    journal: Journal, inventory: Inventory, state: R
) -> None:
    # `muster resume` refuses a rollout whose devices are not in the inventory any more
    record = ended(journal, state, cam_1=D.COMMITTED, cam_2=D.PENDING)
    retire.forget(record, journal, Silent(), inventory, gone=True)
    assert names(inventory) == ["cam-1", "cam-2", "cam-3"]


def test_only_what_is_out_of_reach_counts_as_gone(
    journal: Journal, inventory: Inventory, capsys: pytest.CaptureFixture[str]
) -> None:
    # all were left for later: one is away, one in the middle of a switch, one refuses
    record = ended(
        journal, R.SUCCEEDED_WITH_DEFERRED, cam_1=D.DEFERRED, cam_2=D.DEFERRED, cam_3=D.DEFERRED
    )
    fleet = Silent("cam-1", refusing=("cam-3",))
    retire.forget(record, journal, fleet, inventory, gone=True)
    assert names(inventory) == ["cam-2", "cam-3"]
    assert "cam-2: is not gone" in capsys.readouterr().err


def test_without_being_asked_for_nobody_counts_as_gone(
    journal: Journal, inventory: Inventory
) -> None:
    record = ended(journal, R.SUCCEEDED_WITH_DEFERRED, cam_1=D.DEFERRED, cam_2=D.LOST)
    fleet = Silent("cam-1", "cam-2")
    retire.forget(record, journal, fleet, inventory)
    assert names(inventory) == ["cam-1", "cam-2", "cam-3"]
    assert fleet.asked == []


def test_an_inventory_that_changed_meanwhile_loses_nothing_else(
    journal: Journal, inventory: Inventory, capsys: pytest.CaptureFixture[str]
) -> None:
    record = ended(journal, R.SUCCEEDED, cam_1=D.COMMITTED, cam_2=D.COMMITTED)
    hosts = inventory.path / "hosts.yml"
    hosts.write_text(HOSTS.replace("cam-2: # by the door", "cam-[2:2]:").replace("3", "4"))
    retire.forget(record, journal, Silent(), inventory)
    assert names(inventory) == ["cam-2", "cam-4"]
    assert (inventory.path / "host_vars" / "cam-2.yml").exists()
    assert "out of" in (told := capsys.readouterr().err)
    assert "cam-2" not in told


def test_a_file_that_can_not_be_written_costs_no_variables(
    inventory: Inventory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_file: object) -> None:
        raise InputError("hosts.yml: was changed in the meantime")

    monkeypatch.setattr(retire.InventoryFile, "save", fails)
    with pytest.raises(InputError):
        retire.remove(inventory, ["cam-1"])
    assert (inventory.path / "host_vars" / "cam-1").exists()


@pytest.mark.parametrize("state", [R.PAUSED, R.AWAITING_APPROVAL, R.RUNNING])
def test_nothing_is_removed_that_an_unfinished_rollout_counts_on(
    journal: Journal, inventory: Inventory, state: R
) -> None:
    record = ended(journal, state, cam_1=D.COMMITTED, cam_9=D.STAGED)
    controller.check_in_no_rollout(journal, inventory)  # a task; a new one takes its place
    snapshot = journal.load(record.id)
    snapshot.rollout.id, snapshot.rollout.model = "r-digits", "digits"
    journal.create(snapshot)
    with pytest.raises(InputError, match="cam-1: rollout r-digits of digits is not over: first"):
        controller.check_in_no_rollout(journal, inventory)
    controller.check_in_no_rollout(journal, inventory.only("cam-2"))
    snapshot.rollout.state = R.ABORTED
    journal.write(snapshot.rollout)
    controller.check_in_no_rollout(journal, inventory)


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (Task.new(RESET, users=["ops"], keys=["A" * 40]), True),
        (Task.new(RESET), False),
        (Task.new("reboot"), False),
        ("a release", False),
    ],
)
def test_a_retirement_is_told_from_a_reset(work: object, expected: bool) -> None:
    assert retire.is_retirement(work) is expected


def test_a_device_that_is_gone_for_good_leaves_by_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUSTER_STATE_DIR", str(tmp_path / "state"))
    hosts, key = tmp_path / "hosts.yml", tmp_path / "key.pub"
    nobody = "{ansible_host: 127.0.0.1, ansible_port: 1, muster_registry: 'r:5000'}"
    hosts.write_text(f"all:\n  hosts:\n    cam-1: {nobody}\n    cam-2: {nobody}\n")
    key.write_text(f"ssh-ed25519 {'A' * 40} ops\n")
    words = ["retire", "cam-1", "-i", str(hosts), "--public-key", str(key), "--json"]
    command = [sys.executable, "-m", "muster", *words]
    kept = subprocess.run(command, capture_output=True, text=True, check=False)
    assert kept.returncode == 5, kept.stderr
    assert names(load_inventory(hosts)) == ["cam-1", "cam-2"]
    # what an abort ends is over; nothing was wiped, so nothing goes
    ended = [sys.executable, "-m", "muster", "abort", "--json"]
    assert subprocess.run(ended, capture_output=True, check=False).returncode == 1
    assert names(load_inventory(hosts)) == ["cam-1", "cam-2"]
    done = subprocess.run([*command, "--gone"], capture_output=True, text=True, check=False)
    assert done.returncode == 6, done.stderr
    assert names(load_inventory(hosts)) == ["cam-2"]
    assert [json.loads(line)["event"] for line in done.stdout.splitlines()][-1] == "result"
