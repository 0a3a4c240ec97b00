"""Time, storage, watchdog, updates, hardening, firewall and site link: what is decided."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from muster.errors import InputError
from muster.inventory import Device, Inventory
from muster.role_variables import check_variables
from roles.facts import SshSession
from roles.firewall.deploy import opened
from roles.firewall.ruleset import Rules, ruleset
from roles.firewall.ruleset import ssh_problem as firewall_problem
from roles.firewall.variables import Variables as Firewall
from roles.hardening.exceptions import MODULES_KEPT, MODULES_OFF, PARAMETERS, PARAMETERS_KEPT
from roles.hardening.settings import (
    login_files,
    module_file,
    ssh_problem,
    sshd_file,
    sshd_options,
    sysctl_file,
)
from roles.hardening.variables import Variables as Hardening
from roles.storage.fstab import adjusted, changed_mounts
from roles.storage.settings import journald_file, zram_file
from roles.storage.variables import Variables as Storage
from roles.time.deploy import chrony_files, keeps_time_in_file
from roles.time.variables import Variables as Time
from roles.updates.deploy import apt_files
from roles.updates.variables import Variables as Updates
from roles.variables import OpenPort
from roles.watchdog.facts import FoundWatchdog
from roles.watchdog.limits import problem as watchdog_problem
from roles.wireguard.settings import configuration, link_files
from roles.wireguard.variables import Variables as Wireguard

PRIVATE = "eJcZX0pbMqfTbsXOsg6RGAtHHKD6mFKwcfFd8S/QJEQ="
PUBLIC = "sBBu9xB6HFfBExwlF21zOD1zTf2N1pVL1kPwiWUByzc="
OTHER = "88SiugxctTEtVyIpGLjmvpc9SUEtlqI77ZJyfuXbeRc="
PEER = {"public_key": PUBLIC, "allowed_ips": ["10.90.0.0/24"], "endpoint": "vpn.example.com:51820"}
LINK = {
    "wireguard_enabled": True,
    "wireguard_addresses": ["10.90.0.5/24"],
    "wireguard_peers": [PEER],
}
ROLES = ["time", "storage", "watchdog", "updates", "hardening", "firewall", "wireguard"]


def problems(**variables: Any) -> list[str]:
    device = Device("n1", "n1", 22, None, None, (), variables)
    try:
        check_variables(Inventory(Path("/somewhere/hosts.yml"), (device,)), ROLES)
    except InputError as error:
        return error.problems
    return []


@pytest.mark.parametrize(
    ("variables", "part"),
    [
        # wrong type
        ({"time_set_clock": "perhaps"}, "time_set_clock: expected a valid boolean"),
        ({"time_nts_ca": "/nowhere.pem"}, "time_nts_ca: expected a PEM file"),
        ({"storage_journal_max_size": "much"}, "storage_journal_max_size: expected a size"),
        ({"storage_swap": "some"}, "'keep', 'none' or 'zram'"),
        ({"watchdog_reboot": -1}, "watchdog_reboot: expected a duration"),
        ({"watchdog_device": "watchdog1"}, "watchdog_device"),
        ({"updates_at": "6 o'clock"}, "updates_at"),
        ({"updates_at": 360}, "updates_at"),  # 6:00 without quotes
        ({"updates_origins": ['a "quote"']}, "updates_origins"),
        ({"hardening_enabled": True, "hardening_umask": 27}, "hardening_umask"),
        ({"hardening_enabled": True, "hardening_ssh_root": "yes"}, "'no' or 'prohibit-password'"),
        ({"hardening_enabled": True, "hardening_banner": "\x1b[2J"}, "expected plain text"),
        ({"hardening_enabled": "sometimes"}, "hardening_enabled: expected a valid boolean"),
        ({"firewall_enabled": True, "firewall_allow": [{"port": 0}]}, "firewall_allow: 0.port"),
        ({"firewall_enabled": True, "firewall_allow": [{"prot": 1, "port": 1}]}, "0.prot"),
        ({"firewall_enabled": True, "firewall_ssh_sources": ["office"]}, "such as 10.1.0.0/16"),
        ({"firewall_enabled": True, "firewall_ssh_sources": ["10.1.0.7/16"]}, "10.1.0.7/16"),
        ({"firewall_enabled": True, "firewall_confirm_within": "5s"}, "firewall_confirm_within"),
        ({**LINK, "wireguard_addresses": ["10.90.0.5"]}, "with the length of its network"),
        ({**LINK, "wireguard_interface": "a name"}, "wireguard_interface"),
        ({**LINK, "wireguard_peers": [{**PEER, "endpoint": "vpn"}]}, "0.endpoint"),
        ({**LINK, "wireguard_peers": [{**PEER, "public_key": "short"}]}, "expected a key"),
        # something is missing
        ({"wireguard_enabled": True, "wireguard_peers": [PEER]}, "wireguard_addresses: expected"),
        ({**LINK, "wireguard_peers": []}, "wireguard_peers"),
        (
            {**LINK, "wireguard_private_key_from": "inventory"},
            "wireguard_private_key: expected a private key, as wireguard_private_key_from is",
        ),
        # contradictory
        ({"time_nts": True}, "expected time_servers that speak NTS"),
        ({"storage_zram_size": "1GiB"}, "expected storage_swap to be zram"),
        ({"storage_zram_size": "1GiB", "storage_swap": "none"}, "got none"),
        ({"storage_logs": "32MiB"}, "storage_logs: expected storage_journal to be volatile"),
        (
            {"hardening_enabled": True, "hardening_sysctl": {"net.ipv4.ip_forward": 0}},
            "containers and the site link",
        ),
        (
            {"hardening_enabled": True, "hardening_modules": ["vfat"]},
            "hardening_modules: expected no vfat, as the boot partition of a Raspberry Pi",
        ),
        ({"hardening_enabled": True, "hardening_modules": ["usb-storage"]}, "usb_storage decides"),
        ({**LINK, "wireguard_private_key": PRIVATE}, "expected no private key"),
        ({**LINK, "wireguard_peers": [PEER, PEER]}, "expected each peer once"),
        # typing errors
        ({"time_server": []}, "did you mean time_servers?"),
        ({"storage_jurnal": "volatile"}, "did you mean storage_journal?"),
        ({"watchdog_runtimes": 1}, "did you mean watchdog_runtime?"),
        ({"updates_origin": []}, "did you mean updates_origins?"),
        ({"hardening_usb_storag": False}, "did you mean hardening_usb_storage?"),
        ({"firewall_enable": True}, "did you mean firewall_enabled?"),
        ({"wireguard_peer": []}, "did you mean wireguard_peers?"),
        ({**LINK, "wireguard_peers": [{**PEER, "keep_alive": 1}]}, "did you mean keepalive?"),
    ],
)
def test_wrong_values(variables: dict[str, Any], part: str) -> None:
    (problem,) = problems(**variables)
    assert part in problem


@pytest.mark.parametrize(
    "variables",
    [
        {"wireguard_private_key": f"{PRIVATE[:-1]}", "wireguard_private_key_from": "inventory"},
        {"wireguard_private_key": PRIVATE},
        {"wireguard_peers": [{**PEER, "preshared_key": f"x{PRIVATE}"}]},
        {"wireguard_peers": [{**PEER, "preshard_key": PRIVATE}]},
        {"wireguard_peers": [{**PEER, "preshared_key": [PRIVATE]}]},
    ],
)
def test_no_error_tells_a_secret(variables: dict[str, Any]) -> None:
    found = (
        problems(**LINK, **variables)
        if "wireguard_peers" not in variables
        else problems(**{**LINK, **variables})
    )
    assert len(found) == 1
    assert PRIVATE[:-1] not in found[0]


def test_what_is_not_chosen_needs_no_values() -> None:
    assert problems() == []
    assert problems(wireguard_enabled=False) == []


class TestTime:
    """chrony and the clock."""

    def text(self, container: bool = False, clock: bool = True, **variables: Any) -> str:
        return chrony_files(Time(**variables), container=container, clock=clock)[0].content

    def test_no_container_sets_the_clock_of_its_host(self) -> None:
        _, options = chrony_files(Time(), container=True, clock=True)
        assert "-x" in options.content
        assert "makestep" not in self.text(container=True)
        assert "makestep" in self.text()
        assert not keeps_time_in_file("always", container=True, clock=False)

    def test_a_clock_in_a_file_is_for_devices_without_one(self) -> None:
        assert keeps_time_in_file("auto", container=False, clock=False)
        assert not keeps_time_in_file("auto", container=False, clock=True)
        assert keeps_time_in_file("always", container=False, clock=True)
        assert not keeps_time_in_file("never", container=False, clock=False)

    def test_servers_prove_who_they_are(self) -> None:
        with_clock = self.text(time_servers=["ntp.site"], time_nts=True)
        assert "server ntp.site iburst nts\n" in with_clock
        assert "nocerttimecheck" not in with_clock
        without = self.text(time_servers=["ntp.site"], time_nts=True, clock=False)
        assert "nocerttimecheck 1\n" in without
        assert "pool ntp.site iburst" in self.text(time_servers=["ntp.site"])


FSTAB = [
    "# a comment ext4 defaults",
    "UUID=1 / ext4 defaults,errors=remount-ro 0 1",
    "UUID=2\t/data\text4\trelatime  0  2",
    "/dev/sda1 /usb vfat noatime 0 0",
    "tmpfs /tmp tmpfs size=1m 0 0",
    "/var/swap none swap sw 0 0",
    "",
]


class TestStorage:
    """fstab, journal and swap."""

    def test_reading_a_file_writes_nothing_on_disks(self) -> None:
        after = adjusted(FSTAB, noatime=True, swap=True)
        assert after[1:4] == [
            "UUID=1 / ext4 defaults,errors=remount-ro,noatime 0 1",
            "UUID=2\t/data\text4\tnoatime  0  2",
            "/dev/sda1 /usb vfat noatime 0 0",
        ]
        assert [after[i] for i in (0, 4, 5, 6)] == [FSTAB[i] for i in (0, 4, 5, 6)]
        assert changed_mounts(FSTAB, after) == ["/", "/data"]
        assert adjusted(after, noatime=True, swap=True) == after

    def test_swap_is_commented_out_once(self) -> None:
        after = adjusted(FSTAB, noatime=False, swap=False)
        assert after[5] == "# taken out by the role storage: /var/swap none swap sw 0 0"
        assert after[:5] == FSTAB[:5]
        assert adjusted(after, noatime=False, swap=False) == after
        assert changed_mounts(FSTAB, after) == []

    def test_compressed_swap_has_a_size(self) -> None:
        assert "zram-size = min(ram / 2, 4096)\n" in zram_file(Storage(storage_swap="zram")).content
        sized = zram_file(Storage(storage_swap="zram", storage_zram_size="256MiB")).content
        assert "zram-size = 256\n" in sized

    def test_the_journal_has_limits(self) -> None:
        text = journald_file(
            Storage(storage_journal="volatile", storage_journal_max_size=1)
        ).content
        assert "Storage=volatile\nSystemMaxUse=1\nRuntimeMaxUse=1\n" in text
        assert "MaxRetentionSec=2592000\nSyncIntervalSec=300\n" in text


@pytest.mark.parametrize(
    ("found", "seconds", "limit"),
    [
        (None, 600, None),
        (FoundWatchdog("iTCO_wdt", 0), 600, None),
        (FoundWatchdog("iTCO_wdt", 60), 60, None),
        (FoundWatchdog("iTCO_wdt", 60), 61, "at most 60 s"),
        (FoundWatchdog("Broadcom BCM2835 Watchdog timer", 0), 15, None),
        (FoundWatchdog("Broadcom BCM2835 Watchdog timer", 0), 16, "at most 15 s"),
        (FoundWatchdog("Broadcom BCM2835 Watchdog timer", 600), 30, "watchdog_runtime is 30 s"),
    ],
)
def test_no_watchdog_is_asked_for_more_than_it_can_count(
    found: FoundWatchdog | None, seconds: float, limit: str | None
) -> None:
    problem = watchdog_problem(found, {"watchdog_runtime": seconds, "watchdog_reboot": 0})
    assert (problem is None) is (limit is None)
    assert limit is None or limit in str(problem)


def test_security_updates_hold_what_models_need_and_never_restart() -> None:
    variables = Updates(updates_hold=["docker.io"], updates_hold_drivers=["nvidia-.*"])
    periodic, settings, restarts = apt_files(variables)
    assert 'APT::Periodic::Unattended-Upgrade "1";' in periodic.content
    assert '        "docker.io";\n        "nvidia-.*";\n' in settings.content
    assert 'Unattended-Upgrade::Automatic-Reboot "false";' in settings.content
    assert "docker" in restarts.content
    off, *_ = apt_files(Updates(updates_automatic=False))
    assert 'Unattended-Upgrade "0";' in off.content


BY_KEY = SshSession("ops", "192.0.2.7", (22,))


class TestHardening:
    """What changes, and what has to stay."""

    def test_the_role_itself_keeps_its_exceptions(self) -> None:
        assert not {*PARAMETERS} & {*PARAMETERS_KEPT}
        assert not {name.replace("-", "_") for name in MODULES_OFF} & {*MODULES_KEPT}
        text = sysctl_file(Hardening(hardening_sysctl={"kernel.kptr_restrict": None})).content
        assert "forward" not in text
        assert "kptr_restrict" not in text
        assert "-net.ipv4.conf.all.rp_filter = 2\n" in text

    def test_usb_disks_may_be_locked_out(self) -> None:
        assert "usb-storage" not in module_file(Hardening()).content
        text = module_file(Hardening(hardening_usb_storage=False)).content
        assert "install usb-storage /bin/false\n" in text
        assert "install uas /bin/false\n" in text

    def test_settings_of_sshd(self) -> None:
        options = sshd_options(Hardening(hardening_ssh_root="prohibit-password"))
        assert options["passwordauthentication"] == options["kbdinteractiveauthentication"] == "no"
        assert options["permitrootlogin"] == "without-password"
        assert "allowtcpforwarding" not in options
        assert sshd_file(Hardening()).mode == "600"

    def test_people_get_a_umask_and_no_core_dumps(self) -> None:
        shell, limits, dumps, banner = (file.content for file in login_files(Hardening()))
        assert shell.endswith("\numask 027\n")
        assert limits.endswith("\n* hard core 0\n")
        assert "Storage=none" in dumps
        assert banner == "Authorised access only. What is done here is logged.\n"

    @pytest.mark.parametrize(
        ("variables", "session", "keys", "by_password", "part"),
        [
            ({}, BY_KEY, 1, False, None),
            ({}, BY_KEY, 0, False, "expected a key of ops on the device"),
            ({}, BY_KEY, 1, True, "expected an inventory that logs in by key"),
            ({"hardening_ssh_passwords": True}, BY_KEY, 0, True, None),
            ({}, SshSession("root", "192.0.2.7", (22,)), 1, False, "hardening_ssh_root"),
            (
                {"hardening_ssh_root": "prohibit-password"},
                SshSession("root", "192.0.2.7", (22,)),
                1,
                False,
                None,
            ),
            ({}, SshSession(), 0, False, None),
        ],
    )
    def test_nobody_is_locked_out(
        self,
        variables: dict[str, Any],
        session: SshSession,
        keys: int,
        by_password: bool,
        part: str | None,
    ) -> None:
        problem = ssh_problem(Hardening(**variables), session, keys=keys, by_password=by_password)
        assert (problem is None) is (part is None)
        assert part is None or part in str(problem)


class TestFirewall:
    """The rules."""

    def test_what_roles_open_and_the_inventory_allows_is_open(self) -> None:
        inventory = {
            **LINK,
            "muster_registry": "reg:5000",
            "wireguard_listen_port": 51820,
            "firewall_allow": [{"port": 8000, "why": "models", "sources": ["10.1.0.0/16"]}],
        }
        ports = opened(inventory, Firewall.model_validate(inventory))
        assert OpenPort(51820, "udp", "site link") in ports
        assert ports[-1] == OpenPort(8000, "tcp", "models", ("10.1.0.0/16",))
        off = opened({**inventory, "wireguard_enabled": False}, Firewall())
        assert OpenPort(51820, "udp", "site link") not in off

    def test_ssh_is_always_open_at_every_port_of_its(self) -> None:
        text = ruleset(Firewall(), Rules((2222, 22), ()))
        assert "tcp dport 22 accept" in text
        assert "tcp dport 2222 accept" in text
        assert "type filter hook input priority filter; policy drop;" in text

    def test_only_our_own_table_is_replaced(self) -> None:
        text = ruleset(Firewall(), Rules((22,), ()))
        assert "flush" not in text
        assert [line for line in text.splitlines() if line.startswith(("table", "delete"))] == [
            "table inet muster",
            "delete table inet muster",
            "table inet muster {",
        ]

    def test_sources_are_networks_of_both_kinds(self) -> None:
        port = OpenPort(9100, "tcp", "metrics", ("10.0.0.0/8", "192.0.2.7/32", "fd00::/8"))
        text = ruleset(Firewall(), Rules((22,), [port]))
        comment = 'comment "metrics"'
        assert f"ip saddr {{ 10.0.0.0/8, 192.0.2.7/32 }} tcp dport 9100 accept {comment}\n" in text
        assert f"ip6 saddr {{ fd00::/8 }} tcp dport 9100 accept {comment}\n" in text
        assert "\t\ttcp dport 9100" not in text

    def test_ports_of_containers_are_closed_too(self) -> None:
        port = OpenPort(8000, "tcp", "models")
        text = ruleset(Firewall(), Rules((22,), [port]))
        assert "ct status dnat jump published" in text
        assert 'meta l4proto tcp ct original proto-dst 8000 accept comment "models"' in text
        assert "published" not in ruleset(Firewall(firewall_containers=False), Rules((22,), [port]))

    @pytest.mark.parametrize(
        ("sources", "session", "part"),
        [
            ((), BY_KEY, None),
            (("192.0.2.0/24",), BY_KEY, None),
            (("192.0.2.0/24",), SshSession("ops", "::ffff:192.0.2.7", (22,)), None),
            (("fe80::/10",), SshSession("ops", "fe80::1%eth0", (22,)), None),
            (("198.51.100.0/24", "fd00::/8"), BY_KEY, "to have 192.0.2.7"),
            (("198.51.100.0/24",), SshSession("", None, (22,)), None),
            ((), SshSession("ops", "192.0.2.7", ()), "the port of SSH"),
        ],
    )
    def test_the_controller_does_not_lock_itself_out(
        self, sources: tuple[str, ...], session: SshSession, part: str | None
    ) -> None:
        problem = firewall_problem(sources, session)
        assert (problem is None) is (part is None)
        assert part is None or part in str(problem)


class TestWireguard:
    """The link."""

    def test_the_configuration_has_no_private_key(self) -> None:
        variables = Wireguard(
            **{**LINK, "wireguard_peers": [{**PEER, "preshared_key": PRIVATE, "keepalive": 0}]},
            wireguard_private_key_from="inventory",
            wireguard_private_key=OTHER,
            wireguard_mtu=1380,
        )
        text = configuration(variables)
        assert OTHER not in text
        assert "PostUp = wg set %i private-key /etc/wireguard/%i.key\n" in text
        assert "MTU = 1380\n" in text
        assert f"PresharedKey = {PRIVATE}\n" in text
        assert "PersistentKeepalive" not in text
        conf, _, key = link_files(variables)
        assert (conf.mode, key.mode) == ("600", "600")
        assert (key.path, key.content) == ("/etc/wireguard/wg0.key", f"{OTHER}\n")

    def test_a_key_of_the_device_is_never_written_from_here(self) -> None:
        files = link_files(Wireguard(**LINK, wireguard_interface="site"))
        assert [file.path for file in files] == [
            "/etc/wireguard/site.conf",
            "/etc/systemd/system/wg-quick@site.service.d/50-muster.conf",
        ]
        assert "PersistentKeepalive = 25\n" in files[0].content
