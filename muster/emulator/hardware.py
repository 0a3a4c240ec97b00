"""What the detection of hardware reads, for every kind of device that can be emulated.

``/proc`` and ``/sys`` can't be written in a container, so their files lie below
:data:`HARDWARE_ROOT`; everything else lies where the vendor puts it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

HARDWARE_ROOT = "/etc/muster/emulated-hardware"
"""Folder in a device that stands for ``/`` where detection looks into ``/proc`` and ``/sys``."""

_TMPFILES = "/etc/tmpfiles.d/emulated-hardware.conf"


@dataclass(frozen=True)
class HardwareProfile:
    """One kind of hardware.

    :param group: inventory group of devices of this kind.
    :param files: path in the device to content.
    :param nodes: device nodes; they open and read as zeros, as no driver stands behind them.
    """

    group: str
    files: Mapping[str, str] = field(default_factory=dict)
    nodes: tuple[str, ...] = ()

    def all_files(self) -> dict[str, str]:
        """Everything to write into a device, with what makes the nodes at each boot."""
        lines = [f"c {node} 0666 root root - 1:5\n" for node in self.nodes]
        folders = sorted({node.rsplit("/", 1)[0] for node in self.nodes} - {"/dev"})
        lines = [f"d {folder} 0755 root root -\n" for folder in folders] + lines
        return {**self.files, _TMPFILES: "".join(lines)} if lines else dict(self.files)


def _virtual(files: Mapping[str, str]) -> dict[str, str]:
    return {f"{HARDWARE_ROOT}/{path}": content for path, content in files.items()}


def _tree_model(model: str, *compatible: str) -> dict[str, str]:
    # strings of a device tree end with NUL
    return _virtual(
        {
            "proc/device-tree/model": model + "\0",
            "proc/device-tree/compatible": "".join(entry + "\0" for entry in compatible),
        }
    )


def _pci(vendor: str, device: str, pci_class: str, listing: str) -> dict[str, str]:
    """One PCI function; ``listing`` is the description as ``lspci -nn`` words it."""
    slot = "sys/bus/pci/devices/0000:01:00.0"
    kind, name = listing.split(": ", 1)
    return _virtual(
        {
            f"{slot}/vendor": f"0x{vendor}\n",
            f"{slot}/device": f"0x{device}\n",
            f"{slot}/class": f"0x{pci_class}\n",
            "lspci-nn": f"01:00.0 {kind} [{pci_class[:4]}]: {name} [{vendor}:{device}]\n",
        }
    )


def _usb(vendor: str, product: str, name: str) -> dict[str, str]:
    device = "sys/bus/usb/devices/1-1"
    return _virtual(
        {
            f"{device}/idVendor": vendor + "\n",
            f"{device}/idProduct": product + "\n",
            "lsusb": f"Bus 001 Device 002: ID {vendor}:{product} {name}\n",
        }
    )


PROFILES: Mapping[str, HardwareProfile] = {
    "jetson_orin": HardwareProfile(
        group="hw_jetson_orin",
        files={
            "/etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, "
            "BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 01:49:37 UTC 2025\n",
            **_tree_model(
                "NVIDIA Jetson Orin Nano Developer Kit",
                "nvidia,p3768-0000+p3767-0005",
                "nvidia,tegra234",
            ),
        },
        nodes=("/dev/nvmap", "/dev/nvhost-ctrl", "/dev/nvhost-gpu"),
    ),
    "raspberry_pi": HardwareProfile(
        group="hw_raspberry_pi",
        files=_tree_model(
            "Raspberry Pi 5 Model B Rev 1.0", "raspberrypi,5-model-b", "brcm,bcm2712"
        ),
        nodes=("/dev/vcio", "/dev/gpiomem"),
    ),
    "coral": HardwareProfile(
        group="hw_coral",
        files={
            **_pci("1ac1", "089a", "088000", "System peripheral: Global Unichip Coral Edge TPU"),
            **_virtual(
                {
                    "sys/module/apex/version": "1.2\n",
                    "sys/class/apex/apex_0/driver_version": "1.2\n",
                    "sys/class/apex/apex_0/temp": "48550\n",
                }
            ),
        },
        nodes=("/dev/apex_0",),
    ),
    "coral_usb": HardwareProfile(
        group="hw_coral", files=_usb("1a6e", "089a", "Global Unichip Corp.")
    ),
    "hailo": HardwareProfile(
        group="hw_hailo",
        files={
            **_pci("1e60", "2864", "120000", "Co-processor: Hailo Technologies Hailo-8"),
            **_virtual({"sys/module/hailo_pci/version": "4.20.0\n"}),
        },
        nodes=("/dev/hailo0",),
    ),
    "hailo10": HardwareProfile(
        group="hw_hailo",
        files={
            **_pci("1e60", "45c4", "120000", "Co-processor: Hailo Technologies Hailo-10H"),
            **_virtual({"sys/module/hailo1x_pci/version": "5.1.1\n"}),
        },
        nodes=("/dev/hailo0",),
    ),
    "x86_gpu": HardwareProfile(
        group="hw_x86_gpu",
        files={
            **_pci("10de", "2531", "030000", "VGA compatible controller: NVIDIA RTX A2000"),
            **_virtual(
                {
                    "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module"
                    "  535.183.01  Sun May 12 19:39:15 UTC 2024\n"
                }
            ),
        },
        nodes=("/dev/nvidia0", "/dev/nvidiactl"),
    ),
    "intel_gpu": HardwareProfile(
        group="hw_intel",
        files=_pci("8086", "56a0", "030000", "VGA compatible controller: Intel Arc A770"),
        nodes=("/dev/dri/renderD128",),
    ),
    "intel_npu": HardwareProfile(
        group="hw_intel",
        files=_pci("8086", "7d1d", "120000", "Processing accelerators: Intel Meteor Lake NPU"),
        nodes=("/dev/accel/accel0",),
    ),
    "cpu": HardwareProfile(group="hw_cpu"),
}
"""Hardware profiles by the name that a fleet document uses."""
