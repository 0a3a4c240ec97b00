"""Changes that would lock the controller out, on emulated devices: they go back by themselves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from muster.emulator import EmulatedFleet
from muster.paths import COLLECTION_ROOT

DOCUMENT = """
apiVersion: muster/v1
kind: Fleet
name: guarded
sites: {yard: {}}
devices:
  gate:
    site: yard
    hardware: coral
    variables: {firewall_enabled: true, firewall_confirm_within: 20s}
"""
CLOSED = """\
table inet muster
delete table inet muster
table inet muster {
	chain input {
		type filter hook input priority filter; policy drop;
		ct state established,related accept
	}
}
"""
CLOSE_PORTS = f"""
from roles.firewall.deploy import FILE, TAKE_EFFECT
from roles.guarded import place_guarded
from roles.operations import File

place_guarded(
    name="closed",
    title="firewall",
    files=[File(FILE, {CLOSED!r}, "600")],
    then=TAKE_EFFECT,
    seconds=20,
)
"""
LET_NOBODY_IN = """
from roles.guarded import place_guarded
from roles.operations import File

place_guarded(
    name="nobody",
    title="sshd",
    files=[File("/etc/ssh/sshd_config.d/00-test.conf", "AllowUsers nobody\\n")],
    check="sshd -t",
    then="systemctl reload ssh.service",
    seconds=20,
)
"""
DEVICE = "gate"


@pytest.fixture(scope="module")
def gate(make_fleet: Callable[[str, str], EmulatedFleet]) -> EmulatedFleet:
    fleet = make_fleet("guarded", DOCUMENT)
    fleet.up()
    run = pyinfra(fleet, "deploys/site.py")
    _, errors = run.communicate()
    assert run.returncode == 0, errors
    return fleet


@pytest.fixture
def deploy(tmp_path: Path) -> Path:
    path = tmp_path / "closed.py"
    path.write_text(CLOSE_PORTS, encoding="utf-8")
    return path


@pytest.fixture
def rules(gate: EmulatedFleet) -> Iterator[str]:
    """Give the rules before a test; they have to be the same after it."""
    before = loaded(gate)
    assert "tcp dport 22 accept" in before
    yield before
    assert loaded(gate) == before
    assert told(gate, "sh", "-c", "ls /var/lib/muster-undo; ls -A /etc/muster | grep '^[.]'") == ""


def pyinfra(fleet: EmulatedFleet, deploy: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pyinfra", "--yes", "deploys/inventory.py", str(deploy)],
        cwd=COLLECTION_ROOT,
        env={
            **os.environ,
            "PYTHONPATH": str(COLLECTION_ROOT),
            "MUSTER_INVENTORY": str(fleet.inventory_dir),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def told(fleet: EmulatedFleet, *command: str) -> str:
    return fleet.exec(DEVICE, list(command))[1]


def loaded(fleet: EmulatedFleet) -> str:
    return told(fleet, "nft", "--stateless", "list", "table", "inet", "muster")


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.3)


def test_rules_that_let_nobody_in_go_back(gate: EmulatedFleet, rules: str, deploy: Path) -> None:
    run = pyinfra(gate, deploy)
    _, errors = run.communicate(timeout=120)
    assert run.returncode != 0
    assert "not confirmed in time, so the former files are back" in errors


def test_settings_of_sshd_that_let_nobody_in_go_back(gate: EmulatedFleet, tmp_path: Path) -> None:
    path = tmp_path / "nobody.py"
    path.write_text(LET_NOBODY_IN, encoding="utf-8")
    run = pyinfra(gate, path)
    _, errors = run.communicate(timeout=120)
    assert run.returncode != 0
    assert "no new connection" in errors or "not confirmed in time" in errors
    assert told(gate, "sh", "-c", "sshd -T | grep allowusers; ls -A /etc/ssh/sshd_config.d") == (
        "10-emulated.conf\n"
    )


def test_rules_go_back_when_the_controller_dies(
    gate: EmulatedFleet, rules: str, deploy: Path
) -> None:
    run = pyinfra(gate, deploy)
    wait_until(lambda: "dport 22" not in loaded(gate), 60)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    wait_until(lambda: loaded(gate) == rules, 60)


def test_rules_go_back_when_the_power_goes(gate: EmulatedFleet, rules: str, deploy: Path) -> None:
    run = pyinfra(gate, deploy)
    wait_until(lambda: "dport 22" not in loaded(gate), 60)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    gate.fault("kill", DEVICE)
    gate.fault("heal", DEVICE)
    assert loaded(gate) == rules
    assert "was not confirmed" in told(gate, "journalctl", "-t", "muster", "-b", "--no-pager")
