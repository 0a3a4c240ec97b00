"""`muster provision` and plain pyinfra over SSH, on emulated devices."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from muster.emulator import EmulatedFleet
from muster.paths import COLLECTION_ROOT

DOCUMENT = """
apiVersion: muster/v1
kind: Fleet
name: small
sites: {workshop: {}}
devices:
  bench-pi-1: {site: workshop, hardware: raspberry_pi}
  bench-coral-1: {site: workshop, hardware: coral}
"""
STATE = """
tr -d '\\n' </etc/docker/daemon.json; echo
docker info --format 'live restore: {{.LiveRestoreEnabled}}'
stat -c '%a %U' /var/lib/muster
systemctl is-enabled muster-boot.service
ps -o args= -p "$(pidof -s chronyd)" | sed 's|^/usr/sbin/||'
"""
PI, CORAL = "bench-pi-1", "bench-coral-1"


def run(*arguments: str, cwd: Path = COLLECTION_ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(COLLECTION_ROOT)}
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )


def provision(inventory: Path, *options: str) -> tuple[int, dict[str, Any]]:
    result = run("muster", "provision", "--inventory", str(inventory), "--json", *options)
    assert result.returncode in (0, 1), result.stderr
    return result.returncode, json.loads(result.stdout)


def device(document: dict[str, Any], name: str) -> dict[str, Any]:
    return next(entry for entry in document["devices"] if entry["device"] == name)


def outcomes(document: dict[str, Any], name: str) -> dict[str, str]:
    return {op["name"]: op["outcome"] for op in device(document, name)["operations"]}


def changes(document: dict[str, Any]) -> dict[str, list[str]]:
    """Name what changed on each device where anything did."""
    found = {
        entry["device"]: [op["name"] for op in entry["operations"] if op["outcome"] != "unchanged"]
        for entry in document["devices"]
    }
    return {name: operations for name, operations in found.items() if operations}


def told(fleet: EmulatedFleet, name: str, *command: str) -> str:
    code, output = fleet.exec(name, list(command))
    assert code == 0, output
    return output


def logins(fleet: EmulatedFleet) -> int:
    journal = ["journalctl", "--unit", "ssh.service", "--output", "cat", "--no-pager"]
    return sum(told(fleet, name, *journal).count("Accepted") for name in fleet.document.devices)


def with_variables(fleet: EmulatedFleet, folder: Path, **variables: Any) -> Path:
    """Make an inventory of the fleet's devices that says some more."""
    shutil.copy(fleet.inventory_file, folder / "hosts.yml")
    (folder / "group_vars").mkdir()
    (folder / "group_vars" / "all.yml").write_text(yaml.safe_dump(variables), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def small(make_fleet: Callable[[str, str], EmulatedFleet]) -> EmulatedFleet:
    fleet = make_fleet("provision", DOCUMENT)
    fleet.up()
    code, _ = provision(fleet.inventory_dir)
    assert code == 0
    return fleet


def test_brings_up_every_device_and_then_changes_nothing(fleet: EmulatedFleet) -> None:
    code, first = provision(fleet.inventory_dir)
    assert (code, first["failed"]) == (0, [])
    code, second = provision(fleet.inventory_dir)
    assert (code, second["failed"], changes(second)) == (0, [], {})
    for name, emulated in fleet.document.devices.items():
        settings, *facts = told(fleet, name, "sh", "-c", STATE).splitlines()
        nvidia = emulated.hardware in ("jetson_orin", "x86_gpu")
        assert ("nvidia" in json.loads(settings).get("runtimes", {})) is nvidia
        assert facts == ["live restore: true", "700 root", "enabled", "chronyd -F 1 -x"]


def test_plain_pyinfra_does_the_same(small: EmulatedFleet) -> None:
    inventory = str(small.inventory_dir / "inventory.py")
    result = run("pyinfra", "--yes", "--json", inventory, "deploys/site.py")
    assert result.returncode == 0, result.stderr
    totals = json.loads(result.stdout)["results"]["totals"]
    assert totals["success"] == totals["error"] == 0 < totals["no_change"]


def test_repairs_what_was_changed_by_hand(small: EmulatedFleet) -> None:
    told(small, PI, "sh", "-c", "echo >>/etc/docker/daemon.json; rm /etc/muster/device.json")
    code, dry = provision(small.inventory_dir, "--dry")
    wanted = {"docker | daemon.json", "muster_device | configuration"}
    assert {n for n, what in outcomes(dry, PI).items() if what == "would change"} == wanted
    code, document = provision(small.inventory_dir)
    assert code == 0
    assert {n for n, what in outcomes(document, PI).items() if what == "changed"} == wanted
    assert "changed" not in outcomes(document, CORAL).values()


def test_repeats_what_was_cut_off_before_it_had_finished(small: EmulatedFleet) -> None:
    kept = "/etc/docker/.daemon.json.muster-before"
    told(small, PI, "cp", "/etc/docker/daemon.json", kept)
    _, document = provision(small.inventory_dir, "--limit", PI)
    assert outcomes(document, PI)["docker | daemon.json"] == "changed"
    assert small.exec(PI, ["test", "-e", kept])[0] != 0


@pytest.mark.parametrize(
    ("settings", "reason"),
    [({"no-such-key": 1}, "no-such-key"), ({"hosts": ["unix:///run/other.sock"]}, "hosts")],
)
def test_refuses_settings_that_the_engine_does_not_take(
    small: EmulatedFleet, tmp_path: Path, settings: dict[str, Any], reason: str
) -> None:
    before = told(small, PI, "cat", "/etc/docker/daemon.json")
    process = told(small, PI, "systemctl", "show", "docker", "--property", "MainPID")
    inventory = with_variables(small, tmp_path, docker_extra=settings)
    code, document = provision(inventory, "--limit", PI)
    assert (code, document["failed"]) == (1, [PI])
    assert device(document, PI)["operation"] == "docker | daemon.json"
    assert reason in device(document, PI)["error"]
    assert told(small, PI, "cat", "/etc/docker/daemon.json") == before
    assert told(small, PI, "systemctl", "show", "docker", "--property", "MainPID") == process


def test_puts_the_former_settings_back_when_the_engine_does_not_start(
    small: EmulatedFleet, tmp_path: Path
) -> None:
    before = told(small, PI, "cat", "/etc/docker/daemon.json")
    inventory = with_variables(small, tmp_path, docker_extra={"storage-driver": "zfs"})
    code, document = provision(inventory, "--limit", PI)
    assert (code, document["failed"]) == (1, [PI])
    assert "the former files are back" in device(document, PI)["error"]
    assert told(small, PI, "cat", "/etc/docker/daemon.json") == before
    told(small, PI, "docker", "info")
    code, document = provision(small.inventory_dir)
    assert (code, changes(document)) == (0, {})


def test_goes_on_with_the_others_when_a_device_is_cut_off(small: EmulatedFleet) -> None:
    small.fault("cut", PI)
    try:
        told(small, CORAL, "rm", "/etc/muster/device.json")
        code, document = provision(small.inventory_dir)
    finally:
        small.fault("heal", PI)
    assert (code, document["failed"]) == (1, [PI])
    assert not device(document, PI)["reached"]
    assert device(document, PI)["error"]
    assert outcomes(document, CORAL)["muster_device | configuration"] == "changed"


def test_connects_to_nothing_when_a_variable_is_wrong(small: EmulatedFleet, tmp_path: Path) -> None:
    inventory = with_variables(small, tmp_path, docker_log_max_files=0, watchdog_runtime="soon")
    (tmp_path / "inventory.py").write_text(
        (small.inventory_dir / "inventory.py").read_text(encoding="utf-8"), encoding="utf-8"
    )
    before = logins(small)
    by_muster = run("muster", "provision", "--inventory", str(inventory))
    by_pyinfra = run("pyinfra", "--yes", str(inventory / "inventory.py"), "deploys/site.py")
    assert logins(small) == before
    for result in (by_muster, by_pyinfra):
        assert result.returncode == 2
        for variable in ("docker_log_max_files", "watchdog_runtime"):
            line = next(line for line in result.stderr.splitlines() if variable in line)
            assert "group_vars/all.yml" in line
            assert PI in line
            assert CORAL in line


def test_missing_variables_stop_plain_pyinfra_before_the_first_operation(
    small: EmulatedFleet, tmp_path: Path
) -> None:
    content = small.inventory_file.read_text(encoding="utf-8").replace("muster_registry:", "other:")
    (tmp_path / "hosts.yml").write_text(content, encoding="utf-8")
    shutil.copy(small.inventory_dir / "inventory.py", tmp_path)
    result = run("pyinfra", "--yes", str(tmp_path / "inventory.py"), "deploys/site.py")
    assert result.returncode == 1
    assert f"devices {PI}, {CORAL}: muster_registry: expected a value" in result.stderr
    assert "Starting operation" not in result.stderr
    assert run("muster", "provision", "--inventory", str(tmp_path)).returncode == 2


def test_sudo_may_want_a_password(small: EmulatedFleet, tmp_path: Path) -> None:
    password = 'it\'s "quoted" $HOME'
    told(small, PI, "useradd", "--create-home", "--groups", "sudo", "careful")
    told(small, PI, "sh", "-c", f"echo {shlex.quote(f'careful:{password}')} | chpasswd")
    told(small, PI, "sh", "-c", "cp -r ~ops/.ssh ~careful/ && chown -R careful: ~careful/.ssh")
    inventory = with_variables(small, tmp_path)
    (inventory / "host_vars").mkdir()
    login = {"ansible_user": "careful", "ansible_become_password": password}
    (inventory / "host_vars" / f"{PI}.yml").write_text(yaml.safe_dump(login), encoding="utf-8")
    result = run("muster", "provision", "-i", str(inventory), "--limit", PI, "-vvvv")
    assert result.returncode == 0, result.stderr
    assert "nothing changed" in result.stdout
    assert password not in result.stdout + result.stderr
    assert told(small, PI, "sh", "-c", "ls /tmp | grep -c askpass || true") == "0\n"


def test_reaches_a_device_through_another(small: EmulatedFleet, tmp_path: Path) -> None:
    state = small.state
    jump = yaml.safe_load(small.inventory_file.read_text(encoding="utf-8"))
    addresses = {
        name: values["ansible_host"]
        for group in jump["all"]["children"].values()
        for name, values in group["hosts"].items()
        if values
    }
    configuration = tmp_path / "ssh_config"
    configuration.write_text(
        f"Host jump\n  HostName {addresses[CORAL]}\n  User ops\n"
        f"  IdentityFile {state / 'id_ed25519'}\n  UserKnownHostsFile {state / 'known_hosts'}\n",
        encoding="utf-8",
    )
    (tmp_path / "inventory").mkdir()
    inventory = with_variables(small, tmp_path / "inventory")
    (inventory / "host_vars").mkdir()
    arguments = {"ansible_ssh_extra_args": f"-F {configuration} -o ProxyJump=jump"}
    (inventory / "host_vars" / f"{PI}.yml").write_text(yaml.safe_dump(arguments), encoding="utf-8")
    before = logins(small)
    code, document = provision(inventory, "--limit", PI, "--dry")
    assert (code, changes(document)) == (0, {})
    assert logins(small) == before + 2
