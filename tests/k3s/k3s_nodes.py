"""Nodes of K3s that are set up by hand, without any role."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import yaml

from muster.emulator import EmulatedFleet
from muster.inventory import load_inventory

UNIT = """[Unit]
Description=Lightweight Kubernetes
[Install]
WantedBy=multi-user.target
[Service]
Type=notify
KillMode=process
Delegate=yes
LimitNOFILE=1048576
LimitNPROC=infinity
LimitCORE=infinity
TasksMax=infinity
TimeoutStartSec=0
Restart=always
RestartSec=5s
ExecStart=/usr/local/bin/k3s {command}
"""
KUBELET = "/var/lib/rancher/k3s/agent/kubelet.kubeconfig"
TOKEN = "/var/lib/rancher/k3s/server/token"
_NAMES = {"x86_64": ("amd64", "k3s"), "aarch64": ("arm64", "k3s-arm64")}


@dataclass
class Node:
    """One device of a fleet."""

    fleet: EmulatedFleet
    name: str

    @property
    def address(self) -> str:
        devices = load_inventory(self.fleet.inventory_file).devices
        return next(str(device.address) for device in devices if device.name == self.name)

    def run(self, command: str, expect: int | None = 0) -> str:
        """Run a line of shell on it; returns what it prints."""
        code, output = self.fleet.exec(self.name, ["sh", "-c", command])
        assert expect is None or code == expect, f"{self.name}: {command}: {code}\n{output}"
        return output

    def put(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """Write a file on it."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.size, entry.mode = len(content), mode
            archive.addfile(entry, io.BytesIO(content))
        container = docker.from_env().containers.get(f"{self.fleet.name}-{self.name}")
        container.put_archive("/", buffer.getvalue())

    def install(self, artifacts: Path, version: str) -> None:
        """Put the program and the images of a version in place."""
        architecture, name = _NAMES[platform.machine()]
        folder = artifacts / version
        self.put("/usr/local/bin/k3s", (folder / name).read_bytes(), 0o755)
        for images in folder.glob(f"k3s-airgap-images-{architecture}.tar*"):
            self.put(f"/var/lib/rancher/k3s/agent/images/{images.name}", images.read_bytes())

    def configure(self, command: str, **config: Any) -> None:
        """Write ``config.yaml`` and the unit; keys have ``_`` for ``-``."""
        document = {key.replace("_", "-"): value for key, value in config.items()}
        text = yaml.safe_dump({"node-name": self.name, **document})
        self.put("/etc/rancher/k3s/config.yaml", text.encode(), 0o600)
        self.put(f"/etc/systemd/system/{unit(command)}", UNIT.format(command=command).encode())
        self.run("systemctl daemon-reload")

    def start(self, command: str) -> None:
        """Start the unit and wait until it says that it is ready."""
        self.run(f"systemctl enable --now {unit(command)} || journalctl -u {unit(command)} -n 30")

    def kubectl(self, arguments: str, stdin: str = "", expect: int | None = 0) -> str:
        """Run ``kubectl`` on this server."""
        if stdin:
            self.put("/root/stdin", stdin.encode())
        return self.run(f"k3s kubectl {arguments}{' </root/stdin' if stdin else ''}", expect)

    def nodes(self) -> dict[str, dict[str, Any]]:
        """The nodes of the cluster, asked of this server; none while it does not answer."""
        output = self.run("k3s kubectl get nodes -o json 2>/dev/null", expect=None)
        items = json.loads(output)["items"] if output.lstrip().startswith("{") else []
        return {item["metadata"]["name"]: item for item in items}

    def condition(self, node: str, kind: str) -> str:
        """Status of one condition of a node, asked of this server."""
        found = self.nodes().get(node, {}).get("status", {}).get("conditions", [])
        return next((each["status"] for each in found if each["type"] == kind), "")


def unit(command: str) -> str:
    """Name of the unit for ``server`` or ``agent``."""
    return "k3s.service" if command == "server" else "k3s-agent.service"


def wait_for(what: str, condition: Callable[[], object], seconds: float = 180) -> None:
    """Poll until something holds; the limit is far beyond what it takes."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s"
        time.sleep(1)


def wait_ready(server: Node, *names: str) -> None:
    """Wait until nodes are Ready."""
    for name in names:
        wait_for(f"{name} is ready", lambda n=name: server.condition(n, "Ready") == "True")


def real_artifacts(binary: Path, folder: Path) -> None:
    """Lay out a real program with the image archive beside it as an artifact store does."""
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
    architecture, name = _NAMES[platform.machine()]
    target = folder / said.split()[2]
    target.mkdir()
    shutil.copy(binary, target / name)
    images = sorted(binary.parent.glob(f"k3s-airgap-images-{architecture}.tar*"))
    assert images, f"expected k3s-airgap-images-{architecture}.tar.zst beside {binary}"
    shutil.copy(images[0], target)
    sums = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
        for path in sorted(target.iterdir())
    ]
    (target / f"sha256sum-{architecture}.txt").write_text("".join(sums), encoding="ascii")
