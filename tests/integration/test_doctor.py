"""`muster doctor` on emulated devices: planted faults, each of which it has to name."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from muster.emulator import EmulatedFleet
from muster.paths import COLLECTION_ROOT

DOCUMENT = """
apiVersion: muster/v1
kind: Fleet
name: ward
sites: {ward: {}}
devices:
  ward-pi-1: {site: ward, hardware: raspberry_pi}
  ward-pi-2: {site: ward, hardware: raspberry_pi, disk: 256MiB}
  ward-coral-1: {site: ward, hardware: coral}
"""
STRANGER, LOCKED, CORAL = "ward-pi-1", "ward-pi-2", "ward-coral-1"

CERTIFICATE = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=other"
    " -keyout /dev/null -days {days} -out {path}"
)
# The clock is the machine's own: a device can't have another one, so that Python tells another.
SITE = 'site="$(ls -d /etc/python3.[0-9]* | tail -1)/sitecustomize.py"'
SHIFTED_CLOCK = f"""{SITE}
cat >"$site" <<'END'
import time
real = time.time
time.time = lambda: real() + 120
END
"""
UNCONFIRMED = """mkdir -p /var/lib/muster/digits && python3 - <<'END'
import json, os, subprocess, time
inspect = ["/usr/local/sbin/muster-device", "inspect"]
told = json.loads(subprocess.run(inspect, input=b"{}", stdout=-1).stdout)
state = {"generation": 7, "phase": "switched", "rollout": "r-1", "release": None,
         "deadline": {"boot": told["boot_id"], "at": told["uptime"] + 90000}}
path = "/var/lib/muster/digits/state.json"
json.dump(state, open(path, "w"))
os.utime(path, (time.time() - 7200,) * 2)
END
systemctl start muster-guard@digits.timer
"""

CDI = {
    "cdiVersion": "0.5.0",
    "kind": "coral.ai/tpu",
    "devices": [{"name": "0", "containerEdits": {"deviceNodes": [{"path": "/dev/apex_7"}]}}],
}
FAULTS: list[tuple[str, str, str, str]] = [
    # device, what breaks it, the check that must tell, and a word of what it must say
    (
        STRANGER,
        "rm /etc/ssh/ssh_host_*; ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key;"
        " systemctl restart ssh",
        "host_key",
        "not the pinned one",
    ),
    (LOCKED, "echo 'ops ALL=(ALL) ALL' >/etc/sudoers.d/ops", "sudo", "password"),
    (LOCKED, SHIFTED_CLOCK, "clock", "ahead"),
    (LOCKED, "", "disk", "/var/lib/docker has 0% left"),  # by a fault of the emulator
    (
        LOCKED,
        "printf '[Service]\\nExecStart=/bin/false\\n' >/etc/systemd/system/leaky.service;"
        " systemctl daemon-reload; systemctl start leaky || true",
        "units",
        "leaky.service failed",
    ),
    (CORAL, UNCONFIRMED, "guard", "unconfirmed for 2 h"),
    (CORAL, "ln -sf /dev/null /etc/systemd/system/muster-boot.service; systemctl daemon-reload",
     "guard", "muster-boot.service: masked"),
    (CORAL, "rm /dev/apex_0", "accelerator", "no device node"),
    (CORAL, f"mkdir -p /etc/cdi; echo '{json.dumps(CDI)}' >/etc/cdi/other.json",
     "accelerator", "/dev/apex_7"),
    (CORAL, CERTIFICATE.format(days=3650, path="/etc/docker/certs.d/registry:5000/ca.crt"),
     "registry", "not trusted"),
    (CORAL, CERTIFICATE.format(days=3, path="/etc/muster/client.crt"),
     "certificate", "/etc/muster/client.crt ends in 3 days"),
    (CORAL, "echo '# edited' >>/usr/local/sbin/muster-device", "program", "another version"),
    (CORAL, "systemctl stop docker.socket docker.service", "runtime", "does not answer"),
]  # fmt: skip
MENDED = {
    LOCKED: "echo 'ops ALL=(ALL) NOPASSWD:ALL' >/etc/sudoers.d/ops;"
    f' {SITE}; rm "$site" /etc/systemd/system/leaky.service;'
    " systemctl daemon-reload; systemctl reset-failed",
    CORAL: "systemctl stop muster-guard@digits.timer; rm -rf /var/lib/muster/digits"
    " /etc/cdi/other.json /etc/muster/client.crt /etc/systemd/system/muster-boot.service;"
    " systemd-tmpfiles --create emulated-hardware.conf; systemctl daemon-reload",
}


class Ward:
    """A provisioned fleet, and the command."""

    def __init__(self, fleet: EmulatedFleet, folder: Path) -> None:
        self.fleet, self.folder = fleet, folder

    def muster(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "muster", *arguments, "-i", str(self.fleet.inventory_file)],
            cwd=COLLECTION_ROOT,
            env={"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "HOME": str(self.folder),
                 "MUSTER_STATE_DIR": str(self.folder)},
            capture_output=True, text=True,
        )  # fmt: skip
        print(done.stdout, done.stderr)
        return done

    def doctor(self, *arguments: str) -> tuple[int, dict[str, list[dict[str, Any]]]]:
        """Exit code, and everything that is not well of each device."""
        done = self.muster("doctor", *arguments, "--json")
        assert done.returncode in (0, 1), done.stderr
        devices = json.loads(done.stdout)["devices"]
        return done.returncode, {
            device["device"]: [f for f in device["findings"] if f["severity"] != "ok"]
            for device in devices
        }

    def run(self, device: str, command: str) -> None:
        code, output = self.fleet.exec(device, ["sh", "-ec", command])
        assert code == 0, output


@pytest.fixture(scope="module")
def ward(
    make_fleet: Callable[[str, str], EmulatedFleet], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ward]:
    fleet = make_fleet("ward", DOCUMENT)
    fleet.up()
    ward = Ward(fleet, tmp_path_factory.mktemp("state"))
    done = ward.muster("provision")
    assert done.returncode == 0, done.stdout + done.stderr
    yield ward
    fleet.down()


def bad(findings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    # A nearly full disk of the machine that runs the tests is no fault of a device.
    return [f for f in findings if not (f["check"] == "disk" and f["what"].startswith("/ "))]


def test_it_says_nothing_of_a_fleet_that_is_well(ward: Ward) -> None:
    code, found = ward.doctor()
    assert {name: bad(findings) for name, findings in found.items()} == {
        STRANGER: [], LOCKED: [], CORAL: []
    }  # fmt: skip
    assert code == 0


def test_it_names_every_planted_fault_with_a_remedy(ward: Ward) -> None:
    ward.fleet.fault("fill-disk", LOCKED)
    for device, command, _, _ in FAULTS:
        ward.run(device, command)
    code, found = ward.doctor()
    assert code == 1
    for device, _, check, word in FAULTS:
        told = [f for f in found[device] if f["check"] == check and word in f["what"]]
        assert told, f"{device}: {check} ({word}) is not among {found[device]}"
        assert all(f["remedy"] for f in told)
    named = {(name, f["check"]) for name, findings in found.items() for f in bad(findings)}
    assert named == {(device, check) for device, _, check, _ in FAULTS}, found
    assert len(FAULTS) >= 10


def test_it_names_a_cut_device_and_a_registry_that_is_down(ward: Ward) -> None:
    ward.fleet.fault("cut", STRANGER)
    ward.fleet.fault("registry-down")
    try:
        _, found = ward.doctor(f"{STRANGER}:{CORAL}")
    finally:
        ward.fleet.fault("heal", "registry")
        ward.fleet.exec(STRANGER, ["/usr/local/sbin/emu-link", "heal"])
    assert [f["check"] for f in found[STRANGER]] == ["ssh"]
    assert any("can't be reached" in f["what"] for f in found[CORAL] if f["check"] == "registry")
    assert LOCKED not in found


def test_what_it_tells_to_do_makes_all_well(ward: Ward) -> None:
    for device, command in MENDED.items():
        ward.run(device, command)
    ward.fleet.fault("heal", LOCKED)
    told = ward.muster("enroll", STRANGER, "--replace-key", "--accept-new-keys")
    assert told.returncode == 0, told.stderr
    assert "host key replaced" in told.stdout
    assert ward.muster("provision").returncode == 0
    code, found = ward.doctor()
    assert {name: bad(findings) for name, findings in found.items()} == {
        STRANGER: [], LOCKED: [], CORAL: []
    }  # fmt: skip
    assert code == 0
