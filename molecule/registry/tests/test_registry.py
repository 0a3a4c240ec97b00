"""The registry of a site, seen from outside: who gets in, and that it needs no uplink."""

# ruff: noqa: S101, ARG001
from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import testinfra

from muster.emulator import EmulatedFleet
from muster.paths import COLLECTION_ROOT

SCENARIO = COLLECTION_ROOT / "molecule" / "registry"
STATE = COLLECTION_ROOT / "build" / "molecule" / "registry"
CERTIFICATES = "/etc/docker/certs.d/pier-registry:5000"
STORAGE = "/var/lib/muster-registry"

RELEASE = """\
apiVersion: muster/v1
kind: Release
model: tiny
version: "1"
variants: {{hw_raspberry_pi: {{image: "models/tiny@{digest}"}}}}
gates: [{{name: ready, type: readiness}}]
"""


def connect(name: str) -> Any:
    inventory = str(STATE / "hosts.yml")
    return testinfra.get_host(f"ansible://{name}?ansible_inventory={inventory}")


@pytest.fixture(scope="module")
def registry() -> Any:
    return connect("pier-registry")


@pytest.fixture(scope="module")
def device() -> Any:
    return connect("pier-pi")


@pytest.fixture(scope="module")
def fleet() -> EmulatedFleet:
    return EmulatedFleet.load(SCENARIO / "fleet.yml", inventory_dir=STATE)


@pytest.fixture(scope="module")
def image(fleet: EmulatedFleet, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Push a small image to the upstream registry; gives its digest."""
    folder = tmp_path_factory.mktemp("image")
    with tarfile.open(folder / "layer", "w") as layer:
        entry = tarfile.TarInfo("model")
        entry.size = 5
        layer.addfile(entry, io.BytesIO(b"model"))
    plain = (folder / "layer").read_bytes()
    layers = [blob(folder, gzip.compress(plain, mtime=0), "layer.v1.tar+gzip")]
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["/model"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(plain).hexdigest()}"]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob(folder, json.dumps(config).encode(), "config.v1+json"),
        "layers": layers,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "version").write_text("Directory Transport Version: 1.1\n")
    (folder / "layer").unlink()
    certificates = tmp_path_factory.mktemp("certificates")
    shutil.copyfile(fleet.registry_ca, certificates / "ca.crt")
    target = f"docker://{fleet.registry_address}/models/tiny:1"
    command = ["skopeo", "copy", "--quiet", "--preserve-digests", "--dest-cert-dir", certificates]
    subprocess.run([*command, f"dir:{folder}", target], check=True)
    return "sha256:" + hashlib.sha256(json.dumps(manifest).encode()).hexdigest()


def blob(folder: Path, content: bytes, kind: str) -> dict[str, Any]:
    digest = hashlib.sha256(content).hexdigest()
    (folder / digest).write_bytes(content)
    media = f"application/vnd.oci.image.{kind}"
    return {"mediaType": media, "digest": f"sha256:{digest}", "size": len(content)}


@pytest.fixture(scope="module")
def filled(image: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Have the site's registry hold the image; gives the digest."""
    path = tmp_path_factory.mktemp("release") / "tiny-1.yml"
    path.write_text(RELEASE.format(digest=image))
    command = [sys.executable, "-m", "muster", "prefetch", path, "--site", "pier", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stdout + done.stderr
    return image


@pytest.fixture
def no_uplink(fleet: EmulatedFleet) -> Iterator[None]:
    fleet.fault("registry-down")
    yield
    fleet.fault("heal", "registry")


def curl(device: Any, what: str, *options: str, known: bool = True) -> Any:
    """Ask the registry from a device, with or without its certificate."""
    with device.sudo():
        device.check_output(f"rm -rf /run/c && cp -r {CERTIFICATES} /run/c")
        own = ["--cert", "/run/c/client.cert", "--key", "/run/c/client.key"] if known else []
        words = ["curl", "-sS", "-m", "20", "--cacert", "/run/c/ca.crt", *own, *options]
        return device.run(" ".join([*words, f"https://pier-registry:5000{what}"]))


def test_the_registry_runs_and_starts_with_its_host(registry: Any) -> None:
    service = registry.service("muster-registry")
    assert service.is_running
    assert service.is_enabled
    assert registry.service("docker-registry").is_masked
    assert not registry.service("docker-registry").is_running
    assert registry.check_output("systemctl --failed --no-legend") == ""


def test_it_is_no_root_and_can_write_nowhere(registry: Any) -> None:
    shown = registry.check_output(
        "systemctl show muster-registry --property=User,CapabilityBoundingSet,ProtectSystem,"
        "NoNewPrivileges,MainPID"
    )
    settings = dict(line.split("=", 1) for line in shown.splitlines())
    pid = settings.pop("MainPID")
    assert settings == {
        "User": "docker-registry",
        "CapabilityBoundingSet": "",
        "ProtectSystem": "strict",
        "NoNewPrivileges": "yes",
    }
    with registry.sudo():
        lines = registry.check_output("cat /proc/%s/mountinfo", pid).splitlines()
        mounts = {line.split()[4]: line.split()[5].split(",") for line in lines}
        innermost = max((path for path in mounts if STORAGE.startswith(path)), key=len)
        assert "ro" in mounts[innermost]
        for unit in ("muster-registry", "muster-registry-work", "muster-registry-mend"):
            assert registry.run(f"systemd-analyze verify {unit}.service").rc == 0


def test_keys_are_for_those_who_need_them_alone(registry: Any, device: Any) -> None:
    with registry.sudo():
        key = registry.file("/etc/muster/registry/server.key")
        assert (key.user, key.mode) == ("docker-registry", 0o600)
        storage = registry.file(STORAGE)
        assert (storage.user, storage.mode) == ("docker-registry", 0o700)
    with device.sudo():
        key = device.file(f"{CERTIFICATES}/client.key")
        assert (key.user, key.mode) == ("root", 0o600)
    for path in (STATE / ".state" / "pki").rglob("*.key"):
        assert path.stat().st_mode & 0o077 == 0


def test_nobody_gets_in_without_a_certificate(device: Any) -> None:
    assert curl(device, "/v2/", known=False).rc != 0
    assert curl(device, "/v2/").stdout.strip() == "{}"


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "blobs/uploads/"), ("DELETE", "manifests/sha256:" + "0" * 64)],
)
def test_nobody_can_push_or_delete(device: Any, method: str, path: str) -> None:
    options = ("-o", "/dev/null", "-w", "%{http_code}", "-X", method)
    assert curl(device, f"/v2/models/tiny/{path}", *options).stdout == "405"


def test_devices_pull_by_digest_without_uplink_and_after_a_restart(
    registry: Any, device: Any, filled: str, no_uplink: None
) -> None:
    with registry.sudo():
        registry.check_output("systemctl restart muster-registry")
    with device.sudo():
        name = f"pier-registry:5000/models/tiny@{filled}"
        device.run(f"docker image rm {name}")
        assert device.run(f"docker pull --quiet {name}").rc == 0
        assert device.run("docker pull --quiet pier-registry:5000/models/tiny:1").rc != 0
        device.check_output(f"docker image rm {name}")


def test_what_was_interrupted_while_it_was_cleared_is_whole_again(
    registry: Any, device: Any, filled: str
) -> None:
    name = filled.partition(":")[2]
    part = f"blobs/sha256/{name[:2]}"
    trash = f"{STORAGE}/muster/trash"
    with registry.sudo():
        registry.check_output(f"mkdir -p {trash}/{part}")
        registry.check_output(f"mv {STORAGE}/docker/registry/v2/{part}/{name} {trash}/{part}/")
        registry.check_output(f"chown -R docker-registry: {trash}")
        registry.check_output("systemctl restart muster-registry")
        assert not registry.file(trash).exists
    answer = curl(device, f"/v2/models/tiny/manifests/{filled}", "-o", "/dev/null")
    assert answer.rc == 0
