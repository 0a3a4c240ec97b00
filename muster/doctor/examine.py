"""Examining devices: one question to each, then what the answers mean."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from muster import on_device
from muster.doctor import host, nodes, services
from muster.doctor import on_device as task
from muster.doctor.findings import Expected, Finding, ok, ordered
from muster.doctor.reaching import connection_findings, no_answer
from muster.inventory import Device, pyinfra_data_by_name
from muster.k3s.cluster import role_of
from muster.paths import COLLECTION_ROOT

if TYPE_CHECKING:
    from muster.fleet.scripts import Ran

SECONDS = 90.0
"""Bound for one device: connecting, measuring, a registry that does not answer."""

_KINDS = {
    "hw_jetson_orin": "jetson",
    "hw_coral": "coral",
    "hw_hailo": "hailo",
    "hw_x86_gpu": "nvidia",
    "hw_intel": "intel",
}


def diagnose(
    measured: Mapping[str, Any], expected: Expected, sent: float, received: float
) -> list[Finding]:
    """Everything that measurements of a device mean.

    :param measured: what :mod:`muster.doctor.on_device` said.
    :param sent: our clock (seconds since 1970 UTC) before it was asked.
    :param received: our clock after it had answered.
    """
    return [
        ok("python", str(measured.get("python"))),
        host.clock(measured, sent, received),
        *host.disk(measured),
        host.memory(measured),
        host.runtime(measured, expected),
        *nodes.k3s(measured, expected, received),
        *host.accelerator(measured, expected),
        services.registry(measured, expected, received),
        *services.certificates(measured, received),
        *services.guard(measured, expected),
        *services.program(measured, expected),
        *host.units(measured, expected),
        *services.release(measured, expected),
    ]


def expectations(
    device: Device, quarantined: Mapping[str, Mapping[str, str]], strict: bool
) -> Expected:
    """What a device should be like, as the inventory, the checkout and the journal say.

    :param quarantined: why devices are in quarantine: by model, then by device.
    """
    said = device.variables.get("muster_accelerator")
    kind = said if said is not None else _KINDS.get(device.hardware or "")
    folder = COLLECTION_ROOT / "files" / "systemd"
    return Expected(
        device=device.name,
        runtime=device.variables.get("muster_device_runtime"),
        accelerator=None if kind in (None, "none", "cpu") else str(kind),
        program=_digest(on_device.DEVICE_PROGRAM.read_bytes()),
        units={file.name: _digest(file.read_bytes()) for file in folder.glob("muster-*")},
        quarantined={
            model: devices[device.name]
            for model, devices in quarantined.items()
            if device.name in devices
        },
        strict=strict,
        registry_ca=_names_registry_ca(device.variables),
        k3s_role="" if role_of(device) == "none" else role_of(device),
        k3s_version=str(device.variables.get("k3s_version") or ""),
    )


def _names_registry_ca(variables: Mapping[str, Any]) -> bool:
    """Whether provisioning brings the CA of the registry to a device with these variables."""
    if variables.get("muster_registry_pki") or variables.get("muster_registry_ca"):
        return True
    further = variables.get(f"{variables.get('muster_device_runtime') or 'docker'}_registry_cas")
    return isinstance(further, Mapping) and variables.get("muster_registry") in further


def examine(
    devices: Sequence[Device],
    quarantined: Mapping[str, Mapping[str, str]],
    progress: Callable[[str], None] = lambda _name: None,
) -> dict[str, list[Finding]]:
    """Look at devices, all at once.

    :param progress: called with the name of each device that has been looked at.
    :returns: the findings for each device by name, in the order of the checks.
    :raises InputError: connection variables that can't be used.
    """
    from muster.fleet.scripts import ScriptFleet

    data = pyinfra_data_by_name(devices)
    requests = {device.name: _request(device) for device in devices}

    def question(name: str) -> tuple[str, str]:
        return on_device.COMMAND, requests[name]

    fleet = ScriptFleet(data)
    try:
        answers = fleet.run_everywhere(list(data), question, SECONDS, progress=progress)
        # What the login alone may see still tells something where sudo is broken.
        again = [name for name, ran in answers.items() if ran.connected and not _answered(ran)]
        second = fleet.run_everywhere(again, question, SECONDS, as_root=False)
    finally:
        fleet.close()
    found = {}
    for device in devices:
        strict = data[device.name].get("ssh_strict_host_key_checking") != "no"
        expected = expectations(device, quarantined, strict)
        found[device.name] = _findings(answers[device.name], second.get(device.name), expected)
    return found


def _request(device: Device) -> str:
    variables = device.variables
    given = {
        "registry": variables.get("muster_registry"),
        "hardware_root": variables.get("muster_device_hardware_root"),
    }
    return on_device.request(task, given)


def _answered(ran: Ran) -> bool:
    try:
        on_device.read_answer(ran.out)
    except on_device.NoAnswer:
        return False
    return not ran.error


def _findings(ran: Ran, second: Ran | None, expected: Expected) -> list[Finding]:
    if not ran.connected:
        return ordered(connection_findings(ran.error, expected))
    found = connection_findings("", expected)
    if _answered(ran):
        found.append(ok("sudo", "works"))
    else:
        found.append(no_answer(ran.error, ran.err, ran.ok))
        if second is None or not _answered(second):
            return ordered(found)
        ran = second
    measured = on_device.read_answer(ran.out)
    results = diagnose(measured, expected, ran.began, ran.ended)
    if second is not None:
        results = [finding for finding in results if finding.check in _WITHOUT_ROOT]
    return ordered([*found, *results])


_WITHOUT_ROOT = ("python", "clock", "disk", "memory", "registry", "units")
"""What can be told without root's rights."""


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
