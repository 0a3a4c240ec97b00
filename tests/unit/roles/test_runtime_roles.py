"""The roles of container runtimes: which of them runs, and what they write."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from muster.role_variables import role_model
from roles.containerd.config import config_toml, hosts_toml, toml, with_hosts
from roles.containerd.variables import Variables as ContainerdVariables
from roles.muster_device.deploy import same_runtime, start_of_runtime
from roles.operations import File
from roles.podman.containers import Container, unit_files
from roles.podman.deploy import policy_json
from roles.podman.variables import Variables as PodmanVariables

tomllib = pytest.importorskip("tomllib")  # from Python 3.11 on
RUNTIMES = ("docker", "podman", "containerd")
IMAGE = f"registry:5000/tools/relay@sha256:{'ab' * 32}"
RELAY: dict[str, Any] = {
    "image": IMAGE,
    "ports": ["8554:8554"],
    "environment": {"CAMERA": "front"},
    "volumes": ["/data:/data:ro"],
    "devices": ["/dev/video0"],
    "arguments": ["--verbose"],
}


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_one_variable_chooses_the_runtime(runtime: str) -> None:
    variables = {"muster_device_runtime": runtime}
    assert [r for r in RUNTIMES if role_model(r).chosen(variables)] == [runtime]  # type: ignore[attr-defined]


def test_docker_is_the_default() -> None:
    assert [r for r in RUNTIMES if role_model(r).chosen({})] == ["docker"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("model", "variables", "part"),
    [
        (PodmanVariables, {"podman_containers": {"relay": {"image": "x:latest"}}}, "image"),
        (PodmanVariables, {"podman_containers": {"Relay": RELAY}}, "Relay"),
        (PodmanVariables, {"podman_containers": {"r": RELAY | {"port": 1}}}, "port"),
        (PodmanVariables, {"podman_containers": {"r": RELAY | {"arguments": ["$HOME"]}}}, "HOME"),
        (PodmanVariables, {"podman_data_root": "data"}, "podman_data_root"),
        (PodmanVariables, {"podman_registry_cas": {"r:1": "/nowhere.pem"}}, "r:1: expected a PEM"),
        (ContainerdVariables, {"containerd_extra": {"version": 2}}, "expected no key version"),
        (ContainerdVariables, {"containerd_start_timeout": "soon"}, "containerd_start_timeout"),
        (ContainerdVariables, {"containerd_packages": []}, "containerd_packages"),
        (ContainerdVariables, {"muster_registry_client_key": "/nowhere.key"}, "private key"),
    ],
)
def test_wrong_values(model: Any, variables: dict[str, Any], part: str) -> None:
    with pytest.raises(ValueError, match=part):
        model(**variables)


# containerd


@pytest.mark.parametrize(
    ("version", "cdi"), [((1, 6, 20), False), ((1, 7, 0), True), ((1, 7, 24), True), ((), False)]
)
def test_containerd_1_reads_version_2_of_its_configuration(
    version: tuple[int, ...], cdi: bool
) -> None:
    found = tomllib.loads(config_toml(version))
    plugin = found["plugins"]["io.containerd.grpc.v1.cri"]
    assert found["version"] == 2
    assert plugin["registry"] == {"config_path": "/etc/containerd/certs.d"}
    assert plugin.get("enable_cdi", False) is cdi


def test_containerd_2_reads_version_3() -> None:
    found = tomllib.loads(config_toml((2, 0, 4), root="/data/containerd"))
    plugins = found["plugins"]
    assert (found["version"], found["root"]) == (3, "/data/containerd")
    images = plugins["io.containerd.cri.v1.images"]
    assert images["registry"] == {"config_path": "/etc/containerd/certs.d"}
    assert plugins["io.containerd.cri.v1.runtime"]["enable_cdi"] is True
    assert plugins["io.containerd.cri.v1.runtime"]["cdi_spec_dirs"] == ["/etc/cdi", "/var/run/cdi"]


def test_further_keys_of_containerd_win() -> None:
    extra = {
        "oom_score": -999,
        "plugins": {"io.containerd.grpc.v1.cri": {"enable_cdi": False, "x": ["é\n", 1, True]}},
    }
    found = tomllib.loads(config_toml((1, 7, 2), extra=extra))
    plugin = found["plugins"]["io.containerd.grpc.v1.cri"]
    assert (found["oom_score"], plugin["enable_cdi"], plugin["x"]) == (
        -999,
        False,
        ["é\n", 1, True],
    )
    assert plugin["registry"] == {"config_path": "/etc/containerd/certs.d"}


def test_toml_says_what_it_has_no_form_for() -> None:
    with pytest.raises(ValueError, match=r"a\.b: expected text"):
        toml({"a": {"b": None}})


def test_every_registry_has_a_file_that_says_whom_to_trust() -> None:
    folder = "/etc/containerd/certs.d/registry:5000"
    trusted = [File(f"{folder}/{name}", "x") for name in ("ca.crt", "client.cert", "client.key")]
    found = with_hosts([*trusted, File("/etc/containerd/certs.d/other:1/ca.crt", "x")])
    assert [file.path.removeprefix("/etc/containerd/certs.d/") for file in found] == [
        *("registry:5000/ca.crt", "registry:5000/client.cert", "registry:5000/client.key"),
        *("registry:5000/hosts.toml", "other:1/ca.crt", "other:1/hosts.toml"),
    ]
    assert tomllib.loads(found[3].content) == {
        "server": "https://registry:5000",
        "capabilities": ["pull", "resolve"],
        "ca": f"{folder}/ca.crt",
        "client": [[f"{folder}/client.cert", f"{folder}/client.key"]],
    }
    assert "client" not in tomllib.loads(hosts_toml("other:1", trusted[:1]))


# podman


def test_images_come_from_known_registries_alone() -> None:
    variables = PodmanVariables(muster_registry="registry:5000", podman_allowed_registries=["b:1"])
    policy = policy_json(variables)
    assert policy["default"] == [{"type": "reject"}]
    assert sorted(policy["transports"]["docker"]) == ["b:1", "registry:5000"]
    own = {"default": [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/etc/key"}]}
    assert policy_json(PodmanVariables(podman_policy=own)) == own


def test_containers_beside_the_models_are_quadlets_where_podman_has_them() -> None:
    file, obsolete = unit_files("relay", Container(**RELAY), (4, 4, 0))
    assert file.path == "/etc/containers/systemd/relay.container"
    assert obsolete == "/etc/systemd/system/relay.service"
    lines = file.content.splitlines()
    container = lines[lines.index("[Container]") + 1 : lines.index("[Service]")]
    assert container == [
        *(f"Image={IMAGE}", "ContainerName=relay", "PublishPort=8554:8554"),
        *("Environment=CAMERA=front", "Volume=/data:/data:ro", "AddDevice=/dev/video0"),
        "Exec=--verbose",
    ]
    assert lines[-1] == "WantedBy=multi-user.target"


def test_and_units_where_it_has_not() -> None:
    file, obsolete = unit_files("relay", Container(**RELAY), (4, 3, 1))
    assert (file.path, obsolete) == (
        "/etc/systemd/system/relay.service",
        "/etc/containers/systemd/relay.container",
    )
    (start,) = (line for line in file.content.splitlines() if line.startswith("ExecStart="))
    options = "--publish=8554:8554 --env=CAMERA=front --volume=/data:/data:ro --device=/dev/video0"
    assert start.endswith(f"--detach {options} {IMAGE} --verbose")


# The units of the device program


@pytest.mark.parametrize(
    ("runtime", "service"),
    [("docker", "docker.service"), ("containerd", "containerd.service"), ("podman", None)],
)
def test_models_wait_for_their_runtime_and_for_no_other(runtime: str, service: str | None) -> None:
    files = start_of_runtime(runtime)
    assert [file.path for file in files] == [
        "/etc/systemd/system/muster-boot.service.d/10-runtime.conf",
        "/etc/systemd/system/muster-model@.service.d/10-runtime.conf",
    ]
    for file in files:
        settings = [line for line in file.content.splitlines() if "=" in line]
        assert settings == ([f"After={service}", f"Wants={service}"] if service else [])


# The runtime of a device that serves


@pytest.mark.parametrize(
    ("told", "serves", "allowed"),
    [
        ("docker", True, True),
        ("podman", False, True),
        ("podman", True, False),
        (None, True, True),
    ],
)
def test_a_device_that_serves_keeps_its_runtime(
    tmp_path: Path, told: str | None, serves: bool, allowed: bool
) -> None:
    configuration, state = tmp_path / "etc/muster/device.json", tmp_path / "var/lib/muster"
    configuration.parent.mkdir(parents=True)
    state.mkdir(parents=True)
    if told:
        configuration.write_text(json.dumps({"proxy": False, "runtime": told}, indent=2))
    if serves:
        (state / "digits").mkdir()
        (state / "digits/current").symlink_to("releases/1.0-0123456789ab")
    script = same_runtime("docker").replace("/etc/", f"{tmp_path}/etc/")
    script = script.replace("/var/lib/", f"{tmp_path}/var/lib/")
    done = subprocess.run(["sh", "-uc", f"( {script}\n)"], capture_output=True, text=True)
    assert (done.returncode == 0) is allowed, done.stderr
    assert ("reset the device first" in done.stderr) is not allowed


def test_the_example_in_the_readme_is_right() -> None:
    readme = (Path(__file__).parents[3] / "roles/podman/README.md").read_text(encoding="utf-8")
    example = yaml.safe_load(readme.partition("```yaml\n")[2].partition("```")[0])
    assert "camera-relay" in PodmanVariables(**example).podman_containers
