"""The broker of a site and that of a device, seen from outside with testinfra.

What they do when the link is cut is in tests/integration/test_hub.py.
"""

# ruff: noqa: S101
from __future__ import annotations

import time
from typing import Any

import pytest
import testinfra

testinfra_hosts = ["ansible://all"]

COLLECTOR = "-u collector -P collects-everything"


def is_server(host: Any) -> bool:
    return bool(host.backend.get_hostname() == "quay-server")


@pytest.fixture
def cam(request: pytest.FixtureRequest) -> Any:
    inventory = request.config.getoption("--ansible-inventory")
    return testinfra.get_host("ansible://quay-cam", ansible_inventory=inventory)


def test_the_broker_runs_and_starts_with_the_device(host: Any) -> None:
    service = host.service("mosquitto")
    assert service.is_running
    assert service.is_enabled


def test_it_listens_where_it_should(host: Any) -> None:
    listening = host.check_output("ss -Hltn 'sport = :1883 or sport = :8883'")
    expected = ("127.0.0.1:1883", "0.0.0.0:8883" if is_server(host) else "172.17.0.1:1883")
    assert all(place in listening for place in expected)
    assert len(listening.splitlines()) == len(expected)


def test_keys_and_passwords_are_for_the_broker_alone(host: Any) -> None:
    with host.sudo():
        found = host.check_output("stat -c '%a %U:%G' /etc/mosquitto/mosquitto.conf")
        found += "\n" + host.check_output(
            "find /etc/mosquitto/muster -type f -exec stat -c '%a %U:%G' {} +"
        )
        assert set(found.split("\n")) == {"600 mosquitto:mosquitto"}
        assert host.run("grep -r collects-everything /etc/mosquitto").rc == 1
        said = host.check_output("journalctl --no-pager --unit mosquitto.service")
        assert "camera's word" not in said


def test_nothing_is_left_of_former_settings(host: Any) -> None:
    with host.sudo():
        names = set(host.check_output("ls /etc/mosquitto/muster").split())
        hidden = host.check_output("find /etc/mosquitto -name '.*.muster-*'")
    server = {"listener.crt", "listener.key", "passwords", "topics"}
    assert names == (server if is_server(host) else {"upstream-ca.crt"})
    assert hidden == ""


def test_whom_the_broker_lets_in(host: Any) -> None:
    if not is_server(host):
        assert host.run("mosquitto_pub -t x -m x").rc == 0
        return
    assert "not authorised" in host.run("mosquitto_pub -t x -m x").stderr
    assert "not authorised" in host.run("mosquitto_pub -u collector -P x -t x -m x").stderr
    assert host.run(f"mosquitto_pub {COLLECTOR} -t x -m x").rc == 0


def test_a_message_reaches_the_site_over_tls(host: Any, cam: Any) -> None:
    if not is_server(host):
        return
    word = f"m{time.time_ns()}"
    cam.check_output("mosquitto_pub -t telemetry/test -q 1 -r -m %s", word)
    host.check_output(
        f"timeout 60 mosquitto_sub {COLLECTOR} -t quay-cam/telemetry/test | grep -qm 1 {word}"
    )


def test_nothing_failed(host: Any) -> None:
    assert host.check_output("systemctl --failed --no-legend") == ""
