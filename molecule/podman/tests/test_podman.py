"""What provisioning made of a device with Podman, seen from outside with testinfra."""

# ruff: noqa: S101
from __future__ import annotations

import json
from typing import Any

import pytest

testinfra_hosts = ["ansible://all"]


def test_podman_answers(host: Any) -> None:
    with host.sudo():
        answer = host.run('echo \'{"model": "none"}\' | /usr/local/sbin/muster-device inspect')
    seen = json.loads(answer.stdout)
    assert seen["ok"], seen
    assert seen["runtime"]["name"] == "podman"
    assert seen["runtime"]["ready"]


@pytest.mark.parametrize("unit", ["podman.socket", "podman.service", "podman-auto-update.timer"])
def test_nothing_of_podman_runs_by_itself(host: Any, unit: str) -> None:
    service = host.service(unit)
    assert not service.is_running
    assert not service.is_enabled


def test_podman_trusts_the_registry_of_the_site(host: Any) -> None:
    registry = json.loads(host.file("/etc/muster/device.json").content_string)["registry"]
    with host.sudo():
        answer = host.run("podman pull %s/none@sha256:%s", registry, 64 * "0")
    assert "unknown" in answer.stderr
    assert "certificate" not in answer.stderr


def test_images_of_other_registries_are_refused(host: Any) -> None:
    with host.sudo():
        answer = host.run("podman pull docker://127.0.0.1:9/none@sha256:%s", 64 * "0")
        policy = json.loads(host.file("/etc/containers/policy.json").content_string)
    assert answer.rc != 0
    assert policy["default"] == [{"type": "reject"}]
    assert list(policy["transports"]["docker"]) == ["registry:5000"]


def test_the_units_need_no_engine(host: Any) -> None:
    for unit in ("muster-boot.service", "muster-model@digits.service"):
        wanted = host.check_output("systemctl show --property=Wants --value %s", unit)
        assert "docker" not in wanted
    assert not host.service("docker").is_running


def test_nothing_failed(host: Any) -> None:
    assert host.check_output("systemctl --failed --no-legend") == ""
