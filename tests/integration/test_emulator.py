"""The emulated fleet itself, with a small fleet of its own."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from muster.emulator import EmulatedFleet
from muster.emulator.inventory import control_folder
from muster.emulator.reach import run_ssh
from muster.errors import InputError

DOCUMENT = """\
apiVersion: muster/v1
kind: Fleet
name: small
sites:
  plant: {}
  depot: {}
devices:
  coral-1: {site: plant, hardware: coral, memory: 512MiB, disk: 256MiB}
  pi-1: {site: depot, hardware: raspberry_pi, memory: 512MiB}
"""


@pytest.fixture(scope="module")
def small(make_fleet: Callable[[str, str], EmulatedFleet]) -> Iterator[EmulatedFleet]:
    fleet = make_fleet("small", DOCUMENT)
    result = fleet.up()
    assert result["created"] == ["registry", "coral-1", "pi-1"]
    assert result["degraded"] == {}
    yield fleet
    fleet.down()


@pytest.fixture(autouse=True)
def _healthy(small: EmulatedFleet) -> Iterator[None]:
    yield
    small.fault("heal")


def state_of(fleet: EmulatedFleet, device: str) -> dict[str, Any]:
    (found,) = (each for each in fleet.status() if each["device"] == device)
    return found


def ssh(fleet: EmulatedFleet, address: str, command: str = "true") -> tuple[int, str]:
    status, output, error = run_ssh(fleet.state, address, command, timeout=2)
    return status, output + error


def free_bytes(fleet: EmulatedFleet, device: str) -> int:
    status, output = fleet.exec(device, ["df", "--output=avail", "-B1", "/var/lib/docker"])
    assert status == 0
    return int(output.split()[-1])


def test_a_second_up_changes_nothing(small: EmulatedFleet) -> None:
    before = {each["device"]: each["address"] for each in small.status()}
    result = small.up()
    assert result["changed"] is False
    assert result["kept"] == ["registry", "coral-1", "pi-1"]
    assert {each["device"]: each["address"] for each in small.status()} == before


def test_devices_answer_over_ssh_with_pinned_keys_and_sudo(small: EmulatedFleet) -> None:
    address = state_of(small, "pi-1")["address"]
    assert ssh(small, address, "sudo id --user; hostname") == (0, "0\npi-1\n")
    known_hosts = small.state / "known_hosts"
    text = known_hosts.read_text()
    keys = [line.split()[-1] for line in text.splitlines()]
    known_hosts.write_text(text.replace(keys[0], "swapped").replace(keys[1], keys[0]))
    try:
        status, output = ssh(small, address)
    finally:
        known_hosts.write_text(text)
    assert (status, "Host key verification failed" in output) == (255, True)


def test_hardware_is_found_where_detection_looks(small: EmulatedFleet) -> None:
    root = "/etc/muster/emulated-hardware"
    script = f"cat {root}/sys/bus/pci/devices/*/vendor; head -c1 /dev/apex_0 | od -An -tx1"
    assert small.exec("coral-1", ["sh", "-c", script]) == (0, "0x1ac1\n 00\n")
    assert small.exec("pi-1", ["cat", f"{root}/proc/device-tree/model"]) == (
        0,
        "Raspberry Pi 5 Model B Rev 1.0\0",
    )


def test_the_site_mirror_installs_packages_and_a_purged_runtime(small: EmulatedFleet) -> None:
    script = """
        set -e
        apt-get -q update
        apt-get -qy purge docker.io containerd runc
        ! command -v dockerd
        DEBIAN_FRONTEND=noninteractive apt-get -qy install docker.io chrony unattended-upgrades
        systemctl is-active docker chrony unattended-upgrades
    """
    status, output = small.exec("pi-1", ["sh", "-c", script])
    assert status == 0, output
    assert output.endswith("active\nactive\nactive\n")


def test_a_nested_container_runs_from_the_registry_by_digest(small: EmulatedFleet) -> None:
    assert small.exec("coral-1", ["systemctl", "is-enabled", "docker"])[1] == "disabled\n"
    trust = f"""
        mkdir -p /etc/docker/certs.d/registry:5000
        echo '{small.registry_ca.read_text()}' > /etc/docker/certs.d/registry:5000/ca.crt
    """
    script = """
        set -e
        systemctl start docker
        parts="usr/bin/env $(ldd /usr/bin/env | grep -o '/[^ ]*' | cut -c2-)"
        tar -C / -ch $parts | docker import - registry:5000/tools/env >/dev/null
        docker push -q registry:5000/tools/env
        reference=$(docker inspect -f '{{index .RepoDigests 0}}' registry:5000/tools/env)
        docker image rm -f registry:5000/tools/env >/dev/null
        docker image prune -af >/dev/null
        docker run --rm --memory 64m --device /dev/apex_0 "$reference" /usr/bin/env
    """
    status, output = small.exec("coral-1", ["sh", "-c", trust + script])
    assert status == 0, output
    assert "HOME=" in output


def test_a_cut_silences_open_and_new_connections_until_it_is_healed(small: EmulatedFleet) -> None:
    address = state_of(small, "coral-1")["address"]
    arguments = ["-i", str(small.state / "id_ed25519"), "-o", "ControlPath=none"]
    arguments += ["-o", f"UserKnownHostsFile={small.state / 'known_hosts'}", "-l", "ops"]
    with (
        subprocess.Popen(
            ["ssh", *arguments, address, "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as open_connection,
        contextlib.ExitStack() as stack,
    ):
        stack.callback(open_connection.kill)  # a failure must not wait for its end
        assert open_connection.stdin
        assert open_connection.stdout
        open_connection.stdin.write(b"before\n")
        open_connection.stdin.flush()
        assert open_connection.stdout.readline() == b"before\n"
        small.fault("cut", "coral-1")
        open_connection.stdin.write(b"through the cut\n")
        open_connection.stdin.flush()

        status, output = ssh(small, address)
        assert (status, "timed out" in output) == (255, True)
        reach = ["curl", "-sS", "-m2", "http://registry:8080/"]
        assert small.exec("coral-1", reach)[0] == 28
        small.fault("reboot", "coral-1")
        assert ssh(small, address)[0] == 255
        assert small.up()["cut"] == ["coral-1"]
        cut = state_of(small, "coral-1")
        assert (cut["container"], cut["ssh"], cut["faults"]) == ("running", False, ["cut"])
        # nothing came through, not even the end of the connection
        assert open_connection.poll() is None
        open_connection.kill()
        assert open_connection.stdout.read() == b""

    small.fault("heal", "coral-1")
    healed = state_of(small, "coral-1")
    assert (healed["ssh"], healed["faults"], healed["address"]) == (True, [], address)
    assert small.exec("coral-1", reach)[0] == 0


def test_a_power_cut_keeps_the_disk_and_the_address(small: EmulatedFleet) -> None:
    address = state_of(small, "coral-1")["address"]
    small.exec("coral-1", ["sh", "-c", "echo kept > /var/lib/docker/mark; echo kept > /root/mark"])
    for _ in range(3):
        small.fault("kill", "coral-1")
        assert state_of(small, "coral-1")["faults"] == ["kill"]
        with pytest.raises(InputError, match="expected a running container"):
            small.fault("reboot", "coral-1")
        small.fault("heal", "coral-1")
    assert state_of(small, "coral-1")["address"] == address
    assert small.exec("coral-1", ["cat", "/var/lib/docker/mark", "/root/mark"])[1] == "kept\n" * 2
    assert small.exec("coral-1", ["mountpoint", "/var/lib/docker"])[0] == 0


def test_up_starts_what_was_stopped(small: EmulatedFleet) -> None:
    small.fault("kill", "pi-1")
    result = small.up()
    assert (result["started"], result["created"]) == (["pi-1"], [])


def test_a_reboot_gives_a_new_boot(small: EmulatedFleet) -> None:
    booted = ["stat", "-c", "%Y", "/run/systemd/system"]
    devices = ["ls", "/dev/apex_0"]
    before = small.exec("coral-1", booted)
    small.fault("reboot", "coral-1")
    small.fault("heal", "coral-1")
    assert small.exec("coral-1", booted) != before
    assert small.exec("coral-1", devices) == (0, "/dev/apex_0\n")


def test_a_full_disk_is_full_across_a_reboot_and_leaves_others_alone(small: EmulatedFleet) -> None:
    write = ["dd", "if=/dev/zero", "of=/var/lib/docker/probe", "bs=4k", "count=1"]
    assert free_bytes(small, "coral-1") > 200 << 20
    small.fault("fill-disk", "coral-1")
    assert free_bytes(small, "coral-1") == 0
    assert "No space left" in small.exec("coral-1", write)[1]
    small.fault("reboot", "coral-1")
    assert free_bytes(small, "coral-1") == 0
    assert state_of(small, "coral-1")["faults"] == ["fill-disk"]
    small.fault("heal", "coral-1")
    assert free_bytes(small, "coral-1") > 200 << 20
    assert small.exec("coral-1", write)[0] == 0


def test_a_device_without_a_disk_of_its_own_is_not_filled(small: EmulatedFleet) -> None:
    with pytest.raises(InputError, match="expected a device with disk: in the fleet document"):
        small.fault("fill-disk", "pi-1")


def test_the_registry_goes_down_and_comes_back_at_its_address(small: EmulatedFleet) -> None:
    address = small.registry_address
    ask = ["curl", "-sS", "-m5", "http://registry:8080/Packages", "-o", "/dev/null"]
    small.fault("registry-down")
    assert state_of(small, "registry")["faults"] == ["registry-down"]
    assert small.exec("coral-1", ask)[0] != 0
    small.fault("heal", "registry")
    assert small.registry_address == address
    assert small.exec("coral-1", ask)[0] == 0
    assert small.exec("pi-1", ask)[0] == 0


@pytest.mark.parametrize(
    ("kind", "target"), [("cut", "nobody"), ("cut", None), ("kill", "registry"), ("bend", "pi-1")]
)
def test_a_fault_without_a_fitting_target_is_refused(
    small: EmulatedFleet, kind: str, target: str | None
) -> None:
    with pytest.raises(InputError, match="expected"):
        small.fault(kind, target)


def test_a_changed_document_changes_only_what_differs(small: EmulatedFleet) -> None:
    path = small.inventory_dir / "fleet.yml"
    changed = DOCUMENT.replace("pi-1: {site: depot", "pi-2: {site: depot")
    path.write_text(changed.replace("disk: 256MiB", "disk: 128MiB"))
    result = EmulatedFleet.load(path, name=small.name).up()
    assert (result["created"], result["removed"]) == (["coral-1", "pi-2"], ["pi-1"])
    path.write_text(DOCUMENT)
    result = EmulatedFleet.load(path, name=small.name).up()
    assert (result["created"], result["removed"]) == (["coral-1", "pi-1"], ["pi-2"])


def test_two_inventories_do_not_share_a_fleet(small: EmulatedFleet, tmp_path: Path) -> None:
    other = EmulatedFleet(small.document, tmp_path, name=small.name)
    for action in (other.up, other.down):
        with pytest.raises(InputError, match="is up for"):
            action()
    assert state_of(small, "coral-1")["container"] == "running"


def test_down_leaves_nothing_even_when_the_state_is_gone(small: EmulatedFleet) -> None:
    client = docker.from_env()
    labels = {"label": f"muster.fleet={small.name}"}
    sockets = control_folder(small.inventory_dir)
    for file in small.state.iterdir():
        if file.is_file():
            file.unlink()
    assert small.down()["changed"] is True
    assert client.containers.list(all=True, filters=labels) == []
    assert client.networks.list(filters=labels) == []
    assert client.volumes.list(filters=labels) == []
    names = [each.name for each in client.volumes.list()]
    assert not [name for name in names if name.startswith(small.name)]
    assert not any(path.exists() for path in (small.state, small.inventory_file, sockets))
    assert small.down()["changed"] is False
    small.up()
