"""The broker's configuration, and what may be said about it."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

import pytest

from muster.role_variables import Subject, variable_problems
from roles.hub.broker import CONFIGURATION, OPTIONAL, broker_files, configuration, password_hash
from roles.hub.variables import Variables

CERTIFICATE = "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n"
KEY = "-----BEGIN PRIVATE KEY-----\nMA==\n-----END PRIVATE KEY-----\n"
BRIDGE: dict[str, Any] = {"hub_upstream": "hub.example:8883", "hub_topics_out": ["telemetry/#"]}


def problems(**variables: Any) -> list[str]:
    subject = Subject("n1", (), {"hub_enabled": True, **variables}, Path("/inv/hosts.yml"))
    start = "/inv/hosts.yml: device n1: "
    return [text.removeprefix(start) for text in variable_problems([subject], ["hub"])]


def lines(**variables: Any) -> list[str]:
    return configuration(Variables(**variables), "cam-1").splitlines()


@pytest.fixture
def pem(tmp_path: Path) -> dict[str, str]:
    paths = {"certificate": tmp_path / "a.pem", "key": tmp_path / "a.key"}
    paths["certificate"].write_text(CERTIFICATE)
    paths["key"].write_text(KEY)
    return {name: str(path) for name, path in paths.items()}


def test_what_waits_survives_and_is_limited_as_stated() -> None:
    found = lines(hub_max_queued_messages=500, hub_max_queued_size="1MiB", **BRIDGE)
    for line in (
        "persistence true",
        "autosave_on_changes true",
        "autosave_interval 1",
        "max_queued_messages 500",
        "max_queued_bytes 1048576",
        "cleansession false",
        "local_cleansession false",
    ):
        assert line in found


def test_a_bridge_has_a_session_of_its_own_and_topics_with_a_prefix() -> None:
    found = lines(**BRIDGE, hub_topics_in=["orders/#"], hub_upstream_prefix="cam-1/")
    assert "remote_clientid cam-1" in found
    assert 'topic telemetry/# out 1 "" cam-1/' in found
    assert 'topic orders/# in 1 "" cam-1/' in found
    assert "bridge_capath /etc/ssl/certs" in found


def test_without_upstream_there_is_no_bridge() -> None:
    assert not [line for line in lines() if line.startswith(("connection", "topic", "bridge"))]


def test_secrets_are_in_files_for_the_broker_alone(pem: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "password").write_text("of-the-bridge\n")
    variables = Variables(
        hub_listeners=[{"address": "0.0.0.0", "port": 8883, "tls": True}],
        hub_certificate=pem["certificate"],
        hub_key=pem["key"],
        hub_users={"cam": {"password": "of-a-camera", "write": ["cam/#"], "read": []}},
        hub_upstream_user="bridge",
        hub_upstream_password_file=str(tmp_path / "password"),
        **BRIDGE,
    )
    files = {file.path: file for file in broker_files(variables, "cam-1")}
    assert {(file.mode, file.owner) for file in files.values()} == {("600", "mosquitto:mosquitto")}
    assert "remote_password of-the-bridge\n" in files[CONFIGURATION].content
    assert "of-a-camera" not in "".join(file.content for file in files.values())
    assert files["/etc/mosquitto/muster/topics"].content == "user cam\ntopic write cam/#\n"
    assert set(files) - {CONFIGURATION} < set(OPTIONAL)
    assert "of-a-camera" not in repr(files["/etc/mosquitto/muster/passwords"])


def test_password_hashes_are_those_of_mosquitto_and_the_same_every_time() -> None:
    first = password_hash("word", "cam-1 user")
    assert first == password_hash("word", "cam-1 user") != password_hash("word", "cam-2 user")
    _, kind, rounds, salt, key = first.split("$")
    expected = hashlib.pbkdf2_hmac("sha512", b"word", base64.b64decode(salt), int(rounds))
    assert (kind, base64.b64decode(key)) == ("7", expected)
    assert len(base64.b64decode(salt)) == 12  # what mosquitto expects


def test_only_listeners_that_others_reach_are_opened() -> None:
    listeners = [
        {"address": "127.0.0.1", "port": 1883},
        {"address": "::1", "port": 1884},
        {"address": "10.0.0.1", "port": 8883},
    ]
    variables = Variables(hub_listeners=listeners, hub_allow_anonymous=True)
    assert [port.port for port in variables.opens()] == [8883]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"hub_enabled": "perhaps"}, "hub_enabled: expected a valid boolean"),
        ({"hub_listeners": [{"adress": "::1"}]}, "hub_listeners: 0.adress: Extra inputs"),
        ({"hub_listeners": [{"address": "1.2.3"}]}, "hub_listeners: 0: expected an IP address"),
        ({"hub_listeners": [{"port": 70000}]}, "hub_listeners: 0.port: expected less than"),
        ({"hub_listeners": [{}, {}]}, "hub_listeners: expected each address and port once"),
        ({"hub_listeners": [{"tls": True}]}, "hub_certificate: expected a file"),
        ({"hub_listeners": [{"address": "10.0.0.1"}]}, "hub_users: expected users"),
        ({"hub_upstream": "hub.example"}, "hub_upstream: "),
        ({"hub_upstream": "hub:1883"}, "hub_topics_out: expected topics for the bridge, got none"),
        ({"hub_topics_in": ["a"]}, "hub_topics_in: expected hub_upstream with it"),
        ({**BRIDGE, "hub_topics_in": ["telemetry/#"]}, "expected no topic in both directions"),
        ({**BRIDGE, "hub_topics_out": ["a/#/b"]}, "hub_topics_out: 0: expected a topic filter"),
        ({**BRIDGE, "hub_topics_out": ["a b"]}, "hub_topics_out: 0: expected a topic filter"),
        ({**BRIDGE, "hub_topics_out": ["a\nuser x"]}, "hub_topics_out: 0: expected a topic"),
        ({**BRIDGE, "hub_topics_out": ["sensor+"]}, "hub_topics_out: 0: expected a topic filter"),
        ({**BRIDGE, "hub_upstream_user": "u"}, "hub_upstream_user: expected user and password"),
        ({**BRIDGE, "hub_upstream_tls": False, "hub_upstream_ca": "/etc/hostname"}, "without one"),
        ({**BRIDGE, "hub_upstream_prefix": "cam"}, "hub_upstream_prefix: "),
        ({**BRIDGE, "hub_upstream_password_file": "/nowhere"}, "No such file"),
        ({"hub_users": {"u": {}}}, "hub_users: u: expected either password or password_file"),
        ({"hub_max_queued_message": 5}, "did you mean hub_max_queued_messages?"),
    ],
)
def test_wrong_values(variables: dict[str, Any], expected: str) -> None:
    found = problems(**variables)
    assert any(expected in text for text in found), found


@pytest.mark.parametrize(
    "variables",
    [
        {"hub_upstream_password": ["geheim"], "hub_upstream_user": "u"},
        {"hub_upstream_password": "geheim\nx", "hub_upstream_user": "u"},
        {"hub_users": {"u": {"pasword": "geheim"}}},
        {"hub_users": {"u": {"password": {"x": "geheim"}}}},
        {"hub_users": {"u": "geheim"}},
    ],
)
def test_no_error_tells_a_secret(variables: dict[str, Any]) -> None:
    found = problems(**BRIDGE, **variables)
    assert found
    assert "geheim" not in "".join(found)


def test_a_device_without_a_hub_is_not_asked_for_one() -> None:
    subject = Subject("n1", (), {"hub_upstream": "x"}, Path("/inv/hosts.yml"))
    assert variable_problems([subject], ["hub"]) == []
