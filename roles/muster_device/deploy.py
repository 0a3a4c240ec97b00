"""The device program, its units and what it needs to know."""

from __future__ import annotations

import json
from pathlib import Path

from pyinfra import host
from pyinfra.api.deploy import deploy
from pyinfra.operations import files as pyinfra_files

from muster.k3s.naming import node_name
from muster.paths import COLLECTION_ROOT
from roles.muster_device.operations import proxy_package
from roles.muster_device.variables import Variables
from roles.operations import File, enable_unit, packages, place_files

_FILES = COLLECTION_ROOT / "files"
_PUBLIC_KEY = "/etc/muster/release.pub"


@deploy("muster_device")
def muster_device(variables: Variables) -> None:
    """Install the device program of this checkout."""
    key = variables.muster_device_release_public_key
    if key:
        packages(name="minisign", names=["minisign"])
    if variables.muster_device_proxy:
        proxy_package(name="haproxy")
    # The program comes first: an older one does not know every key.
    place_files(name="program", files=_programs())
    place_files(
        name="configuration",
        files=_configuration(variables),
        check=same_runtime(variables.muster_device_runtime),
    )
    place_files(
        name="units",
        files=[*_units(), *start_of_runtime(variables.muster_device_runtime)],
        then="systemctl daemon-reload",
    )
    pyinfra_files.directory(
        name="state", path="/var/lib/muster", user="root", group="root", mode="700"
    )
    enable_unit(name="start of models", unit="muster-boot.service", active=False)


def _programs() -> list[File]:
    return [
        File(
            f"/usr/local/sbin/{name.replace('_', '-')}",
            (_FILES / f"{name}.py").read_text(encoding="utf-8"),
            "755",
        )
        for name in ("muster_device", "muster_task")
    ]


def _units() -> list[File]:
    return [
        File(f"/etc/systemd/system/{file.name}", file.read_text(encoding="utf-8"))
        for file in sorted((_FILES / "systemd").iterdir())
    ]


def start_of_runtime(runtime: str) -> list[File]:
    """Files that make the units of the models wait for their runtime, and start it."""
    service = {"docker": "docker.service", "containerd": "containerd.service"}.get(runtime)
    lines = [f"# Written by the role muster_device: the models run on {runtime}.", "[Unit]"]
    if service:
        lines += [f"After={service}", f"Wants={service}"]
    elif runtime == "k3s":  # a node has one of them
        lines.append("After=k3s.service k3s-agent.service")
    text = "\n".join(lines) + "\n"
    units = ("muster-boot.service", "muster-model@.service")
    return [File(f"/etc/systemd/system/{unit}.d/10-runtime.conf", text) for unit in units]


def same_runtime(runtime: str) -> str:
    """Shell command that fails when releases on the device are in another runtime's hands."""
    return (
        'told=$(sed -n \'s/^ *"runtime": "\\([a-z0-9]*\\)".*/\\1/p\' /etc/muster/device.json'
        " 2>/dev/null)\n"
        f'if [ -n "$told" ] && [ "$told" != {runtime} ] && ls -d /var/lib/muster/*/current'
        " >/dev/null 2>&1; then\n"
        f'echo "models run on $told here, not on {runtime}: reset the device first" >&2\n'
        "exit 1\nfi"
    )


def _configuration(variables: Variables) -> list[File]:
    key = variables.muster_device_release_public_key
    document = {
        "runtime": variables.muster_device_runtime,
        "registry": variables.muster_registry,
        "release_public_key": _PUBLIC_KEY if key else None,
        "hardware_root": variables.muster_device_hardware_root,
        "proxy": variables.muster_device_proxy,
    }
    if variables.muster_device_runtime == "k3s":
        document["node"] = node_name(host.data.get("inventory_device", host.name))
    text = json.dumps(document, indent=2, sort_keys=True) + "\n"
    # A second one, as the way back needs to know the runtime when the first is damaged.
    found = [File(f"/etc/muster/device.json{suffix}", text) for suffix in ("", ".copy")]
    if key:
        content = Path(key).expanduser().read_text(encoding="utf-8").rstrip("\n") + "\n"
        found.append(File(_PUBLIC_KEY, content))
    return found
