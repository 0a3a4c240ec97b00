"""The stand-in for K3s keeps the parts of K3s's contract that need no node."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest
import yaml
from k3s_stand_in import artifacts, device_image
from k3s_stand_in.k3s import config, crictl, paths, registries, tokens
from k3s_stand_in.k3s.processes import FatalError

SERVER = {"token": "secret", "server": "https://10.0.0.1:6443"}


@pytest.fixture
def config_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The place of ``config.yaml``."""
    monkeypatch.setattr(paths, "CONFIG", tmp_path / "config.yaml")
    return tmp_path / "config.yaml"


def write(path: Path, **keys: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump({k.replace("_", "-"): v for k, v in keys.items()}))


def test_drop_ins_replace_or_append_in_alphabetical_order(config_file: Path) -> None:
    write(config_file, node_label=["a=1"], write_kubeconfig_mode="0600", **SERVER)
    write(config_file.with_name("config.yaml.d") / "20-b.yaml", **{"node-label+": "c=3"})
    write(config_file.with_name("config.yaml.d") / "10-a.yaml", **{"node-label+": ["b=2"]})
    write(config_file.with_name("config.yaml.d") / "30.yaml", write_kubeconfig_mode="0644")
    found = config.load("server", [])
    assert found.many("node-label") == ["a=1", "b=2", "c=3"]
    assert found.text("write-kubeconfig-mode") == "0644"


@pytest.mark.parametrize(
    ("command", "keys", "said"),
    [
        ("server", {"tls_sans": ["x"]}, "flag provided but not defined: -tls-sans"),
        ("agent", {"embedded_registry": True, **SERVER}, "not defined: -embedded-registry"),
        ("server", {"cluster_init": "perhaps"}, "invalid boolean value"),
        ("server", {"https_listen_port": "many"}, "invalid value"),
        ("server", {"node_taint": ["key=value"]}, "invalid node taint"),
        ("server", {"flannel_backend": "pigeon"}, "unknown flannel-backend"),
        ("agent", {"token": "secret"}, "--server is required"),
        ("agent", {"server": "https://a:6443"}, "--token is required"),
        ("agent", {"token": "secret", "server": "http://a:6443"}, "only https"),
    ],
)
def test_what_does_not_fit_ends_the_program(
    config_file: Path, command: str, keys: dict[str, object], said: str
) -> None:
    write(config_file, **keys)
    with pytest.raises(FatalError, match=said):
        config.load(command, [])


def test_the_command_line_wins_over_the_file(config_file: Path) -> None:
    write(config_file, node_name="file", cluster_init=False)
    found = config.load("server", ["--node-name=line", "--cluster-init"])
    assert found.text("node-name") == "line"
    assert found.on("cluster-init")


def test_tokens_in_their_forms() -> None:
    full = tokens.Token("server", "secret").full("PEM")
    assert full == f"K10{hashlib.sha256(b'PEM').hexdigest()}::server:secret"
    assert tokens.parse(full + "\n", "node") == tokens.Token("server", "secret", full[3:67])
    assert tokens.parse("secret", "node") == tokens.Token("node", "secret")
    assert tokens.parse("abcdef.0123456789abcdef", "node").user == ""
    with pytest.raises(FatalError, match="length"):
        tokens.parse("K10abc::server:secret", "node")


def test_registries_become_hosts_of_containerd(config_file: Path, tmp_path: Path) -> None:
    file = tmp_path / "registries.yaml"
    document = {
        "mirrors": {"docker.io": {"endpoint": ["https://site:5000"]}},
        "configs": {
            "site:5000": {
                "tls": {"ca_file": "/ca.crt"},
                "auth": {"username": "me", "password": "secret"},
            }
        },
    }
    file.write_text(yaml.safe_dump(document))
    given = [f"--data-dir={tmp_path}", f"--private-registry={file}"]
    given.append("--disable-default-registry-endpoint")
    settings = config.load("server", given)
    assert registries.apply(settings) == {"site:5000": ("me", "secret")}
    text = (settings.layout.certs_d / "docker.io" / "hosts.toml").read_text()
    assert 'server = "' not in text
    assert '[host."https://site:5000/v2"]' in text
    assert 'ca = ["/ca.crt"]' in text


@pytest.mark.parametrize(
    ("given", "full"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("rancher/pause:3", "docker.io/rancher/pause:3"),
        ("registry:5000/models/digits@sha256:ab", "registry:5000/models/digits@sha256:ab"),
        ("registry:5000/digits", "registry:5000/digits:latest"),
    ],
)
def test_names_of_images_in_full(given: str, full: str) -> None:
    assert crictl.full_name(given) == full


def test_artifacts_are_what_their_checksums_say_and_report_their_version(tmp_path: Path) -> None:
    artifacts.make(tmp_path, ["v1.20.2+k3s1", "v1.21.2+k3s1"])
    folder = tmp_path / "v1.21.2+k3s1"
    sums = next(folder.glob("sha256sum-*.txt")).name
    subprocess.run(["sha256sum", "--check", "--quiet", sums], cwd=folder, check=True)
    program = next(path for path in folder.iterdir() if path.suffix == "" and "k3s" in path.name)
    assert program.read_bytes() == artifacts.program("v1.21.2+k3s1")
    said = subprocess.run(
        ["python3", str(program), "--version"], capture_output=True, text=True, check=True
    ).stdout
    assert said.startswith("k3s version v1.21.2+k3s1 (stand-in)")


def test_the_pause_program_waits_until_it_is_killed(tmp_path: Path) -> None:
    architecture, _ = artifacts.machine()
    path = tmp_path / "pause"
    path.write_bytes(artifacts.pause_program(architecture))
    path.chmod(0o755)
    with subprocess.Popen([str(path)]) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        process.terminate()


def test_nothing_of_it_is_known_to_muster_itself() -> None:
    package = Path(device_image.__file__).parents[2] / "muster"
    assert not [path for path in package.rglob("*.py") if "k3s_stand_in" in path.read_text()]
