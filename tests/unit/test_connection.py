"""Ansible's connection variables as pyinfra's data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from paramiko import SSHConfig
from pyinfra.api import StringCommand
from pyinfra.connectors.util import make_unix_command_for_host

from muster.become import PASSWORD, PLACEHOLDER, install_askpass
from muster.connection import VariableError, connection_data
from muster.errors import InputError
from muster.inventory import Device, Inventory, pyinfra_data, pyinfra_hosts, pyinfra_name
from muster.secret import Secret


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSTER_CACHE_DIR", str(tmp_path / "cache"))


def data(**variables: Any) -> dict[str, Any]:
    return connection_data(variables, "box")


def arguments(text: str) -> dict[str, Any]:
    return data(ansible_ssh_common_args=text)


def device(name: str = "box", **variables: Any) -> Device:
    return Device(name, "192.0.2.1", 22, None, None, (), variables)


def test_defaults_pin_host_keys_and_bound_everything() -> None:
    found = data()
    assert found["ssh_hostname"] == "box"
    assert found["ssh_strict_host_key_checking"] == "yes"
    assert set(found["ssh_paramiko_connect_kwargs"]) == {
        "banner_timeout",
        "auth_timeout",
        "channel_timeout",
    }
    assert found["_timeout"] > 0
    # what nobody said is left to the user's configuration of ssh
    assert not {"ssh_user", "ssh_port", "ssh_key", "_sudo", "ssh_config_file"} & set(found)


def test_address_user_port_and_key(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.touch()
    found = data(
        ansible_host="192.0.2.7",
        ansible_port="2222",
        ansible_user="ops",
        ansible_ssh_private_key_file=str(key),
        ansible_timeout=4,
    )
    assert (found["ssh_hostname"], found["ssh_port"], found["ssh_user"]) == (
        "192.0.2.7",
        2222,
        "ops",
    )
    assert found["ssh_key"] == str(key)
    assert found["ssh_paramiko_connect_kwargs"]["timeout"] == 4


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"ansible_become": True}, {"_sudo": True}),
        ({"ansible_become": "yes", "ansible_become_user": "root"}, {"_sudo": True}),
        ({"ansible_become": 1, "ansible_become_user": "app"}, {"_sudo": True, "_sudo_user": "app"}),
        ({"ansible_become": True, "ansible_become_method": "doas"}, {"_doas": True}),
        ({"ansible_become": "no", "ansible_become_user": "app"}, {}),
    ],
)
def test_become(variables: dict[str, Any], expected: dict[str, Any]) -> None:
    found = data(**variables)
    assert {k: v for k, v in found.items() if k.startswith("_") and k != "_timeout"} == expected


def test_host_keys_and_harmless_options() -> None:
    found = arguments(
        "-C -o ControlMaster=auto -o 'ControlPath=/tmp/%C' -o UserKnownHostsFile=/k/hosts"
        " -oStrictHostKeyChecking=accept-new -o IdentitiesOnly=yes -o ServerAliveInterval=3"
    )
    assert found["ssh_known_hosts_file"] == "/k/hosts"
    assert found["ssh_strict_host_key_checking"] == "accept-new"
    assert "ssh_config_file" not in found


def test_nobody_is_asked_about_a_host_key() -> None:
    assert arguments("-o StrictHostKeyChecking=ask")["ssh_strict_host_key_checking"] == "yes"
    assert data(ansible_host_key_checking=False)["ssh_strict_host_key_checking"] == "no"


@pytest.mark.parametrize(
    ("text", "option", "value"),
    [
        ("-J ops@jump:2200", "proxyjump", "ops@jump:2200"),
        ("-o ProxyJump=a,b", "proxyjump", "a,b"),
        (
            "-o ProxyCommand='ssh -W %h:%p -q ops@jump'",
            "proxycommand",
            "ssh -W 192.0.2.7:2222 -q ops@jump",
        ),
    ],
)
def test_jump_hosts_go_into_a_configuration_of_ssh(text: str, option: str, value: str) -> None:
    found = data(
        ansible_host="192.0.2.7",
        ansible_port=2222,
        ansible_user="ops",
        ansible_ssh_common_args=text,
    )
    file = Path(found["ssh_config_file"])
    assert oct(file.stat().st_mode) == "0o100600"
    configuration = SSHConfig.from_text(file.read_text(encoding="utf-8"))
    target = configuration.lookup("192.0.2.7")
    assert (target[option], target["port"], target["user"]) == (value, "2222", "ops")
    assert option not in configuration.lookup("jump")
    assert configuration.lookup("jump")["stricthostkeychecking"] == "yes"


def test_a_configuration_of_ssh_that_the_inventory_names() -> None:
    assert arguments("-F /etc/site/ssh_config")["ssh_config_file"] == "/etc/site/ssh_config"
    text = Path(arguments("-F /etc/site/ssh_config -J jump")["ssh_config_file"]).read_text()
    assert "Include /etc/site/ssh_config" in text


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({"ansible_connection": "winrm"}, "ansible_connection"),
        ({"ansible_become": "perhaps"}, "ansible_become"),
        ({"ansible_become": True, "ansible_become_method": "su"}, "ansible_become_method"),
        ({"ansible_port": 0}, "ansible_port"),
        ({"ansible_timeout": "soon"}, "ansible_ssh_timeout"),
        ({"ansible_ssh_private_key_file": "/nowhere/key"}, "ansible_ssh_private_key_file"),
        ({"ansible_ssh_common_args": "-o"}, "ansible_ssh_common_args"),
        ({"ansible_ssh_common_args": "jump"}, "ansible_ssh_common_args"),
        ({"ansible_ssh_extra_args": "-o 'x"}, "ansible_ssh_extra_args"),
    ],
)
def test_wrong_values_name_the_variable(variables: dict[str, Any], name: str) -> None:
    with pytest.raises(VariableError) as error:
        data(**variables)
    assert error.value.variable in (name, name.replace("_ssh", ""))
    with pytest.raises(InputError, match="device box: ansible_"):
        pyinfra_data(device(**variables))


def test_roles_get_the_variables_but_not_what_would_steer_pyinfra() -> None:
    found = pyinfra_data(
        device(
            docker_extra={"a": 1}, ansible_user="ops", _sudo=True, ssh_config_file="/x", site="y"
        )
    )
    assert (found["docker_extra"], found["site"], found["inventory_device"]) == (
        {"a": 1},
        "y",
        "box",
    )
    assert not {"ansible_user", "_sudo", "ssh_config_file"} & set(found)


def test_all_devices_that_cannot_be_connected_are_told_at_once() -> None:
    devices = tuple(device(name, ansible_become="x") for name in ("b1", "b2"))
    with pytest.raises(InputError) as error:
        pyinfra_hosts(Inventory(Path("inv"), devices))
    assert [problem.split(": ")[:2] for problem in error.value.problems] == [
        ["inv", "device b1"],
        ["inv", "device b2"],
    ]


def test_the_local_machine() -> None:
    local = device("bastion", ansible_connection="local", ansible_become=True)
    assert pyinfra_name(local) == "@local"
    assert not [key for key in pyinfra_data(local) if key.startswith("ssh_")]
    twice = Inventory(Path("inv"), (local, device("other", ansible_connection="local")))
    with pytest.raises(InputError, match="on one device only"):
        pyinfra_hosts(twice)


class FakeHost:
    """What of a pyinfra host the code about sudo touches."""

    name = "box"

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data
        self.connector_data: dict[str, Any] = {}
        self.commands: list[tuple[str, str]] = []

    def get_temp_dir_config(self) -> str:
        return "/tmp"

    def run_shell_command(self, command: str, _stdin: str = "") -> tuple[bool, Any]:
        self.commands.append((command, _stdin))
        return True, type("Output", (), {"stdout_lines": ["/tmp/muster-askpass-1"], "stderr": ""})


def test_a_password_for_sudo_is_in_no_command_line() -> None:
    found = data(ansible_become=True, ansible_become_password="s'3cret")
    host = FakeHost(found)
    for _ in range(2):
        install_askpass(host)
    ((command, script),) = host.commands
    assert "s'3cret" not in command
    assert script == "#!/bin/sh\nprintf '%s\\n' 's'\"'\"'3cret'"
    command_line = make_unix_command_for_host(
        None,  # type: ignore[arg-type]
        host,  # type: ignore[arg-type]
        StringCommand("id"),
        _sudo=True,
        _sudo_password=found["_sudo_password"],
    ).get_raw_value()
    assert "SUDO_ASKPASS=/tmp/muster-askpass-1" in command_line
    assert "3cret" not in command_line
    assert PLACEHOLDER in command_line
    assert len(host.commands) == 1


def test_no_password_no_file() -> None:
    host = FakeHost(data(ansible_become=True))
    install_askpass(host)
    assert host.commands == []


def test_secrets_do_not_show() -> None:
    secret = Secret("s3cret")
    assert isinstance(data(ansible_become=True, ansible_become_pass="s3cret")[PASSWORD], Secret)
    shown = f"{secret!r} {secret} {json.dumps(secret, default=lambda o: o.to_json())}"
    assert "s3cret" not in shown
    assert secret.reveal() == "s3cret"
