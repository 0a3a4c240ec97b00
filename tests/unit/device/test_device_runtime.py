"""What docker and systemctl are told, by stand-ins on the PATH that note it and answer."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from device_stand_ins import device

IMAGE = f"registry:5000/models/digits@sha256:{'ab' * 32}"
SPEC: dict[str, Any] = {
    "release": "1.0-0123456789ab",
    "image": IMAGE,
    "env": {},
    "memory": None,
    "devices": [],
    "endpoint": {"port": 8000, "container_port": 8080, "ready_path": "/v2/health/ready"},
    "publish": "8000",
    "lock": ["/run/muster/digits.lock", "/run/muster/digits.lock"],
}
MOUNT = "type=bind,source=/run/muster/digits.lock,target=/run/muster/digits.lock,readonly"


class Commands:
    """Executables on the PATH that note their arguments and answer as they are told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("docker", "systemctl"):
            script = folder / name
            script.write_text(
                f'#!/bin/sh\nprintf "%s\\n" {name} "$@" -- >>{folder}/said\n'
                f"cat >{folder}/given\n"
                f"cat {folder}/out 2>/dev/null\ncat {folder}/err >&2 2>/dev/null\n"
                f"exit $(cat {folder}/status 2>/dev/null || echo 0)\n"
            )
            script.chmod(0o755)

    def answer(self, out: str = "", err: str = "", status: int = 0) -> None:
        for name, content in (("out", out), ("err", err), ("status", str(status))):
            (self.folder / name).write_text(content)

    @property
    def said(self) -> list[list[str]]:
        text = (self.folder / "said").read_text()
        return [call.split("\n") for call in text.removesuffix("\n--\n").split("\n--\n")]

    @property
    def given(self) -> str:
        return (self.folder / "given").read_text()


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    made = Commands(tmp_path)
    made.answer()
    return made


@pytest.fixture
def docker(commands: Commands) -> Any:
    return device.DockerRuntime()


def failure(call: Any, *arguments: Any) -> Any:
    with pytest.raises(device.Failure) as raised:
        call(*arguments)
    return raised.value


# docker


def test_a_container_is_created_from_what_is_here(commands: Commands, docker: Any) -> None:
    docker.create("muster-digits-1.0-0123456789ab", {"muster.model": "digits"}, SPEC)
    assert commands.said == [
        [
            "docker",
            "create",
            "--pull",
            "never",
            "--name",
            "muster-digits-1.0-0123456789ab",
            "--restart",
            "no",
            "--label",
            "muster.model=digits",
            "--log-driver",
            "local",
            "--log-opt",
            "max-size=5m",
            "--log-opt",
            "max-file=2",
            "--security-opt",
            "no-new-privileges",
            "--publish",
            "8000:8080",
            "--mount",
            MOUNT,
            IMAGE,
        ]
    ]


def test_options_of_the_variant(commands: Commands, docker: Any) -> None:
    options = {"memory": 64 << 20, "devices": ["/dev/apex_0", "/dev/apex_1"]}
    options["env"] = {"THREADS": "1", "KEY": "do not show"}
    docker.create("c", {}, SPEC | options)
    (said,) = commands.said
    assert said[-9:] == [
        *("--env-file", "/dev/stdin", "--memory", "67108864"),
        *("--device", "/dev/apex_0", "--device", "/dev/apex_1"),
        IMAGE,
    ]
    assert "do not show" not in " ".join(said), "every user can read arguments"
    assert commands.given == "KEY=do not show\nTHREADS=1\n"


def test_a_container_in_a_slot_is_for_this_device_alone(commands: Commands, docker: Any) -> None:
    docker.create("c", {}, SPEC | {"publish": "127.70.1.2:61001"})
    assert commands.said[0][-5:-1] == ["--publish", "127.70.1.2:61001:8080", "--mount", MOUNT]


def test_a_container_that_can_not_be_created(commands: Commands, docker: Any) -> None:
    commands.answer(err="Error: invalid device\n", status=1)
    found = failure(docker.create, "c", {}, SPEC)
    assert (found.code, "invalid device" in found.message) == ("runtime_unavailable", True)
    commands.answer(err="write /var/lib/docker: no space left on device", status=1)
    assert failure(docker.create, "c", {}, SPEC).code == "no_space"


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("dial tcp 10.0.0.2:5000: connect: connection refused", "registry_unreachable"),
        ("dial tcp 10.0.0.2:5000: connect: no route to host", "registry_unreachable"),
        ("dial tcp: lookup registry on 10.0.0.1:53: no such host", "registry_unreachable"),
        ("dial tcp: lookup registry: Temporary failure in name resolution", "registry_unreachable"),
        ("net/http: request canceled (Client.Timeout exceeded)", "registry_unreachable"),
        ("net/http: TLS handshake timeout", "registry_unreachable"),
        ("received unexpected HTTP status: 503 Service Unavailable", "registry_unreachable"),
        ("unexpected EOF", "registry_unreachable"),
        ("x509: certificate signed by unknown authority", "registry_unreachable"),
        ("manifest for x@sha256:ab not found: manifest unknown", "pull_failed"),
        ("unauthorized: authentication required", "pull_failed"),
        ("filesystem layer verification failed for digest sha256:ab", "pull_failed"),
        ("image verification failed for digest sha256:ab", "pull_failed"),
        ("no matching manifest for linux/arm64 in the manifest list entries", "pull_failed"),
        ("write /var/lib/docker/tmp/x: no space left on device", "no_space"),
        (
            "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is it running?",
            "runtime_unavailable",
        ),
    ],
)
def test_why_a_pull_failed(commands: Commands, docker: Any, said: str, code: str) -> None:
    commands.answer(err=f"first line\nError response from daemon: {said}\n", status=1)
    found = failure(docker.pull, IMAGE, 60.0)
    assert found.code == code
    assert commands.said == [["docker", "pull", "--quiet", IMAGE]]
    assert "\n" not in found.message


def test_a_pull_that_takes_too_long(docker: Any, commands: Commands) -> None:
    (commands.folder / "docker").write_text("#!/bin/sh\nexec sleep 60\n")
    found = failure(docker.pull, IMAGE, 0.1)
    assert found.code == "registry_unreachable"
    assert "was not pulled within" in found.message


def test_no_docker_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    docker = device.DockerRuntime()
    assert docker.info() == (None, None)
    for call in (docker.image_present, docker.containers, docker.inspect, docker.kill):
        assert failure(call, "x").code == "runtime_unavailable"
    assert failure(docker.pull, IMAGE, 1.0).code == "runtime_unavailable"


def test_what_the_daemon_says_of_itself(commands: Commands, docker: Any) -> None:
    commands.answer('{"version":"20.10.24","root":"/var/lib/docker"}\n')
    assert docker.info() == ("20.10.24", "/var/lib/docker")
    commands.answer('{"version":"","root":""}', "Cannot connect to the Docker daemon", 1)
    assert docker.info() == (None, None)


def test_containers_of_a_model(commands: Commands, docker: Any) -> None:
    commands.answer("muster-digits-a\ta\tblue\trunning\nmuster-digits-b\tb\t\texited\n")
    found = docker.containers("digits")
    assert [(c.name, c.release, c.slot, c.running) for c in found] == [
        ("muster-digits-a", "a", "blue", True),
        ("muster-digits-b", "b", "", False),
    ]
    assert "label=muster.model=digits" in commands.said[0]


@pytest.mark.parametrize(
    ("state", "running", "broken"),
    [
        ({"Status": "running", "Running": True, "Error": ""}, True, ""),
        ({"Status": "exited", "Running": False, "Error": ""}, False, ""),
        ({"Status": "created", "Running": False, "Error": "port is taken"}, False, "port is taken"),
        ({"Status": "dead", "Running": False, "Error": ""}, False, "dead"),
    ],
)
def test_one_container(
    commands: Commands, docker: Any, state: dict[str, Any], running: bool, broken: str
) -> None:
    labels = {"muster.release": "a", "muster.spec": "f00", "muster.slot": "green"}
    commands.answer(json.dumps([state, labels]))
    assert docker.inspect("c") == device.Container("c", "a", running, "f00", broken, "green")
    commands.answer("", "Error: No such container: c", 1)
    assert docker.inspect("c") is None


def test_a_container_that_does_not_stop_is_killed(commands: Commands, docker: Any) -> None:
    docker.stop("c", 10)
    commands.answer("", "Error response from daemon: tried to kill container", 1)
    docker.stop("c", 10)
    assert commands.said == [
        ["docker", "stop", "-t", "10", "c"],
        ["docker", "stop", "-t", "10", "c"],
        ["docker", "kill", "c"],
    ]


def test_starting_is_attaching(docker: Any) -> None:
    assert docker.attach_command("c") == ["docker", "start", "--attach", "c"]


# systemctl


def test_units_are_started_and_stopped(commands: Commands) -> None:
    systemd = device.Systemd()
    systemd.start("a.timer")
    systemd.stop("a.timer")
    assert systemd.is_active("a.timer")
    assert [call[2:] for call in commands.said] == [
        ["start", "a.timer"],
        ["stop", "a.timer"],
        ["is-active", "--quiet", "a.timer"],
    ]
    commands.answer("7\n")
    assert systemd.restarts("a.service") == 7
    commands.answer("", "Unit a.timer not found.", 5)
    assert not systemd.is_active("a.timer")
    assert systemd.restarts("a.service") == 0
    assert "Unit a.timer not found." in failure(systemd.start, "a.timer").message


def test_the_runtime_comes_from_the_configuration(tmp_path: Path) -> None:
    config = tmp_path / "etc/muster/device.json"
    config.parent.mkdir(parents=True)
    paths = device.Paths(str(tmp_path))
    assert device.Host(paths).runtime.name == "docker"
    for name in ("podman", "containerd"):
        config.write_text(json.dumps({"runtime": name}))
        assert device.Host(paths).runtime.name == name
    config.write_text('{"runtime": "rkt"}')
    found = failure(device.Host, paths)
    assert found.code == "runtime_unavailable"
    config.write_text("damaged")
    host = device.Host(paths)
    assert host.runtime.name == "docker", "going back must work all the same"
    assert host.damaged_config is not None
