"""`muster site new` and `muster enroll` on emulated devices as they come out of their boxes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from muster.emulator import EmulatedFleet
from muster.emulator.hardware import HARDWARE_ROOT
from muster.inventory import load_inventory
from muster.paths import COLLECTION_ROOT

DOCUMENT = """
apiVersion: muster/v1
kind: Fleet
name: bare
sites: {dock: {}}
devices:
  box-1: {site: dock, hardware: raspberry_pi}
  box-2: {site: dock, hardware: coral}
  box-3: {site: dock, hardware: cpu}
"""
PASSWORD = "out-of-the-box"
# As delivered: a login with a password that may use sudo, and no key of ours.
DELIVERED = f"""
useradd --create-home --shell /bin/bash vendor
echo 'vendor:{PASSWORD}' | chpasswd
echo 'vendor ALL=(ALL) ALL' >/etc/sudoers.d/vendor
sed -i 's/^PasswordAuthentication no/PasswordAuthentication yes/' \
    /etc/ssh/sshd_config.d/10-emulated.conf
systemctl reload ssh
"""
# The package mirror has no Python, as the image has it: a package with its interpreter stands in.
WITHOUT_PYTHON = """
apt-get -qq purge python3-apt
python=$(basename "$(readlink -f /usr/bin/python3)")
mkdir -p /srv/python3/DEBIAN /srv/python3/usr/bin /srv/apt
mv "/usr/bin/$python" /srv/python3/usr/bin/
cat >/srv/python3/DEBIAN/control <<END
Package: python3
Version: $(dpkg-query --show --showformat '${Version}' python3)+1
Architecture: all
Maintainer: stand-in <root@localhost>
Replaces: $python-minimal
Description: stand-in
END
dpkg-deb --build /srv/python3 /srv/apt/python3.deb
rm -r /srv/python3 /var/lib/dpkg/info/python3.prerm
cd /srv/apt
apt-ftparchive packages . >Packages
echo 'deb [trusted=yes] file:/srv/apt ./' >/etc/apt/sources.list.d/stand-in.list
! python3 --version
"""
UNKNOWN = f"""
mkdir -p {HARDWARE_ROOT}/proc/device-tree
printf 'Radxa ROCK 5B\\0' >{HARDWARE_ROOT}/proc/device-tree/model
printf 'radxa,rock-5b\\0rockchip,rk3588\\0' >{HARDWARE_ROOT}/proc/device-tree/compatible
"""
NEW_KEY = """
rm /etc/ssh/ssh_host_*
ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key
systemctl restart ssh
"""


class Dock:
    """Three bare devices, and the inventory of their site."""

    def __init__(self, fleet: EmulatedFleet, folder: Path) -> None:
        self.fleet, self.folder = fleet, folder
        self.inventory = folder / "inventories" / "dock"
        self.key, self.password = folder / "operator", folder / "password"
        self.addresses = {
            device.name: device.address for device in load_inventory(fleet.inventory_file).devices
        }

    def muster(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "muster", *map(str, arguments)],
            cwd=self.folder,
            env=os.environ | {"PYTHONPATH": str(COLLECTION_ROOT), "SSH_AUTH_SOCK": ""},
            stdin=subprocess.DEVNULL, capture_output=True, text=True,
        )  # fmt: skip
        print(done.stdout, done.stderr)
        assert PASSWORD not in done.stdout + done.stderr
        return done

    def enroll(self, *arguments: str | Path) -> tuple[int, dict[str, dict[str, Any]]]:
        """Exit code, and the result of each host."""
        files = ("--key", f"{self.key}.pub", "--sudo-password-file", self.password)
        done = self.muster("enroll", *arguments, "-i", self.inventory, *files, "--json")
        assert done.returncode in (0, 1), done.stderr
        devices = json.loads(done.stdout)["devices"]
        return done.returncode, {device["host"]: device for device in devices}

    def run(self, device: str, command: str) -> str:
        code, output = self.fleet.exec(device, ["sh", "-ec", command])
        assert code == 0, output
        return output

    def fingerprint(self, device: str) -> str:
        """What a person would read on the device itself."""
        return self.run(device, "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub").split()[1]

    def snapshot(self) -> dict[str, str]:
        """Everything that an enrolment may write, here and there."""
        keys = "cat /home/vendor/.ssh/authorized_keys 2>/dev/null || echo none"
        found = {name: self.run(name, keys) for name in self.addresses}
        files = (path for path in self.inventory.rglob("*") if path.is_file())
        return found | {str(path): path.read_text() for path in files}


@pytest.fixture(scope="module")
def dock(
    make_fleet: Callable[[str, str], EmulatedFleet], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Dock]:
    fleet = make_fleet("bare", DOCUMENT)
    fleet.up()
    dock = Dock(fleet, tmp_path_factory.mktemp("dock"))
    for name in dock.addresses:
        dock.run(name, DELIVERED)
    dock.run("box-1", WITHOUT_PYTHON)
    dock.run("box-3", UNKNOWN)
    dock.password.write_text(PASSWORD + "\n")
    keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "operator", "-f", dock.key]
    subprocess.run(keygen, check=True)
    yield dock
    fleet.down()


def test_a_new_site_has_an_inventory_that_is_valid_and_never_overwritten(dock: Dock) -> None:
    assert dock.muster("site", "new", "dock", "--user", "vendor").returncode == 0
    shown = dock.muster("inventory", "-i", dock.inventory)
    assert (shown.returncode, "no devices yet" in shown.stdout) == (0, True)
    before = dock.snapshot()
    again = dock.muster("site", "new", "dock")
    assert again.returncode == 2
    assert "is left as it is" in again.stderr
    assert dock.snapshot() == before
    # The emulator's stand-in for what the kernel shows of the hardware.
    with (dock.inventory / "group_vars" / "all.yml").open("a") as file:
        file.write(f"muster_device_hardware_root: {HARDWARE_ROOT}\n")
        file.write(f"ansible_ssh_private_key_file: {dock.key}\n")


def test_keys_that_nobody_vouches_for_end_it_before_any_password_is_sent(dock: Dock) -> None:
    before = dock.snapshot()
    code, found = dock.enroll(*dock.addresses.values(), "--password-file", dock.password)
    assert code == 1
    for name, address in dock.addresses.items():
        assert dock.fingerprint(name) in found[address]["problem"]
    assert dock.snapshot() == before
    log = dock.run("box-1", "journalctl --unit ssh.service --output cat --no-pager")
    assert "password" not in log


def test_bare_devices_are_enrolled_and_one_that_fails_stops_no_other(dock: Dock) -> None:
    listed = dock.folder / "fingerprints"
    listed.write_text("".join(f"{dock.fingerprint(name)}\n" for name in dock.addresses))
    one, two, three = dock.addresses.values()
    silent = two.rsplit(".", 1)[0] + ".250"
    table = dock.folder / "boxes.csv"
    table.write_text(f"host,name,groups\n{one},dock-pi,line_a\n{two},,\n{three},dock-rock,\n")
    code, found = dock.enroll(
        table, silent, "--fingerprints", listed, "--password-file", dock.password
    )
    assert code == 1
    assert (found[silent]["outcome"], found[silent]["name"]) == ("failed", None)
    outcomes = {address: found[address]["outcome"] for address in (one, two, three)}
    assert set(outcomes.values()) == {"enrolled"}, found
    assert "Python installed" in found[one]["done"]
    assert "Python installed" not in found[two]["done"]

    devices = {device.name: device for device in load_inventory(dock.inventory).devices}
    kinds = {name: (device.site, device.hardware) for name, device in devices.items()}
    assert kinds == {
        "dock-pi": ("site_dock", "hw_raspberry_pi"),
        "box-2": ("site_dock", "hw_coral"),
        "dock-rock": ("site_dock", None),
    }
    assert "Radxa ROCK 5B" in " ".join(found[three]["notes"])
    assert "line_a" in devices["dock-pi"].groups
    facts = devices["dock-pi"].variables["muster_facts"]
    assert facts["model"] == "Raspberry Pi 5 Model B Rev 1.0"
    assert facts["machine_id"] == dock.run("box-1", "cat /etc/machine-id").strip()
    assert facts["host_key"] == dock.fingerprint("box-1")
    rights = dock.run(
        "box-1", "stat -c '%a %U' /home/vendor/.ssh /home/vendor/.ssh/authorized_keys"
    )
    assert rights.split() == ["700", "vendor", "600", "vendor"]
    text = (dock.inventory / "hosts.yml").read_text()
    assert "# Kinds of hardware, filled by" in text  # comments stay


def test_a_second_run_changes_nothing_and_says_so(dock: Dock) -> None:
    before = dock.snapshot()
    code, found = dock.enroll(*dock.addresses.values())  # the key logs in, no password is needed
    assert code == 0
    assert {device["outcome"] for device in found.values()} == {"unchanged"}, found
    assert dock.snapshot() == before


def test_plain_ansible_and_ssh_take_what_was_written(dock: Dock) -> None:
    command = [
        "ansible",
        "adhoc",
        "-i",
        dock.inventory / "hosts.yml",
        "all",
        "-m",
        "raw",
        "-a",
        "id -un",
    ]
    environment = os.environ | {"ANSIBLE_BECOME": "false"}
    extra = ["-e", "ansible_become=false"]
    done = subprocess.run(
        [sys.executable, "-m", *map(str, command), *extra],
        env=environment, capture_output=True, text=True, cwd=dock.folder,
    )  # fmt: skip
    assert done.stdout.count("vendor") == 3, done.stdout + done.stderr


def test_other_keys_stay_and_loose_rights_are_mended(dock: Dock) -> None:
    address = dock.addresses["box-2"]
    dock.run(
        "box-2",
        "printf '# theirs\\nssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAITheirs them' >"
        "/home/vendor/.ssh/authorized_keys; chmod 664 /home/vendor/.ssh/authorized_keys",
    )
    code, found = dock.enroll(address, "--password-file", dock.password)
    assert (code, found[address]["outcome"], found[address]["done"]) == (
        0, "updated", ["public key installed"],
    )  # fmt: skip
    lines = dock.run("box-2", "cat /home/vendor/.ssh/authorized_keys").splitlines()
    assert lines[:2] == ["# theirs", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAITheirs them"]
    assert lines[2:] == [Path(f"{dock.key}.pub").read_text().strip()]
    assert dock.run("box-2", "stat -c %a /home/vendor/.ssh/authorized_keys").strip() == "600"


def test_a_reinstalled_device_is_noticed_by_its_key(dock: Dock) -> None:
    address, old = dock.addresses["box-2"], dock.fingerprint("box-2")
    dock.run("box-2", NEW_KEY)
    before = dock.snapshot()
    code, found = dock.enroll(address, "--accept-new-keys")
    assert code == 1
    for word in (old, dock.fingerprint("box-2"), "--replace-key"):
        assert word in found[address]["problem"]
    code, found = dock.enroll(address, "--replace-key")
    assert "is new: compare it" in found[address]["problem"]
    assert dock.snapshot() == before
    code, found = dock.enroll(address, "--replace-key", "--accept-new-keys")
    assert (code, found[address]["name"], found[address]["outcome"]) == (0, "box-2", "updated")
    assert "host key replaced" in found[address]["done"]
    facts = yaml.safe_load((dock.inventory / "hosts.yml").read_text())
    hosts = facts["all"]["children"]["site_dock"]["hosts"]
    assert hosts["box-2"]["muster_facts"]["host_key"] == dock.fingerprint("box-2")


def test_a_host_ca_vouches_for_new_keys(dock: Dock) -> None:
    address = dock.addresses["box-3"]
    dock.run("box-3", NEW_KEY)
    public = dock.folder / "host.pub"
    public.write_text(dock.run("box-3", "cat /etc/ssh/ssh_host_ed25519_key.pub"))
    for name in ("ca", "stranger"):
        keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", dock.folder / name]
        subprocess.run(keygen, check=True)
    sign = ["ssh-keygen", "-q", "-s", dock.folder / "ca", "-I", "dock-rock", "-h"]
    subprocess.run([*sign, "-n", "dock-rock", "-V", "+52w", public], check=True)
    certificate = (dock.folder / "host-cert.pub").read_text()
    dock.run(
        "box-3",
        f"echo '{certificate.strip()}' >/etc/ssh/ssh_host_ed25519_key-cert.pub\n"
        "echo 'HostCertificate /etc/ssh/ssh_host_ed25519_key-cert.pub'"
        " >/etc/ssh/sshd_config.d/20-certificate.conf; systemctl restart ssh",
    )
    code, found = dock.enroll(address, "--replace-key", "--host-ca", dock.folder / "stranger.pub")
    assert (code, "another CA" in found[address]["problem"]) == (1, True)
    code, found = dock.enroll(address, "--replace-key", "--host-ca", dock.folder / "ca.pub")
    assert (code, found[address]["trust"]) == (0, "certified by the host CA")


def test_bad_input_touches_nothing(dock: Dock) -> None:
    before = dock.snapshot()
    table = dock.folder / "typing-errors.csv"
    table.write_text("host,usr,password\n10.0.0.1,ops,secret\n")
    done = dock.muster("enroll", table, "10.0.0.300", "-i", dock.inventory)
    assert done.returncode == 2
    assert "did you mean user?" in done.stderr
    assert "no secrets in this file" in done.stderr
    assert "10.0.0.300" in done.stderr
    assert dock.snapshot() == before
