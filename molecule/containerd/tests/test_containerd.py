"""What provisioning made of a device with containerd, seen from outside with testinfra."""

# ruff: noqa: S101
from __future__ import annotations

import json
from typing import Any

import pytest

testinfra_hosts = ["ansible://all"]


@pytest.mark.parametrize("name", ["containerd", "containernetworking-plugins"])
def test_packages(host: Any, name: str) -> None:
    assert host.package(name).is_installed


def test_containerd_runs_and_starts_with_the_device(host: Any) -> None:
    service = host.service("containerd")
    assert service.is_running
    assert service.is_enabled


def test_the_device_program_speaks_to_it(host: Any) -> None:
    with host.sudo():
        answer = host.run('echo \'{"model": "none"}\' | /usr/local/sbin/muster-device inspect')
    seen = json.loads(answer.stdout)
    assert seen["ok"], seen
    assert seen["runtime"]["name"] == "containerd"
    assert seen["runtime"]["ready"]


def test_containerd_takes_its_configuration(host: Any) -> None:
    with host.sudo():
        loaded = host.check_output("containerd config dump")
    assert 'config_path = "/etc/containerd/certs.d"' in loaded
    assert 'bin_dir = "/usr/lib/cni"' in loaded


def test_containerd_trusts_the_registry_of_the_site(host: Any) -> None:
    registry = json.loads(host.file("/etc/muster/device.json").content_string)["registry"]
    command = "ctr images pull --hosts-dir /etc/containerd/certs.d %s/none@sha256:%s"
    with host.sudo():
        answer = host.run(command, registry, 64 * "0")
    assert "not found" in answer.stderr
    assert "x509" not in answer.stderr


def test_models_start_after_containerd(host: Any) -> None:
    for unit in ("muster-boot.service", "muster-model@digits.service"):
        shown = host.check_output("systemctl show --property=Wants --property=After %s", unit)
        assert shown.count("containerd.service") == 2
        assert "docker" not in shown


def test_nothing_failed(host: Any) -> None:
    assert host.check_output("systemctl --failed --no-legend") == ""
