"""Bringing devices up: the same deploy as plain pyinfra runs, in a process of its own."""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from muster.errors import InputError, MusterError
from muster.inventory import Device, Inventory, pyinfra_hosts, pyinfra_name
from muster.paths import COLLECTION_ROOT
from muster.role_variables import check_variables

SITE_ROLES = (
    "base", "time", "storage", "watchdog", "updates", "hardening", "wireguard",
    "docker", "podman", "containerd",
    "nvidia", "jetson", "coral", "hailo", "intel", "cpu",
    "registry", "hub", "monitoring", "prometheus",
    "k3s_server", "k3s_agent",
    "muster_device", "firewall",
)  # fmt: skip
"""Roles that ``deploys/site.py`` runs where they are chosen, in this order."""

REPORT_FILE = "MUSTER_PROVISION_REPORT"
"""Environment variable with the path of a file that gets one line of JSON for each device."""

_DEPLOYS = COLLECTION_ROOT / "deploys"
_DEVICE_LINE = re.compile(r"^\s*\[(?P<name>[^\]]+)\]\s+(?P<text>.*)$")
_STEP_LINE = re.compile(r"^--> Starting operation: (?P<name>.*?)\s*$")
_TAIL = 15
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Operation:
    """What became of one operation on one device.

    :param outcome: ``changed``, ``unchanged``, ``failed``, ``not run`` or ``would change``.
    :param error: what the device said when it failed.
    """

    name: str
    outcome: str
    error: str = ""


@dataclass(frozen=True)
class DeviceResult:
    """What became of one device.

    :param operations: in the order in which they ran; empty if the device was not reached.
    :param error: why it failed, empty if it did not.
    """

    device: Device
    operations: tuple[Operation, ...] = ()
    error: str = ""

    @property
    def failed(self) -> bool:
        """Whether the device is not what it should be."""
        return bool(self.error)

    @property
    def failed_operation(self) -> str | None:
        """Name of the operation that failed, None if no operation did."""
        return next((op.name for op in self.operations if op.outcome == "failed"), None)

    def count(self, *outcomes: str) -> int:
        """Number of operations with one of these outcomes."""
        return sum(operation.outcome in outcomes for operation in self.operations)


@dataclass
class _Log:
    """pyinfra's output: what it told about each device, and all of it."""

    of_device: dict[str, list[str]] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    def add(self, line: str) -> None:
        self.lines.append(line)
        if match := _DEVICE_LINE.match(line):
            self.of_device.setdefault(match["name"], []).append(match["text"])

    def tail(self) -> str:
        return "\n".join(line for line in self.lines[-_TAIL:] if line.strip())

    def complaint(self) -> str:
        """What pyinfra itself gave as the reason for ending."""
        found = [line.removeprefix("--> ") for line in self.lines if "pyinfra error" in line]
        return found[-1].strip() if found else "not reached"


def provision(
    inventory: Inventory,
    limit: str | None = None,
    *,
    dry: bool = False,
    verbosity: int = 0,
    on_step: Callable[[str], None] = lambda _name: None,
    on_line: Callable[[str], None] = lambda _line: None,
    environment: Mapping[str, str] | None = None,
) -> list[DeviceResult]:
    """Run ``deploys/site.py`` on the devices of an inventory.

    :param inventory: already limited.
    :param limit: the pattern that limited it.
    :param dry: only find out what would change.
    :param verbosity: how much pyinfra tells, 0 to 3.
    :param on_step: called with the name of each operation when it begins.
    :param on_line: called with each line of pyinfra's log.
    :param environment: variables of the environment that roles read besides.
    :returns: one result for each device, in inventory order.
    :raises InputError: invalid variables, found before anything was connected.
    :raises MusterError: the run broke off for a reason that is not a device's.
    """
    problems = []
    for check in (pyinfra_hosts, lambda i: check_variables(i, SITE_ROLES)):
        try:
            check(inventory)
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    with tempfile.TemporaryDirectory(prefix="muster-") as folder:
        report = Path(folder) / "report"
        report.touch(mode=0o600)
        variables = {**_environment(inventory.path, limit, report), **(environment or {})}
        # With --json it asks nobody whether to go on after a failed connection, not even dry.
        command = [sys.executable, "-m", "pyinfra", "--json", "--config", os.devnull]
        command += ["--dry" if dry else "--yes", *["-v"] * verbosity]
        command += [str(_DEPLOYS / "inventory.py"), str(_DEPLOYS / "site.py")]
        code, log = _run(command, variables, on_step, on_line)
        told = [json.loads(line) for line in report.read_text(encoding="utf-8").splitlines()]
    if code == InputError.exit_code:
        raise InputError(log.tail())
    reports = {entry["device"]: entry for entry in told}
    results = [_result(device, reports.get(device.name), log) for device in inventory.devices]
    if code != 0 and not any(result.failed for result in results):
        raise MusterError(f"pyinfra ended with status {code}:\n{log.tail()}")
    return results


def _environment(path: Path, limit: str | None, report: Path) -> dict[str, str]:
    search = [str(COLLECTION_ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "MUSTER_INVENTORY": str(path.absolute()),
        "PYTHONPATH": os.pathsep.join(part for part in search if part),
        "PYINFRA_PROGRESS": "off",
        REPORT_FILE: str(report),
    }
    environment.pop("MUSTER_LIMIT", None)
    return environment if limit is None else {**environment, "MUSTER_LIMIT": limit}


def _run(
    command: list[str],
    environment: Mapping[str, str],
    on_step: Callable[[str], None],
    on_line: Callable[[str], None],
) -> tuple[int, _Log]:
    log = _Log()
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        env=environment,
        preexec_fn=_end_with_controller,
    ) as process:
        for line in _lines(process.stderr):
            log.add(line)
            on_line(line)
            if match := _STEP_LINE.match(line):
                on_step(match["name"])
    return process.returncode, log


def _end_with_controller() -> None:
    """Have the kernel end this process with the one that started it: who takes over provisions the
    same devices. Linux only, see prctl(2)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _lines(stream: Iterable[str] | None) -> Iterable[str]:
    for line in stream or ():
        yield line.rstrip("\n")


def _result(device: Device, report: dict[str, Any] | None, log: _Log) -> DeviceResult:
    said = log.of_device.get(pyinfra_name(device), [])
    if report is None:
        if "Connected" in said:
            raise MusterError(f"pyinfra broke off:\n{log.tail()}")
        return DeviceResult(device, error=said[-1] if said else log.complaint())
    operations = tuple(Operation(**entry) for entry in report["operations"])
    failed = next((operation for operation in operations if operation.outcome == "failed"), None)
    error = ""
    if failed is not None:
        error = failed.error or " ".join(said[-1:]) or "no reason given"
    elif report["failed"]:
        error = "\n".join(said[-3:]) or "no reason given"
    return DeviceResult(device, operations, error)
