"""What Podman and nerdctl are told, which speak much as docker does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from device_stand_ins import device
from runtime_programs import IMAGE, NAME, SPEC, Programs, cdi_specification, first_on_path

MOUNT = "type=bind,source=/run/muster/digits.lock,target=/run/muster/digits.lock,readonly"
LABELS = {"muster.model": "digits"}


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    programs = Programs(tmp_path / "bin")
    programs.add("docker", "podman", "nerdctl", "ctr")
    monkeypatch.setenv("PATH", first_on_path(programs.folder))
    return programs


@pytest.fixture
def podman(tmp_path: Path, programs: Programs) -> Any:
    return device.PodmanRuntime(device.Paths(str(tmp_path)))


@pytest.fixture
def nerdctl(tmp_path: Path, programs: Programs) -> Any:
    return device.NerdctlRuntime(device.Paths(str(tmp_path)))


def failure(call: Any, *arguments: Any) -> Any:
    with pytest.raises(device.Failure) as raised:
        call(*arguments)
    return raised.value


def test_podman_creates_a_container_whose_log_is_bounded(podman: Any, programs: Programs) -> None:
    programs.does("podman-create", f"cat >{programs.folder}/given")
    options = {"memory": 64 << 20, "devices": ["/dev/apex_0"], "env": {"KEY": "do not show"}}
    podman.create(NAME, LABELS, SPEC | options)
    assert programs.said() == [
        [
            *("create", "--pull", "never", "--name", NAME, "--restart", "no"),
            *("--label", "muster.model=digits"),
            *("--log-driver", "k8s-file", "--log-opt", "max-size=10m"),
            *("--security-opt", "no-new-privileges", "--publish", "8000:8080", "--mount", MOUNT),
            *("--env-file", "/dev/stdin", "--memory", "67108864", "--device", "/dev/apex_0"),
            IMAGE,
        ]
    ]
    assert (programs.folder / "given").read_text() == "KEY=do not show\n"


def test_what_a_power_cut_left_of_a_container_is_in_nobodys_way(
    podman: Any, programs: Programs
) -> None:
    used = 'Error: creating container storage: the container name "x" is already in use'
    script = (
        f"[ -e {programs.folder}/tried ] || {{ touch {programs.folder}/tried; echo '{used}' >&2"
    )
    programs.does("podman-create", script + "; exit 125; }")
    podman.create(NAME, LABELS, SPEC)
    assert [call[0] for call in programs.said()] == ["create", "rm", "create"]
    programs.answer("podman-create", err=used, status=125)
    assert failure(podman.create, NAME, LABELS, SPEC).code == "runtime_unavailable"


def test_podman_tells_of_itself(podman: Any, programs: Programs) -> None:
    programs.answer("podman-info", '{"version":"4.3.1","root":"/var/lib/containers/storage"}')
    assert podman.info() == ("4.3.1", "/var/lib/containers/storage")
    programs.answer("podman-info", err="Error: database is locked", status=125)
    assert podman.info() == (None, None)


def test_podman_lists_the_containers_of_a_model(podman: Any, programs: Programs) -> None:
    rows = [
        {"Names": ["a"], "State": "running", "Labels": {"muster.release": "r1"}},
        {"Names": ["b"], "State": "exited", "Labels": {"muster.slot": "blue"}},
        {"Names": ["c"], "State": "created", "Labels": None},
    ]
    programs.answer("podman-ps", json.dumps(rows))
    found = [(c.name, c.release, c.running, c.slot) for c in podman.containers("digits")]
    assert found == [("a", "r1", True, ""), ("b", "", False, "blue"), ("c", "", False, "")]
    assert "label=muster.model=digits" in programs.said()[0]
    for nothing in ("", "[]", "null"):
        programs.answer("podman-ps", nothing)
        assert podman.containers("digits") == []
    programs.answer("podman-ps", err="Error: no storage", status=125)
    assert failure(podman.containers, "digits").code == "runtime_unavailable"


def test_podman_misses_nothing_that_is_gone(
    podman: Any, programs: Programs, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = 'Error: no container with name or ID "x" found: no such container\n'
    for word in ("stop", "rm"):
        programs.answer(f"podman-{word}", err=gone, status=125)
    programs.answer("podman-image", err="Error: x: image not known", status=1)
    programs.answer("podman-container", err="Error: no such container x", status=125)
    podman.stop("x", 10)
    podman.remove("x")
    podman.remove_image(IMAGE)
    assert podman.inspect("x") is None
    assert capsys.readouterr().err == ""
    assert ["kill", "x"] not in programs.said()


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (
            "pinging container registry r:5000: dial tcp: lookup r: no such host",
            "registry_unreachable",
        ),
        ("pinging container registry r:5000: x509: certificate signed by", "registry_unreachable"),
        ("reading manifest in r/digits: manifest unknown: manifest unknown", "pull_failed"),
        ("Source image rejected: Running image docker://r is rejected by policy", "pull_failed"),
        ("writing blob: storing blob: no space left on device", "no_space"),
    ],
)
def test_why_podman_did_not_pull(podman: Any, programs: Programs, said: str, code: str) -> None:
    programs.answer("podman-pull", err=f"Error: {said}\n", status=125)
    assert failure(podman.pull, IMAGE, 60.0).code == code


def test_podman_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    podman = device.PodmanRuntime()
    assert podman.info() == (None, None)
    assert "podman is not installed" in failure(podman.inspect, "x").message


def test_podman_is_attached_to(podman: Any) -> None:
    assert podman.attach_command("c") == ["podman", "start", "--attach", "c"]


# CDI


@pytest.mark.parametrize(
    ("version", "named"), [("4.3.1", True), ("5.0.0", True), ("4.0.9", False), ("3.4.4", False)]
)
def test_podman_takes_cdi_devices_by_name_from_4_1_on(
    podman: Any, programs: Programs, tmp_path: Path, version: str, named: bool
) -> None:
    programs.answer("podman-info", json.dumps({"version": version, "root": "/"}))
    cdi_specification(tmp_path)
    podman.create(NAME, {}, SPEC | {"cdi": ["hailo.ai/npu=0"]})
    given = "hailo.ai/npu=0" if named else "/dev/hailo0:/dev/hailo0:rwm"
    assert programs.said()[-1][-3:] == ["--device", given, IMAGE]


@pytest.mark.parametrize(
    ("status", "out", "known"),
    [(0, '["/etc/cdi"]', True), (0, "null", False), (0, "[]", False), (1, "", False)],
)
def test_docker_says_whether_it_has_cdi(
    programs: Programs, status: int, out: str, known: bool
) -> None:
    programs.answer("docker-info", out, status=status)
    assert device.DockerRuntime().has_cdi() is known


def test_docker_without_cdi_gets_what_is_behind_a_name(programs: Programs, tmp_path: Path) -> None:
    programs.answer("docker-info", err="template: can't evaluate field", status=1)
    programs.does("docker-create", f"cat >{programs.folder}/given")
    mounts = [{"hostPath": "/usr/lib/libhailort.so", "containerPath": "/usr/lib/libhailort.so"}]
    cdi_specification(
        tmp_path,
        mounts=mounts,
        env=["HAILO=1", "THREADS=9"],
        deviceNodes=[{"path": "/dev/npu", "hostPath": "/dev/hailo1", "permissions": "rw"}],
    )
    docker = device.DockerRuntime(device.Paths(str(tmp_path)))
    docker.create(NAME, {}, SPEC | {"cdi": ["hailo.ai/npu=0"], "env": {"THREADS": "2"}})
    said = programs.said("docker")[-1]
    library = "type=bind,source=/usr/lib/libhailort.so,target=/usr/lib/libhailort.so,readonly"
    assert library in said
    assert said[-5:-1] == [
        *("--device", "/dev/hailo1:/dev/npu:rw"),
        *("--device", "/dev/hailo0:/dev/hailo0:rwm"),
    ]
    given = (programs.folder / "given").read_text()
    assert given == "HAILO=1\nTHREADS=2\n", "the release's own words win"


def test_cdi_devices_that_can_not_be_given(programs: Programs, tmp_path: Path) -> None:
    programs.answer("docker-info", status=1)
    docker = device.DockerRuntime(device.Paths(str(tmp_path)))
    found = failure(docker.create, NAME, {}, SPEC | {"cdi": ["hailo.ai/npu=0"]})
    assert (found.code, "has hailo.ai/npu=0" in found.message) == ("runtime_unavailable", True)
    cdi_specification(tmp_path, hooks=[{"hookName": "createContainer", "path": "/usr/bin/hook"}])
    found = failure(docker.create, NAME, {}, SPEC | {"cdi": ["hailo.ai/npu=0"]})
    assert "needs a container runtime with CDI" in found.message
    (tmp_path / "etc/cdi/hailo.json").write_text("damaged")
    assert (
        "has hailo.ai/npu=0"
        in failure(device.cdi_devices, docker.paths, ["hailo.ai/npu=0"]).message
    )


# nerdctl


def test_nerdctl_works_in_a_namespace_of_its_own(nerdctl: Any, programs: Programs) -> None:
    nerdctl.create(NAME, LABELS, SPEC)
    assert nerdctl.program == ("nerdctl", "--namespace", "muster")
    (said,) = programs.said("nerdctl")
    assert said[:8] == ["create", "--pull", "never", "--name", NAME, "--restart", "no", "--label"]
    assert said[-1] == IMAGE
    assert nerdctl.attach_command("c") == [*nerdctl.program, "start", "--attach", "c"]


def test_nerdctl_tells_states_in_words(nerdctl: Any, programs: Programs) -> None:
    programs.answer(
        "nerdctl-ps", "a\tr1\tblue\tUp\nb\tr2\t\tExited (0) 3 seconds ago\nc\tr3\t\tCreated\n"
    )
    found = [(c.name, c.release, c.slot, c.running) for c in nerdctl.containers("digits")]
    assert found == [("a", "r1", "blue", True), ("b", "r2", "", False), ("c", "r3", "", False)]


def test_nerdctl_is_used_where_it_is(
    tmp_path: Path, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = device.Paths(str(tmp_path))
    assert device.containerd(paths).maker == "nerdctl"
    (programs.folder / "nerdctl").unlink()
    assert device.containerd(paths).maker == "ctr"


@pytest.mark.parametrize(
    ("version", "known"), [("2.1.0", True), ("2.0.3", False), ("1.7.6", False)]
)
def test_nerdctl_has_cdi_from_2_1_on(
    nerdctl: Any, programs: Programs, version: str, known: bool
) -> None:
    programs.write("nerdctl", f"#!/bin/sh\necho nerdctl version {version}\n")
    assert nerdctl.has_cdi() is known
