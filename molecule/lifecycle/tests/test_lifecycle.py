"""Devices that live on: brought up, and brought up again after a restart and a reset."""

# ruff: noqa: S101
from __future__ import annotations

import json
from typing import Any

testinfra_hosts = ["ansible://all"]


def ask(host: Any, program: str, document: str) -> dict[str, Any]:
    with host.sudo():
        answer = host.run(f"echo '{document}' | /usr/local/sbin/{program} inspect")
    seen: dict[str, Any] = json.loads(answer.stdout)
    assert seen["ok"], seen
    return seen


def test_the_device_program_is_ready_for_a_model(host: Any) -> None:
    seen = ask(host, "muster-device", '{"model": "digits"}')
    assert seen["runtime"]["ready"]
    assert seen["model"]["phase"] == "idle"
    assert seen["model"]["current"] is None


def test_no_task_is_under_way(host: Any) -> None:
    task = json.dumps({"task": {"action": "reboot", "id": "reboot-000000000000"}})
    with host.sudo():
        answer = host.run(f"echo '{task}' | /usr/local/sbin/muster-task inspect")
    assert json.loads(answer.stdout)["model"]["phase"] == "idle", answer.stdout


def test_the_registry_is_trusted(host: Any) -> None:
    registry = json.loads(host.file("/etc/muster/device.json").content_string)["registry"]
    runtime = json.loads(host.file("/etc/muster/device.json").content_string)["runtime"]
    with host.sudo():
        answer = host.run(f"{runtime} pull %s/none@sha256:%s", registry, 64 * "0")
    assert "unknown" in answer.stderr
    assert "certificate" not in answer.stderr


def test_it_starts_its_models_by_itself(host: Any) -> None:
    assert host.service("muster-boot").is_enabled


def test_nothing_failed(host: Any) -> None:
    assert host.check_output("systemctl --failed --no-legend") == ""
