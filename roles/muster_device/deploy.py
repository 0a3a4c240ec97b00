"""The device program, its units and what it needs to know."""

from __future__ import annotations

import json
from pathlib import Path

from pyinfra.api.deploy import deploy
from pyinfra.operations import files as pyinfra_files

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
    program = (_FILES / "muster_device.py").read_text(encoding="utf-8")
    place_files(name="program", files=[File("/usr/local/sbin/muster-device", program, "755")])
    place_files(name="configuration", files=_configuration(variables))
    place_files(name="units", files=_units(), then="systemctl daemon-reload")
    pyinfra_files.directory(
        name="state", path="/var/lib/muster", user="root", group="root", mode="700"
    )
    enable_unit(name="start of models", unit="muster-boot.service", active=False)


def _units() -> list[File]:
    return [
        File(f"/etc/systemd/system/{file.name}", file.read_text(encoding="utf-8"))
        for file in sorted((_FILES / "systemd").iterdir())
    ]


def _configuration(variables: Variables) -> list[File]:
    key = variables.muster_device_release_public_key
    document = {
        "runtime": variables.muster_device_runtime,
        "registry": variables.muster_registry,
        "release_public_key": _PUBLIC_KEY if key else None,
        "hardware_root": variables.muster_device_hardware_root,
        "proxy": variables.muster_device_proxy,
    }
    text = json.dumps(document, indent=2, sort_keys=True) + "\n"
    found = [File("/etc/muster/device.json", text)]
    if key:
        content = Path(key).expanduser().read_text(encoding="utf-8").rstrip("\n") + "\n"
        found.append(File(_PUBLIC_KEY, content))
    return found
