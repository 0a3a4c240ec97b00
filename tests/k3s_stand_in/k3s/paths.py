"""Where things lie on a node: in K3s's own places, but for the programs that the image brings."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

PROGRAMS = Path("/opt/k3s-stand-in")
"""Real Kubernetes, etcd, CNI plugins and a YAML reader; the device's image brings them."""

CONFIG = Path("/etc/rancher/k3s/config.yaml")
REGISTRIES = Path("/etc/rancher/k3s/registries.yaml")
KUBECONFIG = Path("/etc/rancher/k3s/k3s.yaml")
NODE_PASSWORD = Path("/etc/rancher/node/password")
DATA_DIR = Path("/var/lib/rancher/k3s")
RUN = Path("/run/k3s")
CONTAINERD_SOCKET = RUN / "containerd/containerd.sock"


def program(name: str) -> str:
    """Path of a real program: one of the image's own, or of the device's packages."""
    # /usr/local/bin/ctr is a link to K3s itself
    places = (str(PROGRAMS / "bin"), "/usr/sbin", "/usr/bin", "/sbin", "/bin")
    return shutil.which(name, path=os.pathsep.join(places)) or name


class Layout:
    """Folders below one data directory."""

    def __init__(self, data_dir: Path = DATA_DIR) -> None:
        self.data = data_dir
        self.server = data_dir / "server"
        self.tls = self.server / "tls"
        self.encryption = self.server / "cred/encryption-config.json"
        self.db = self.server / "db"
        self.etcd = self.db / "etcd"
        self.snapshots = self.db / "snapshots"
        self.manifests = self.server / "manifests"
        self.agent = data_dir / "agent"
        self.images = self.agent / "images"
        self.containerd = self.agent / "containerd"
        self.agent_etc = self.agent / "etc"
        self.certs_d = self.agent_etc / "containerd/certs.d"

    @property
    def embedded_etcd(self) -> bool:
        """Whether this node is a member of an embedded etcd cluster."""
        return (self.etcd / "member").exists()


def write(path: Path, text: str, mode: int = 0o644) -> None:
    """Replace a file in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    temporary.chmod(mode)
    temporary.replace(path)
