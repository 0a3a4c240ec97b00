"""Says what a device is. Its text is sent to the device and run there; nothing is installed.

Standard library only, Python 3.8 or newer; ``program`` is the device program as a module.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
from typing import Any, Sequence

_JUNK = re.compile(
    r"|0+|[0-9]?123456789[0-9]*|x+|none|n/a|unknown|default string|to be filled by o\.?e\.?m\.?"
    r"|system serial number|system product name|not (specified|applicable|available)|oem",
    re.IGNORECASE,
)
"""What makers leave where a serial number or a name should be."""


def describe(program: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Return what this device is, as plain data.

    :param given: ``hardware_root``, a folder that stands for "/" as well, or None.
    """
    paths = program.Paths(os.environ.get("MUSTER_ROOT", "/"))
    extra = given.get("hardware_root")
    roots = [paths.root] + ([paths.at(extra)] if extra else [])

    def read(*names: str) -> str | None:
        for root in roots:
            for name in names:
                text = program.read_text(os.path.join(root, name))
                if text and not _JUNK.fullmatch(text.strip()):
                    return str(text).strip()
        return None

    compatible = _compatible(roots)
    dmi = " ".join(filter(None, [read(_DMI + "sys_vendor"), read(_DMI + "product_name")]))
    return {
        "arch": program.architecture(),
        "memory": program.memory(paths).get("MemTotal", 0),
        "model": read("proc/device-tree/model") or ("" if compatible else dmi),
        "compatible": compatible,
        "serial": read("proc/device-tree/serial-number", _DMI + "product_serial"),
        "machine_id": read("etc/machine-id"),
        "hostname": platform.node(),
        "os": _os_name(program.read_text(paths.at("etc/os-release")) or ""),
        "kernel": platform.release(),
        "accelerators": program.Hardware(paths, roots).accelerators(),
        "pci": _pci(program, roots),
    }


_DMI = "sys/class/dmi/id/"


def _compatible(roots: Sequence[str]) -> list[str]:
    for root in roots:
        try:
            with open(os.path.join(root, "proc/device-tree/compatible"), "rb") as file:
                text = file.read(4096)
        except OSError:
            continue
        words = [word.strip() for word in text.decode("utf-8", "replace").split("\0")]
        if any(words):
            return [word for word in words if word]
    return []


def _pci(program: Any, roots: Sequence[str]) -> list[dict[str, str]]:
    functions = []
    for root in roots:
        folder = os.path.join(root, "sys/bus/pci/devices")
        with contextlib.suppress(OSError):
            for name in sorted(os.listdir(folder)):
                texts = {
                    key: program.read_text(os.path.join(folder, name, key)) or ""
                    for key in ("vendor", "device", "class")
                }
                functions.append({key: text.replace("0x", "") for key, text in texts.items()})
    return functions


def _os_name(text: str) -> str | None:
    match = re.search(r'^PRETTY_NAME="?([^"\n]*)', text, re.MULTILINE)
    return match.group(1) if match else None
