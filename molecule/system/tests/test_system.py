"""What the system's roles made of the devices, seen from outside with testinfra."""

# ruff: noqa: S101
from __future__ import annotations

from typing import Any

import pytest
import testinfra

testinfra_hosts = ["ansible://all"]


def one(host: Any, name: str) -> Any:
    """Any device of the scenario by name, with root's rights."""
    return testinfra.get_host(
        f"ansible://{name}", ansible_inventory=host.backend.ansible_inventory, sudo=True
    )


@pytest.fixture
def gate(host: Any) -> Any:
    if host.backend.get_hostname() != "yard-gate":
        pytest.skip("about yard-gate alone")
    return one(host, "yard-gate")


@pytest.fixture
def pi(host: Any) -> Any:
    if host.backend.get_hostname() != "yard-pi":
        pytest.skip("about yard-pi alone")
    return one(host, "yard-pi")


def test_the_clock_of_the_machine_is_left_alone(host: Any) -> None:
    assert " -x" in host.process.get(comm="chronyd", ppid=1).args
    assert not host.package("fake-hwclock").is_installed
    assert host.run("chronyd -p -f /etc/chrony/chrony.conf").rc == 0


def test_the_watchdog_counts_what_it_can(host: Any) -> None:
    expected = "14s" if host.backend.get_hostname() == "yard-pi" else "30s"
    shown = host.check_output("systemctl show --property=RuntimeWatchdogUSec")
    assert shown == f"RuntimeWatchdogUSec={expected}"


def test_security_updates_come_at_their_time_and_hold_what_models_need(host: Any) -> None:
    settings = host.check_output("apt-config dump")
    for line in (
        'APT::Periodic::Unattended-Upgrade "1";',
        'Unattended-Upgrade::Package-Blacklist:: "docker.io";',
        'Unattended-Upgrade::Automatic-Reboot "false";',
    ):
        assert line in settings
    timer = host.check_output("systemctl show apt-daily-upgrade.timer --property=TimersCalendar")
    assert "*-*-* 06:00:00" in timer
    assert timer.count("OnCalendar") == 1


def test_an_sd_card_is_spared(pi: Any) -> None:
    assert (
        "Storage=volatile" in pi.file("/etc/systemd/journald.conf.d/50-muster.conf").content_string
    )
    fstab = pi.file("/etc/fstab").content_string.splitlines()
    disks = [line.split()[3] for line in fstab if " ext4 " in line or " vfat " in line]
    assert disks
    assert all("noatime" in options.split(",") for options in disks)
    assert [line for line in fstab if line.startswith("# taken out by the role storage: /var/swap")]
    assert not pi.file("/etc/.fstab.muster-before").exists


def test_what_belongs_to_the_host_of_a_container_is_written_alone(pi: Any) -> None:
    assert "zram-size = 256\n" in pi.file("/etc/systemd/zram-generator.conf").content_string
    assert pi.package("systemd-zram-generator").is_installed
    assert "zram" not in pi.file("/proc/swaps").content_string


def test_what_is_in_memory_comes_with_the_next_start(pi: Any) -> None:
    assert pi.service("tmp.mount").is_enabled
    assert pi.service("muster-logs").is_enabled
    assert pi.run("systemd-analyze verify tmp.mount muster-logs.service").rc == 0


def test_sshd_takes_no_passwords(gate: Any) -> None:
    options = gate.check_output("sshd -T").splitlines()
    for line in ("passwordauthentication no", "permitrootlogin no", "maxauthtries 4"):
        assert line in options
    assert "allowtcpforwarding yes" in options  # a device may be a jump host
    answer = one(gate, "yard-pi").run(
        "ssh -v -o BatchMode=yes -o StrictHostKeyChecking=no nobody@yard-gate true 2>&1; true"
    )
    assert "Authorised access only" in answer.stdout
    assert "Authentications that can continue: publickey\n" in answer.stdout.replace("\r", "")


def test_hardening_keeps_what_edge_devices_need(gate: Any) -> None:
    modules = gate.check_output("modprobe --showconfig")
    assert "install usb_storage /bin/false" in modules.replace("-", "_")
    for needed in ("vfat", "squashfs", "overlay", "wireguard"):
        assert f"install {needed} /bin/false" not in modules
    parameters = gate.file("/etc/sysctl.d/91-muster-hardening.conf").content_string
    assert "kptr_restrict = 1" in parameters
    assert "forward" not in parameters
    assert gate.file("/proc/sys/net/ipv4/ip_forward").content_string.strip() == "1"


def test_a_umask_is_for_people_not_for_programs(gate: Any) -> None:
    assert gate.check_output("sh -l -c umask") == "0027"
    assert gate.check_output("sh -c umask") == "0022"


def test_what_is_not_chosen_does_not_run(pi: Any) -> None:
    assert not pi.file("/etc/ssh/sshd_config.d/00-muster.conf").exists
    assert pi.run("nft list table inet muster").rc != 0


@pytest.mark.parametrize(
    ("port", "open_"),
    [(22, True), (8000, True), (9998, False), (9100, False), (9999, False)],
    ids=["ssh", "published and allowed", "published", "allowed elsewhere", "not allowed"],
)
def test_ports_as_another_device_sees_them(pi: Any, port: int, open_: bool) -> None:
    answer = pi.run("timeout 3 bash -c '</dev/tcp/yard-gate/%s'", str(port))
    assert (answer.rc == 0) is open_


def test_the_firewall_leaves_other_tables_alone_and_starts_with_the_device(gate: Any) -> None:
    tables = gate.check_output("nft list tables").splitlines()
    assert "table inet muster" in tables
    assert "table ip nat" in tables  # the container runtime's
    service = gate.service("muster-firewall")
    assert service.is_enabled
    assert service.is_running
    # what listens is reached from the device itself
    assert gate.run("timeout 3 bash -c '</dev/tcp/127.0.0.1/9999'").rc == 0


def test_no_change_waits_for_anything(host: Any) -> None:
    with host.sudo():
        assert host.check_output("ls /var/lib/muster-undo") == ""
        assert host.service("muster-undo").is_enabled
    assert "muster-undo-" not in host.check_output("systemctl list-timers --all --no-legend")


@pytest.mark.parametrize("suffix", ["key", "conf"])
def test_keys_are_for_root_alone(host: Any, suffix: str) -> None:
    with host.sudo():
        file = host.file(f"/etc/wireguard/wg0.{suffix}")
        assert (file.user, oct(file.mode)) == ("root", "0o600")


def test_the_public_key_is_published(host: Any) -> None:
    published = host.check_output("cat /etc/wireguard/wg0.pub 2>/dev/null || true")
    with host.sudo():
        made = host.check_output("wg pubkey </etc/wireguard/wg0.key")
        assert host.check_output("wg show wg0 public-key") == made
        assert host.check_output("cat /etc/wireguard/wg0.pub") == made
        assert host.check_output("cat /etc/wireguard/wg0.key") not in host.check_output(
            "cat /etc/wireguard/wg0.conf"
        )
    assert published in ("", made)


def test_the_link_carries_traffic_through_the_firewall(pi: Any) -> None:
    key = pi.check_output("cat /etc/wireguard/wg0.pub")
    command = "wg set wg0 peer %s allowed-ips 10.90.0.2/32"
    assert one(pi, "yard-gate").run(command, key).rc == 0
    assert pi.run("ping -c 1 -w 20 10.90.0.1").rc == 0


def test_nothing_failed(host: Any) -> None:
    assert host.check_output("systemctl --failed --no-legend") == ""
