"""What provisioning made of the devices, seen from outside with testinfra."""

# ruff: noqa: S101
from __future__ import annotations

import json
from typing import Any

import pytest

testinfra_hosts = ["ansible://all"]


def document(host: Any, path: str) -> dict[str, Any]:
    file = host.file(path)
    assert (file.user, file.group) == ("root", "root")
    loaded: dict[str, Any] = json.loads(file.content_string)
    return loaded


@pytest.mark.parametrize("name", ["chrony", "unattended-upgrades", "docker.io"])
def test_packages(host: Any, name: str) -> None:
    assert host.package(name).is_installed


@pytest.mark.parametrize("name", ["chrony", "docker"])
def test_services_run_and_start_with_the_device(host: Any, name: str) -> None:
    service = host.service(name)
    assert service.is_running
    assert service.is_enabled


def test_the_clock_of_the_machine_is_left_alone(host: Any) -> None:
    assert " -x" in host.process.get(comm="chronyd", ppid=1).args


def test_the_journal_spares_sd_cards(host: Any) -> None:
    settings = host.file("/etc/systemd/journald.conf.d/50-muster.conf").content_string
    expected = "volatile" if host.backend.get_hostname() == "bench-pi" else "persistent"
    assert f"Storage={expected}\n" in settings


def test_security_updates_hold_what_models_need(host: Any) -> None:
    settings = host.check_output("apt-config dump")
    assert 'APT::Periodic::Unattended-Upgrade "1";' in settings
    assert 'Unattended-Upgrade::Package-Blacklist:: "docker.io";' in settings


def test_the_engine_has_one_configuration(host: Any) -> None:
    settings = document(host, "/etc/docker/daemon.json")
    assert settings["live-restore"] is True
    assert settings["log-driver"] == "local"
    assert ("nvidia" in settings.get("runtimes", {})) is (
        host.backend.get_hostname() == "bench-jetson"
    )


def test_the_engine_trusts_the_registry_of_the_site(host: Any) -> None:
    device = document(host, "/etc/muster/device.json")
    with host.sudo():
        answer = host.run("docker pull %s/none@sha256:%s", device["registry"], 64 * "0")
    assert "unknown" in answer.stderr
    assert "certificate" not in answer.stderr


def test_the_device_program_answers(host: Any) -> None:
    with host.sudo():
        answer = host.run('echo \'{"model": "none"}\' | /usr/local/sbin/muster-device inspect')
    seen = json.loads(answer.stdout)
    assert seen["ok"], seen
    assert seen["runtime"]["ready"]


def test_the_units_of_the_device_program(host: Any) -> None:
    assert host.service("muster-boot").is_enabled
    for unit in ("muster-boot.service", "muster-guard@.service", "muster-model@.service"):
        assert host.run("systemd-analyze verify /etc/systemd/system/%s", unit).rc == 0


def test_the_state_is_for_root_alone(host: Any) -> None:
    folder = host.file("/var/lib/muster")
    assert folder.is_directory
    assert (folder.user, oct(folder.mode)) == ("root", "0o700")


def test_nothing_failed(host: Any) -> None:
    assert host.check_output("systemctl --failed --no-legend") == ""
