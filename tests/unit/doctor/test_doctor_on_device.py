"""What is measured on a device, asked as it is over SSH, below a folder that stands for `/`."""

from __future__ import annotations

import http.server
import json
import os
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from muster import on_device
from muster.doctor import on_device as task
from muster.doctor import services
from muster.doctor.findings import Expected, Severity
from muster.emulator.keys import ensure_registry_certificate

STAND_IN = """#!/bin/sh
case "$*" in
*--failed*) echo "leaky.service loaded failed failed Leaky" ;;
*is-enabled*muster-boot*) echo enabled ;;
*is-enabled*) echo "Failed to get unit file state" >&2; exit 1 ;;
*is-system-running*) echo degraded ;;
*is-active*chrony.service*) exit 0 ;;
*is-active*) echo inactive; exit 3 ;;
esac
"""


@pytest.fixture
def measure(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "systemctl").write_text(STAND_IN)
    (tools / "timedatectl").write_text("#!/bin/sh\necho yes\n")
    (tools / "docker").write_text("#!/bin/sh\nexit 1\n")
    for tool in tools.iterdir():
        tool.chmod(0o755)

    def run(**given: Any) -> dict[str, Any]:
        done = subprocess.run(
            ["sh", "-c", on_device.COMMAND],
            input=on_device.request(task, given),
            env=os.environ | {"MUSTER_ROOT": str(tmp_path), "PATH": f"{tools}:{os.defpath}"},
            capture_output=True, text=True,
        )  # fmt: skip
        return on_device.read_answer(done.stdout)

    return run


def write(root: Path, path: str, text: str) -> Path:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def test_a_bare_device_is_measured_without_an_error(
    tmp_path: Path, measure: Callable[..., dict[str, Any]]
) -> None:
    found = measure()
    assert not [name for name, part in found.items() if isinstance(part, dict) and "error" in part]
    assert found["program"] == {"present": False}
    assert (found["models"], found["registry"], found["certificates"]) == ([], None, [])
    assert found["runtime"]["version"] is None
    assert found["disks"][0]["path"] == "/"
    assert found["disks"][0]["size"] >= found["disks"][0]["free"] > 0
    assert found["clock"] == {"synchronized": True, "service": "chrony.service"}
    assert found["units"]["failed"] == ["leaky.service"]
    assert found["units"]["ours"]["muster-boot.service"] == "enabled"
    assert found["units"]["ours"]["muster-guard@.timer"] == "not-found"
    assert found["began"] <= found["ended"]


def test_models_are_only_read(tmp_path: Path, measure: Callable[..., dict[str, Any]]) -> None:
    state = {"generation": 4, "phase": "switched", "release": "1-a", "rollout": "r"}
    file = write(tmp_path, "var/lib/muster/digits/state.json", json.dumps(state))
    write(tmp_path, "var/lib/muster/broken/state.json", "{")
    os.utime(file, (1, 1))
    before = sorted(path for path in tmp_path.rglob("*"))
    broken, digits = measure()["models"]
    assert (digits["phase"], digits["guard"], digits["remaining"]) == ("switched", False, 0.0)
    assert digits["since"] > 1e9
    assert "is damaged" in broken["damaged"]
    assert sorted(path for path in tmp_path.rglob("*")) == before
    assert file.read_text() == json.dumps(state)


def test_container_devices_that_name_what_is_not_there(
    tmp_path: Path, measure: Callable[..., dict[str, Any]]
) -> None:
    write(tmp_path, "dev/there", "")
    nodes = [{"path": "/dev/there"}, {"path": "/dev/x", "hostPath": "/dev/gone"}]
    edits = {"containerEdits": {"deviceNodes": nodes}}
    write(tmp_path, "etc/cdi/a.json", json.dumps({"kind": "a.ai/npu", "devices": [edits]}))
    write(tmp_path, "etc/cdi/b.yaml", "kind: b/c\ndevices:\n- path: /dev/there\n")
    write(tmp_path, "etc/cdi/c.json", "{")
    write(tmp_path, "etc/cdi/d.yml", "kind: b/c\n- path: /dev/x\n  hostPath: /dev/gone\n")
    write(tmp_path, "etc/cdi/readme", "x")
    first, second, third, fourth = measure()["cdi"]
    assert (first["kind"], first["missing"], first["damaged"]) == (
        "a.ai/npu", ["/dev/gone"], False,
    )  # fmt: skip
    assert (second["kind"], second["missing"], second["damaged"]) == ("b/c", [], False)
    assert third["damaged"]
    assert fourth["missing"] == ["/dev/gone"]


def test_libraries_program_and_certificates(
    tmp_path: Path, measure: Callable[..., dict[str, Any]]
) -> None:
    write(tmp_path, "usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1", "")
    write(tmp_path, "usr/lib/x86_64-linux-gnu/libnvidia-ml.so.535.183.01", "")
    write(tmp_path, "usr/local/sbin/muster-device", "x").chmod(0o755)
    write(tmp_path, "etc/systemd/system/muster-boot.service", "y")
    ensure_registry_certificate(tmp_path / "etc" / "muster" / "keys", "x")
    found = measure()
    assert found["libraries"] == {"nvidia": "535.183.01"}
    program = found["program"]
    assert (program["present"], program["executable"]) == (True, True)
    assert list(program["units"]) == ["muster-boot.service"]
    assert "can't be read" in program["configuration"]
    names = {Path(each["path"]).name for each in found["certificates"]}
    assert names == {"ca.pem", "registry.pem"}
    assert "PRIVATE KEY" not in json.dumps(found)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Give a function that starts a registry, which may want certificates of clients."""
    folder = tmp_path / "registry"
    ensure_registry_certificate(folder, "x")
    servers = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/v2/" else 404)
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            pass

    def start(clients: Path | None = None) -> str:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "registry.pem", folder / "registry.key")
        if clients:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(clients)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"localhost:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()


def test_a_registry(
    tmp_path: Path, measure: Callable[..., dict[str, Any]], serve: Callable[..., str]
) -> None:
    registry = serve()
    found = measure(registry=registry)["registry"]
    assert "issuer" in found["untrusted"]
    assert found["certificate"]
    ca = (tmp_path / "registry" / "ca.pem").read_text()
    write(tmp_path, f"etc/docker/certs.d/{registry}/ca.crt", ca)
    found = measure(registry=registry)["registry"]
    assert (found["status"], found["error"], "untrusted" in found) == (200, None, False)
    other = registry.replace("localhost", "127.0.0.2")
    write(tmp_path, f"etc/docker/certs.d/{other}/ca.crt", ca)
    assert "refused" in measure(registry=other)["registry"]["error"].lower()
    assert "refused" in measure(registry="localhost:1")["registry"]["error"].lower()


def test_a_registry_that_wants_a_certificate(
    tmp_path: Path, measure: Callable[..., dict[str, Any]], serve: Callable[..., str]
) -> None:
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=cam"
    files = ["-keyout", str(tmp_path / "client.key"), "-out", str(tmp_path / "client.cert")]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    registry = serve(tmp_path / "client.cert")
    folder = f"etc/docker/certs.d/{registry}"
    write(tmp_path, f"{folder}/ca.crt", (tmp_path / "registry" / "ca.pem").read_text())
    found = measure(registry=registry)["registry"]
    expected = Expected("cam-1")
    assert "does not take" in services.registry({"registry": found}, expected, time.time()).what
    for name in ("client.cert", "client.key"):
        write(tmp_path, f"{folder}/{name}", (tmp_path / name).read_text())
    found = measure(registry=registry)["registry"]
    assert (found["status"], found["error"]) == (200, None)
    assert services.registry({"registry": found}, expected, time.time()).severity is Severity.OK


def test_a_registry_without_tls(measure: Callable[..., dict[str, Any]]) -> None:
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        found = measure(registry=f"localhost:{server.server_port}")["registry"]
    finally:
        server.shutdown()
    assert found["plain"]
