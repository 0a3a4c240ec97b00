"""The image of emulated devices that can be nodes of K3s: the usual one, and the programs."""

from __future__ import annotations

import hashlib
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import docker
from docker.errors import ImageNotFound

from muster.emulator.images import ensure_images

_BUILD = Path(__file__).parent / "build.sh"
_DOCKERFILE = """ARG BASE
FROM ${BASE}
ADD programs.tar /opt/
# what the kubelet reads the kernel's messages from
RUN echo 'c /dev/kmsg 0600 root root - 1:11' >/etc/tmpfiles.d/kmsg.conf
# filesystems of containers can't lie on the overlay that a device itself is
VOLUME /var/lib
"""


def programs() -> Path:
    """The folder with Kubernetes, etcd and CNI plugins, built when it is missing."""
    done = subprocess.run([str(_BUILD)], stdout=subprocess.PIPE, text=True, check=True)
    return Path(done.stdout.strip())


def ensure(report: Callable[[str], None] = print, stand_in: bool = True) -> str:
    """Build the image unless it is there.

    :param stand_in: whether to bring what the stand-in runs; the real K3s brings its own.
    :returns: its name, for the key ``image`` of a device in a fleet document.
    """
    client = docker.from_env(timeout=600)
    base = ensure_images(client, report).device
    folder = programs() if stand_in else None
    brought = folder.name if folder else ""
    key = hashlib.sha256(f"{base} {brought} {_DOCKERFILE}".encode()).hexdigest()[:12]
    name = f"muster-k3s-device:{key}"
    try:
        client.images.get(name)
    except ImageNotFound:
        report("building the image of devices for K3s")
        with tempfile.TemporaryDirectory() as context:
            (Path(context) / "Dockerfile").write_text(_DOCKERFILE, encoding="utf-8")
            with tarfile.open(Path(context) / "programs.tar", "w") as archive:
                if folder:
                    archive.add(folder, "k3s-stand-in")
            client.images.build(
                path=context, tag=name, buildargs={"BASE": base}, network_mode="none", rm=True
            )
    return name
