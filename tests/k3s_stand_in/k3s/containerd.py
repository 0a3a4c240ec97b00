"""containerd of a node: its configuration, and images that lie beside it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from pathlib import Path

from .config import Settings
from .paths import CONTAINERD_SOCKET, PROGRAMS, RUN, program, write
from .processes import Children, FatalError, environment, log, output, wait_until

PAUSE_IMAGE = "rancher/mirrored-pause:3.6"

_CRI = 'plugins."io.containerd.grpc.v1.cri"'


class Containerd:
    """The container runtime of a node."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.layout = settings.layout
        given = settings.text("container-runtime-endpoint").removeprefix("unix://")
        self.own = not given
        self.socket = Path(given) if given else CONTAINERD_SOCKET
        image = settings.text("pause-image", PAUSE_IMAGE)
        host = image.split("/")[0]
        self.pause_image = image if "." in host or ":" in host else f"docker.io/{image}"
        self._imported: dict[Path, tuple[float, int]] = {}

    def start(self, children: Children, credentials: dict[str, tuple[str, str]]) -> None:
        """Start it and wait until it answers."""
        if not self.own:
            return
        etc = self.layout.agent_etc
        cni = etc / "cni/net.d"
        cni.mkdir(parents=True, exist_ok=True)
        quote = json.dumps
        text = f"""version = 2
root = {quote(str(self.layout.containerd))}
state = {quote(str(RUN / "containerd"))}

[grpc]
  address = {quote(str(self.socket))}

[{_CRI}]
  sandbox_image = {quote(self.pause_image)}
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "10010"

[{_CRI}.cni]
  bin_dir = {quote(str(PROGRAMS / "cni"))}
  conf_dir = {quote(str(cni))}

[{_CRI}.containerd]
  snapshotter = {quote(self.settings.text("snapshotter", "overlayfs"))}

[{_CRI}.registry]
  config_path = {quote(str(self.layout.certs_d))}
"""
        for registry, (user, password) in credentials.items():
            text += f"\n[{_CRI}.registry.configs.{quote(registry)}.auth]\n"
            text += f"  username = {quote(user)}\n  password = {quote(password)}\n"
        write(etc / "containerd/config.toml", text, 0o600)
        write(etc / "crictl.yaml", f"runtime-endpoint: unix://{self.socket}\n")
        self.socket.parent.mkdir(parents=True, exist_ok=True)
        self.layout.certs_d.mkdir(parents=True, exist_ok=True)
        children.start(
            "containerd",
            [program("containerd"), f"--config={etc}/containerd/config.toml"],
            self.layout.containerd / "containerd.log",
        )
        wait_until("containerd", lambda: children.check() and self._answers(), 120)

    def _answers(self) -> bool:
        with contextlib.suppress(FatalError, subprocess.TimeoutExpired):
            output(*ctr_command(self.socket), "plugins", "ls", "-q", seconds=10)
            return True
        return False

    def import_images(self) -> None:
        """Import archives below ``agent/images`` that are new or have changed."""
        if not self.layout.images.is_dir():
            return
        for path in sorted(self.layout.images.iterdir()):
            if not path.name.endswith((".tar", ".tar.gz", ".tar.zst", ".tgz")):
                continue
            stat = path.stat()
            seen = (stat.st_mtime, stat.st_size)
            if self._imported.get(path) == seen:
                continue
            log("info", f"importing images from {path}")
            if path.name.endswith(".tar"):
                output(*ctr_command(self.socket), "images", "import", str(path), seconds=600)
            else:
                self._import_compressed(path)
            self._imported[path] = seen

    def _import_compressed(self, path: Path) -> None:
        unpack = ["zstd", "-dc"] if path.name.endswith(".zst") else ["gzip", "-dc"]
        with subprocess.Popen([*unpack, str(path)], stdout=subprocess.PIPE) as unpacking:
            done = subprocess.run(
                [*ctr_command(self.socket), "images", "import", "-"],
                stdin=unpacking.stdout,
                capture_output=True,
                text=True,
                env=environment(),
            )
        if done.returncode or unpacking.returncode:
            raise FatalError(f"failed to import images from {path}: {done.stderr.strip()}")


def ctr_command(socket: Path | None = None) -> list[str]:
    """The beginning of a call of ``ctr``."""
    address = str(socket or os.environ.get("CONTAINERD_ADDRESS") or CONTAINERD_SOCKET)
    namespace = os.environ.get("CONTAINERD_NAMESPACE", "k8s.io")
    return [program("ctr"), "--address", address, "--namespace", namespace]
