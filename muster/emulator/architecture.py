"""Devices of another architecture than the machine's: what it takes to run their programs."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from muster.errors import InputError, MusterError

Architecture = Literal["amd64", "arm64"]

MACHINES: Mapping[str, str] = {"amd64": "x86_64", "arm64": "aarch64"}
"""Architectures as packages and images spell them, and as kernels do."""

BINFMT = Path("/proc/sys/fs/binfmt_misc")
"""Where the kernel lists the programs that interpret those of other machines."""

_ELF_MACHINES = {"x86_64": 62, "aarch64": 183}
_NEEDED = {
    "F": "it has to work in containers, where its file is not",
    "C": "sudo has to work",
}


def own_architecture() -> str:
    """Architecture of this machine.

    :raises MusterError: when devices of it can't be emulated.
    """
    for name, machine in MACHINES.items():
        if machine == platform.machine():
            return name
    raise MusterError(f"devices can't be emulated on {platform.machine()}")


def foreign_architectures(wanted: Mapping[str, str], own: str) -> tuple[str, ...]:
    """Architectures, of those that devices name, which are not the machine's own."""
    return tuple(sorted(set(wanted.values()) - {own}))


def read_handlers(folder: Path = BINFMT) -> dict[str, str]:
    """Text of every interpreter that the kernel knows, by its name."""
    if not folder.is_dir():
        return {}
    return {
        path.name: path.read_text(encoding="ascii", errors="replace")
        for path in sorted(folder.iterdir())
        if path.name not in ("register", "status")
    }


def emulation_problem(architecture: str, handlers: Mapping[str, str]) -> str | None:
    """What keeps this machine from running devices of another architecture.

    :param handlers: text of every interpreter that the kernel knows, by its name.
    :returns: the problem, or nothing when a fitting interpreter is registered.
    """
    header = _elf_header(_ELF_MACHINES[MACHINES[architecture]])
    problem = "no interpreter for its programs is registered with the kernel"
    for name, text in handlers.items():
        if not _interprets(text, header):
            continue
        flags = re.search(r"^flags: *(\S*)", text, re.MULTILINE)
        lacking = [flag for flag in _NEEDED if flag not in (flags[1] if flags else "")]
        if not lacking:
            return None
        reasons = "; ".join(f"{flag}, as {_NEEDED[flag]}" for flag in lacking)
        problem = f"the interpreter {name} lacks the flag {reasons}"
    return problem


def require_emulation(wanted: Mapping[str, str], own: str, handlers: Mapping[str, str]) -> None:
    """Refuse devices whose programs this machine does not run.

    :param wanted: architecture by device.
    :raises InputError: naming each device and what is missing.
    """
    problems = []
    for device, architecture in wanted.items():
        problem = emulation_problem(architecture, handlers) if architecture != own else None
        if problem:
            problems.append(
                f"devices.{device}.architecture: this machine can't run {architecture}: {problem}; "
                f"as root, run scripts/binfmt.sh register"
            )
    if problems:
        raise InputError(problems)


def _elf_header(machine: int) -> bytes:
    """First bytes of a little-endian 64-bit program that is not position-independent."""
    return b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00" + machine.to_bytes(2, "little")


def _interprets(text: str, header: bytes) -> bool:
    found = {
        key: re.search(rf"^{key} ([0-9a-f]+)$", text, re.MULTILINE) for key in ("magic", "mask")
    }
    magic, mask = (bytes.fromhex(match[1]) if match else b"" for match in found.values())
    if not text.startswith("enabled") or not magic or len(magic) > len(header):
        return False
    mask = mask or b"\xff" * len(magic)
    seen = bytes(a & b for a, b in zip(header, mask, strict=False))
    return seen == bytes(a & b for a, b in zip(magic, mask, strict=True))
