"""What a device shows of its hardware, and which accelerators that makes: pure functions."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class PciFunction:
    """A PCI function.

    :param identity: ``vendor:device``, hex digits.
    :param kind: class, six hex digits.
    :param driver: name of the kernel module that has it, empty if none has.
    """

    identity: str
    kind: str
    driver: str = ""


@dataclass(frozen=True)
class UsbDevice:
    """A USB device.

    :param identity: ``vendor:product``, hex digits.
    :param node: its node below ``/dev/bus/usb``, empty if it is not known.
    """

    identity: str
    node: str = ""


@dataclass(frozen=True)
class Seen:
    """What a device shows of its hardware.

    :param kernel: release of the running kernel.
    :param nodes: device nodes that drivers of accelerators make.
    :param modules: loaded kernel modules to their versions, empty where they do not tell.
    :param texts: first lines of files of vendors: ``model`` (of the device tree), ``tegra``,
        ``nvidia``.
    """

    kernel: str = ""
    pci: tuple[PciFunction, ...] = ()
    usb: tuple[UsbDevice, ...] = ()
    nodes: tuple[str, ...] = ()
    modules: Mapping[str, str] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)


def read(answer: Mapping[str, Any]) -> Seen:
    """Take what the fact ``Hardware`` gave."""
    return Seen(
        str(answer.get("kernel", "")),
        tuple(PciFunction(**each) for each in answer.get("pci", ())),
        tuple(UsbDevice(**each) for each in answer.get("usb", ())),
        tuple(answer.get("nodes", ())),
        dict(answer.get("modules", {})),
        dict(answer.get("texts", {})),
    )


@dataclass(frozen=True)
class Found:
    """Accelerators of one kind and make.

    :param make: ``pcie`` or ``usb``, ``gpu`` or ``npu``, or the kind itself.
    :param nodes: nodes to give to containers.
    :param driver: version of the driver, empty if it is not known.
    """

    make: str
    model: str
    nodes: tuple[str, ...] = ()
    driver: str = ""


HAILO = {"1e60:2864": "Hailo-8", "1e60:45c4": "Hailo-10H", "1e60:43a2": "Hailo-15L"}
CORAL_PCI = ("1ac1:089a",)
CORAL_USB = ("1a6e:089a", "18d1:9302")
INTEL_NPU = ("8086:7d1d", "8086:ad1d", "8086:643e", "8086:b03e", "8086:fd3e")

_LOOKED_FOR = {
    "nvidia": "a PCI display controller of vendor 10de",
    "jetson": "/etc/nv_tegra_release or a Jetson in the device tree",
    "coral": f"PCI {', '.join(CORAL_PCI)} or USB {', '.join(CORAL_USB)}",
    "hailo": f"PCI {', '.join(HAILO)}",
    "intel": f"a PCI display controller of vendor 8086 or PCI {', '.join(INTEL_NPU)}",
}


def find(kind: str, seen: Seen) -> list[Found]:
    """Accelerators of a kind that a device shows; ``cpu`` is in every device."""
    return _FINDERS[kind](seen)


def missing(kind: str, seen: Seen) -> str | None:
    """Say that a device has no accelerator of a kind, and what it has; None if it has one."""
    if find(kind, seen):
        return None
    others = [other for other in _LOOKED_FOR if other != kind and find(other, seen)]
    has = f"it has {', '.join(others)}" if others else "it has no other that is known"
    return (
        f"muster_accelerator is {kind}, but this device has no such accelerator: looked for"
        f" {_LOOKED_FOR[kind]}; {has}"
    )


def _nodes(seen: Seen, pattern: str) -> tuple[str, ...]:
    found = [node for node in seen.nodes if re.fullmatch(pattern, node)]
    return tuple(sorted(found, key=lambda node: (len(node), node)))


def _module(seen: Seen, *names: str) -> str:
    return next((seen.modules[name] for name in names if seen.modules.get(name)), "")


def _nvidia(seen: Seen) -> list[Found]:
    gpus = [each for each in seen.pci if each.identity[:5] == "10de:" and each.kind[:2] == "03"]
    match = re.search(r"Kernel Module.*?\s(\d+(?:\.\d+)+)", seen.texts.get("nvidia", ""))
    driver = match[1] if match else ""
    nodes = _nodes(seen, r"/dev/nvidia\d+") + _nodes(seen, "/dev/nvidiactl")
    return [Found("gpu", f"NVIDIA {gpus[0].identity}", nodes, driver)] if gpus else []


def _jetson(seen: Seen) -> list[Found]:
    model, tegra = seen.texts.get("model", ""), seen.texts.get("tegra", "")
    if not tegra and "jetson" not in model.lower():
        return []
    match = re.search(r"R(\d+)\D+REVISION:\s*([\d.]+)", tegra)
    nodes = _nodes(seen, "/dev/nvhost-gpu") + _nodes(seen, "/dev/nvmap")
    return [Found("jetson", model or "Jetson", nodes, ".".join(match.groups()) if match else "")]


def _coral(seen: Seen) -> list[Found]:
    found = []
    if any(each.identity in CORAL_PCI for each in seen.pci):
        driver = _module(seen, "apex", "gasket")
        found.append(Found("pcie", "Edge TPU PCIe", _nodes(seen, r"/dev/apex_\d+"), driver))
    usb = [each for each in seen.usb if each.identity in CORAL_USB]
    if usb:
        nodes = tuple(each.node for each in usb if each.node)
        found.append(Found("usb", "Edge TPU USB", nodes))
    return found


def _hailo(seen: Seen) -> list[Found]:
    models = [HAILO[each.identity] for each in seen.pci if each.identity in HAILO]
    if not models:
        return []
    driver = _module(seen, "hailo_pci", "hailo1x_pci", "hailo")
    return [Found("pcie", models[0], _nodes(seen, r"/dev/hailo\d+"), driver)]


def _intel(seen: Seen) -> list[Found]:
    found = []
    own = [each for each in seen.pci if each.identity[:5] == "8086:"]
    makes = (
        ("gpu", [e for e in own if e.kind[:2] == "03"], r"/dev/dri/renderD\d+"),
        ("npu", [e for e in own if e.identity in INTEL_NPU], r"/dev/accel/accel\d+"),
    )
    for make, functions, pattern in makes:
        if functions:
            first = functions[0]
            driver = _module(seen, first.driver) or first.driver
            name = f"{make.upper()} {first.identity}"
            found.append(Found(make, name, _nodes(seen, pattern), driver))
    return found


_FINDERS: Mapping[str, Callable[[Seen], list[Found]]] = {
    "nvidia": _nvidia,
    "jetson": _jetson,
    "coral": _coral,
    "hailo": _hailo,
    "intel": _intel,
    "cpu": lambda _seen: [Found("cpu", "CPU")],
}
