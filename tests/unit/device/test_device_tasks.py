"""``muster-task``: what is done to a device as a whole, and where it is after any crash."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from device_stand_ins import Device, Release, device, killed_at
from programs import load_program

from muster.rollout.task_orders import TaskOrders
from muster.strategy import Strategy
from muster.tasks import ACTIONS, Task

program: Any = load_program("muster_task")
STRATEGY = Strategy(min_healthy_time=1.0, healthy_deadline=5.0, probe_interval=0.5)


class Commands:
    """Stands in for the commands of a device; what they were is in a file, for child processes."""

    def __init__(self, folder: Path) -> None:
        self.file, self.failed = folder / "commands", folder / "failed-units"
        self.file.write_text("")
        self.failed.write_text("")
        self.answers: dict[str, Any] = {}

    def __call__(self, argv: list[str], timeout: float, given: str = "") -> Any:
        words = [word for word in argv if "=" not in word and word != "env"]
        with self.file.open("a") as file:
            file.write(" ".join(words) + "\n")
        if "list-units" in argv:
            return device.Finished(0, self.failed.read_text(), "")
        return self.answers.get(words[0], device.Finished(0, "", ""))

    @property
    def restarts(self) -> int:
        return self.file.read_text().count("systemctl reboot")


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    commands = Commands(tmp_path)
    monkeypatch.setattr(device, "execute", commands)
    monkeypatch.setattr(program, "firmware_tools", list)
    return commands


class Doing:
    """Gives the orders of one task to a device, as the engine does."""

    def __init__(self, dev: Device, action: str, generation: int = 1, rollout: str = "r1") -> None:
        self.dev, self.task, self.generation = dev, Task.new(action), generation
        self.orders = TaskOrders(rollout, self.task, STRATEGY)

    def call(self, verb: str, **changes: Any) -> dict[str, Any]:
        build: dict[str, Callable[[], Any]] = {
            "inspect": lambda: self.orders.inspect("d"),
            "stage": lambda: self.orders.stage("d", "", None),
            "switch": lambda: self.orders.switch("d", self.generation),
            "probe": lambda: self.orders.probe("d", 1.0),
            "confirm": lambda: self.orders.confirm("d", self.generation),
            "revert": lambda: self.orders.revert("d", self.generation, None, "why"),
        }
        document = json.loads(json.dumps(dict(build[verb]().document) | changes))
        answer = device.answer_of(lambda: program.COMMANDS[verb](self.dev.host, document))
        return dict(answer)

    def ok(self, verb: str, **changes: Any) -> dict[str, Any]:
        answer = self.call(verb, **changes)
        assert answer["ok"], answer
        return answer

    def code(self, verb: str, **changes: Any) -> str:
        answer = self.call(verb, **changes)
        assert not answer["ok"], answer
        return str(answer["error"]["code"])

    @property
    def where(self) -> dict[str, Any]:
        return dict(self.ok("inspect")["model"])

    def restart(self) -> None:
        self.dev.reboot()


def test_a_restart_from_beginning_to_end(dev: Device, old: Release, commands: Commands) -> None:
    doing = Doing(dev, "reboot")
    assert doing.where["phase"] == "idle"
    assert doing.where["current"] is None
    doing.ok("stage")
    answer = doing.ok("switch")
    assert answer["ready"]
    assert answer["reboots"] == dev.host.clock.boot()
    assert commands.restarts == 1
    assert doing.where["phase"] == "switching"
    doing.restart()
    assert doing.where["phase"] == "switched"
    seen = doing.ok("probe")
    assert seen["models"] == {"digits": {"unready": 0, "problem": ""}}
    assert seen["samples"] >= 2
    assert seen["failed_units"] == []
    doing.ok("confirm")
    there = doing.where
    assert there["phase"] == "idle"
    assert there["current"]["id"] == there["last_good"] == doing.task.id


def test_a_device_tells_that_it_knows_tasks(dev: Device, commands: Commands) -> None:
    assert tuple(Doing(dev, "reboot").ok("inspect")["tasks"]) == ACTIONS


def test_a_repeated_order_restarts_a_device_only_until_it_has(
    dev: Device, old: Release, commands: Commands
) -> None:
    doing = Doing(dev, "reboot")
    doing.ok("switch")
    doing.ok("switch")  # the answer to the first was lost, or the program died before it
    assert commands.restarts == 2
    doing.restart()
    assert doing.ok("switch")["reboots"] is None
    assert commands.restarts == 2


def test_a_stale_controller_is_refused(dev: Device, old: Release, commands: Commands) -> None:
    Doing(dev, "reboot", generation=3).ok("switch")
    late = Doing(dev, "reboot", generation=2, rollout="r0")
    assert late.code("switch") == "stale_generation"
    assert late.code("confirm") == "stale_generation"
    assert late.code("revert") == "stale_generation"
    assert Doing(dev, "reboot", generation=3, rollout="r0").code("switch") == "stale_generation"
    assert Doing(dev, "reboot", generation=4, rollout="r0").code("switch") == "unfinished_switch"
    assert commands.restarts == 1


def test_a_device_in_the_middle_of_a_switch_is_left_alone(
    dev: Device, old: Release, commands: Commands
) -> None:
    new = dev.release("2.0")
    dev.stage(new)
    dev.switch(new, 2)
    doing = Doing(dev, "reboot")
    assert doing.where["phase"] == "busy"
    assert doing.where["generation"] == 2
    assert doing.code("switch") == "unfinished_switch"
    assert commands.restarts == 0


def test_an_application_that_holds_its_lock_is_waited_for(
    dev: Device, old: Release, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = {"held": True, "holder": "inference (pid 7)"}
    monkeypatch.setattr(device.ApplicationLock, "held", lambda self: held)
    doing = Doing(dev, "reboot")
    assert doing.code("switch") == "locked"
    assert doing.where["phase"] == "idle"
    assert commands.restarts == 0


def test_units_count_that_failed_since(dev: Device, old: Release, commands: Commands) -> None:
    commands.failed.write_text("old.service loaded failed failed An old trouble\n")
    doing = Doing(dev, "reboot")
    doing.ok("switch")
    doing.restart()
    commands.failed.write_text(commands.failed.read_text() + "new.service loaded failed failed\n")
    assert doing.ok("probe")["failed_units"] == ["new.service"]


def test_a_model_that_does_not_come_back_is_told(
    dev: Device, old: Release, commands: Commands
) -> None:
    doing = Doing(dev, "reboot")
    doing.ok("switch")
    dev.power_cut()
    seen = doing.ok("probe")
    assert seen["models"]["digits"]["unready"] == seen["samples"]
    assert doing.ok("revert") == {"ok": True, "to": None, "ready": True}  # it was started again
    assert doing.where["last_outcome"]["outcome"] == "reverted"
    assert dev.answer() == old.id


def test_a_model_that_can_not_be_brought_back_fails_the_way_back(
    dev: Device, old: Release, commands: Commands
) -> None:
    doing = Doing(dev, "reboot")
    doing.ok("switch")
    dev.power_cut()
    with dev.world.change() as content:
        content["sick"] = [old.id]
    assert doing.code("revert", healthy_deadline=0.5) == "revert_failed"
    assert doing.where["last_outcome"]["outcome"] == "revert_failed"


@pytest.mark.parametrize("action", ["reboot", "configure", "reset"])
def test_wherever_the_device_dies_the_task_can_go_on(
    dev: Device, old: Release, commands: Commands, action: str
) -> None:
    for point in range(1, 10):
        doing = Doing(dev, action, generation=point)
        died = killed_at(point, lambda doing=doing: doing.call("switch"))
        doing.restart()
        answer = doing.ok("switch")
        assert answer["ready"]
        if answer["reboots"]:
            doing.restart()
        doing.ok("confirm")
        assert doing.where["last_good"] == doing.task.id
        if not died:
            assert point > 1, "it never passed a checkpoint"
            break
    else:
        pytest.fail("never came to the end")


def test_a_reset_leaves_nothing_but_the_memory_of_it(
    dev: Device, old: Release, commands: Commands
) -> None:
    secret = dev.root / "etc/docker/certs.d/site:5000/client.key"
    secret.parent.mkdir(parents=True)
    secret.write_text("secret")
    doing = Doing(dev, "reset")
    assert doing.ok("switch")["ready"]
    assert [path.name for path in (dev.root / "var/lib/muster").iterdir()] == [".task"]
    world = dev.world.read()
    assert world["containers"] == {}
    assert world["images"] == []
    assert not secret.exists()
    assert doing.ok("probe")["models"] == {}
    doing.ok("confirm")
    assert doing.code("revert", generation=0) == "bad_input"


def test_a_key_is_revoked_last_and_alone(
    dev: Device, old: Release, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program.pwd, "getpwnam", lambda name: SimpleNamespace(pw_dir="/home/ops"))
    file = dev.root / "home/ops/.ssh/authorized_keys"
    file.parent.mkdir(parents=True)
    mine, other = "A" * 40, "B" * 40
    file.write_text(f"# people\nssh-ed25519 {mine} ops\nssh-ed25519 {other} somebody\n")
    file.chmod(0o600)
    doing = Doing(dev, "reset")
    doing.task = Task.new("reset", users=["ops"], keys=[mine])
    doing.orders = TaskOrders("r1", doing.task, STRATEGY)
    doing.ok("switch")
    doing.ok("probe")
    assert mine in file.read_text()
    doing.ok("confirm")
    assert file.read_text() == f"# people\nssh-ed25519 {other} somebody\n"
    assert file.stat().st_mode & 0o777 == 0o600
    doing.ok("confirm")


def test_a_power_cut_while_a_key_is_revoked_locks_nobody_else_out(
    dev: Device, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program.pwd, "getpwnam", lambda name: SimpleNamespace(pw_dir="/home/ops"))
    file = dev.root / "home/ops/.ssh/authorized_keys"
    file.parent.mkdir(parents=True)
    file.write_text(before := f"ssh-ed25519 {'A' * 40} ops\nssh-ed25519 {'B' * 40} somebody\n")
    file.chmod(0o640)

    def cut(*_arguments: object) -> None:
        raise OSError("the power goes")

    for step in ("chown", "fchown", "chmod", "fchmod"):
        with monkeypatch.context() as context:
            context.setattr(program.os, step, cut)
            with suppress(OSError):
                program.revoke(dev.host, "ops", ["A" * 40])
        assert file.stat().st_mode & 0o777 == 0o640, step
        assert "somebody" in file.read_text()
        file.write_text(before)


@pytest.mark.parametrize("user", ["first.last", "Ops", "ops@example.org"])
def test_users_of_a_directory_can_be_retired(dev: Device, commands: Commands, user: str) -> None:
    doing = Doing(dev, "reset")
    doing.task = Task.new("reset", users=[user], keys=["A" * 40])
    doing.orders = TaskOrders("r1", doing.task, STRATEGY)
    assert doing.where["phase"] == "idle"


@pytest.mark.parametrize("user", ["", "../root", "a:b", "a b", "-x", "a\n", "ä", "x" * 65])
def test_what_is_no_user_is_refused(dev: Device, commands: Commands, user: str) -> None:
    doing = Doing(dev, "reset")
    doing.task = Task.new("reset", users=[user], keys=["A" * 40])
    doing.orders = TaskOrders("r1", doing.task, STRATEGY)
    assert doing.code("inspect") == "bad_input"


def test_asking_changes_nothing(dev: Device, old: Release, commands: Commands) -> None:
    # an inspection holds no lock: what it wrote could undo what another program writes meanwhile
    doing = Doing(dev, "reboot")
    doing.ok("switch")
    doing.restart()
    state = dev.root / "var/lib/muster/.task/state.json"
    before = state.read_text()
    assert doing.where["phase"] == "switched"
    assert state.read_text() == before


def test_a_reset_empties_what_is_a_disk_of_its_own(
    dev: Device, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = dev.root / "var/lib/muster-registry"
    (disk / "docker/blobs").mkdir(parents=True)
    (disk / "docker/blobs/x").write_text("image")
    monkeypatch.setattr(program.os.path, "ismount", lambda path: Path(path) == disk)
    Doing(dev, "reset").ok("switch")
    assert disk.is_dir()
    assert list(disk.iterdir()) == []


@pytest.mark.parametrize("path", ["etc/prometheus/web.yml", "etc/prometheus/node-exporter-web.yml"])
def test_passwords_of_the_monitoring_go_with_a_reset(
    dev: Device, commands: Commands, path: str
) -> None:
    file = dev.root / path
    file.parent.mkdir(parents=True)
    file.write_text("basic_auth_users: {site: $2b$...}")
    Doing(dev, "reset").ok("switch")
    assert not file.exists()


def test_a_reset_ends_the_registry_of_the_site_wherever_its_disk_is(
    dev: Device, commands: Commands
) -> None:
    settings = {"storage": "/data/images", "upstream": "up:443"}
    for path, text in {
        "etc/muster/registry.json": json.dumps(settings),
        "etc/muster/registry/server.key": "key",
        "data/images/docker/registry/v2/blobs/x": "image",
        "data/images/muster/job.json": "{}",
        "data/images/of-somebody-else": "x",
    }.items():
        (dev.root / path).parent.mkdir(parents=True, exist_ok=True)
        (dev.root / path).write_text(text)
    Doing(dev, "reset").ok("switch")
    told = commands.file.read_text()
    # first the one that copies: it would write what was just removed
    assert "disable --now muster-registry-work.service" in told
    assert "disable --now muster-registry.service" in told
    assert "mosquitto" not in told  # it is no hub
    assert [path.name for path in (dev.root / "data/images").iterdir()] == ["of-somebody-else"]
    assert not (dev.root / "etc/muster/registry").exists()


@pytest.mark.parametrize("text", ["", "no json", "[]", '{"storage": 5}', '{"storage": null}', "5"])
def test_settings_of_a_registry_that_make_no_sense_stop_no_reset(
    dev: Device, commands: Commands, text: str
) -> None:
    file = dev.root / "etc/muster/registry.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    Doing(dev, "reset").ok("switch")


def test_a_reset_can_not_be_taken_back(dev: Device, old: Release, commands: Commands) -> None:
    doing = Doing(dev, "reset")
    doing.ok("switch")
    assert doing.code("revert") == "revert_failed"


def test_a_damaged_state_is_named(dev: Device, commands: Commands) -> None:
    folder = dev.root / "var/lib/muster/.task"
    folder.mkdir(parents=True)
    (folder / "state.json").write_text('{"generation": "three"}')
    answer = Doing(dev, "reboot").call("inspect")
    assert "state.json is damaged" in answer["error"]["message"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"task": {"action": "explode", "id": "reboot-0123456789ab"}}, "action"),
        ({"task": {"action": "reboot", "id": "../../etc"}}, "id"),
        ({"task": {"action": "reboot"}}, "id"),
        ({"generation": 0}, "generation"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_bad_input_is_refused(
    dev: Device, commands: Commands, changes: dict[str, Any], told: str
) -> None:
    answer = Doing(dev, "reboot").call("switch", **changes)
    assert answer["error"]["code"] == "bad_input"
    assert told in answer["error"]["message"]
    assert commands.restarts == 0


# -- firmware -----------------------------------------------------------------------------------


def finished(status: int, out: str = "", err: str = "") -> Any:
    return device.Finished(status, out, err)


def test_a_raspberry_pi_tells_of_its_boot_loader(commands: Commands) -> None:
    text = "BOOTLOADER: update available\n   CURRENT: Wed 1 Jan (17)\n    LATEST: Thu 2 Jan (18)\n"
    commands.answers["LC_ALL"] = None
    commands.answers["rpi-eeprom-update"] = finished(1, text)
    assert program.RaspberryPi().check() == [
        {
            "tool": "rpi-eeprom-update",
            "device": "bootloader",
            "current": "Wed 1 Jan (17)",
            "available": "Thu 2 Jan (18)",
        }
    ]
    commands.answers["rpi-eeprom-update"] = finished(0, text)
    assert program.RaspberryPi().check()[0]["available"] is None


def test_a_tool_that_fails_is_named(commands: Commands) -> None:
    commands.answers["rpi-eeprom-update"] = finished(3, "", "no such device")
    with pytest.raises(device.Failure, match="rpi-eeprom-update: no such device"):
        program.RaspberryPi().check()


def test_fwupd_tells_of_updates(commands: Commands) -> None:
    found = {"Devices": [{"Name": "UEFI", "Version": "1", "Releases": [{"Version": "2"}]}]}
    commands.answers["fwupdmgr"] = finished(0, json.dumps(found))
    entry = program.Fwupd().check()[0]
    assert (entry["device"], entry["current"], entry["available"]) == ("UEFI", "1", "2")
    commands.answers["fwupdmgr"] = finished(2)
    assert program.Fwupd().check() == []
    commands.answers["fwupdmgr"] = finished(0, "not JSON")
    with pytest.raises(device.Failure, match="no JSON"):
        program.Fwupd().check()


def test_a_jetson_tells_of_its_packages(commands: Commands) -> None:
    commands.answers["dpkg-query"] = finished(0, "nvidia-l4t-core\nnvidia-l4t-kernel\n")
    commands.answers["apt-get"] = finished(
        0, "Inst nvidia-l4t-core [36.4.3-1] (36.4.4-1 Jetson:36.4 [arm64])\nConf nvidia-l4t-core\n"
    )
    entry = program.L4T().check()
    assert [(e["device"], e["current"], e["available"]) for e in entry] == [
        ("nvidia-l4t-core", "36.4.3-1", "36.4.4-1")
    ]
    commands.answers["dpkg-query"] = finished(1)
    assert program.L4T().check() == []
