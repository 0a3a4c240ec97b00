"""What measurements mean: each fault is named, with a remedy, and nothing else is."""

from __future__ import annotations

import base64
import datetime
from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from muster.doctor.examine import diagnose, expectations
from muster.doctor.findings import (
    CHECKS,
    Expected,
    Finding,
    Severity,
    for_inventory,
    ordered,
    worst,
)
from muster.doctor.host import clock_offset
from muster.doctor.services import days_left
from muster.inventory import Device

NOW = 1_800_000_000.0
EXPECTED = Expected("cam-1", "docker", "coral", "abc", {"muster-boot.service": "def"})
CORAL = {"kind": "coral", "device": "/dev/apex_0", "driver": "1.2", "model": "Edge TPU PCIe"}


def certificate(days: float) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
    now = datetime.datetime.fromtimestamp(NOW, datetime.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=400))
        .not_valid_after(now + datetime.timedelta(days=days))
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.DER)


def pem(der: bytes) -> str:
    loaded = x509.load_der_x509_certificate(der)
    return loaded.public_bytes(serialization.Encoding.PEM).decode()


GOOD, SOON, OVER = (certificate(days) for days in (300, 20, -2))


def well() -> dict[str, Any]:
    """What a device measures that is well."""
    disk = {
        "path": "/",
        "size": 100,
        "free": 50,
        "files": 100,
        "files_free": 90,
        "read_only": False,
    }
    return {
        "began": NOW + 0.2,
        "ended": NOW + 0.6,
        "uid": 0,
        "python": "3.11.2",
        "disks": [disk, {**disk, "path": "/boot", "read_only": True}],
        "memory": {"total": 1000, "available": 500},
        "clock": {"synchronized": True, "service": "chrony.service"},
        "runtime": {"name": "docker", "version": "20.10", "unit": "docker.service",
                    "state": "active"},
        "accelerators": [dict(CORAL)],
        "cdi": [{"file": "/etc/cdi/a.json", "kind": "a/b", "missing": [], "damaged": False}],
        "libraries": {},
        "registry": {"address": "r:5000", "error": None, "status": 200, "ca": "/ca.crt",
                     "certificate": base64.b64encode(GOOD).decode()},
        "certificates": [{"path": "/c.crt", "pem": pem(GOOD)}],
        "units": {"state": "running", "failed": [], "ours": {
            "muster-boot.service": "enabled", "muster-guard@.timer": "static",
            "muster-guard@.service": "static", "muster-model@.service": "static"}},
        "program": {"present": True, "executable": True, "sha256": "abc",
                    "units": {"muster-boot.service": "def"}, "configuration": None},
        "models": [{"name": "digits", "phase": "idle", "rollout": None, "generation": 3,
                    "guard": False, "remaining": None, "since": None, "current": "1-a",
                    "last_good": "1-a", "not_ready": None, "last_outcome": None}],
        "restart_required": False,
    }  # fmt: skip


def findings(measured: dict[str, Any], expected: Expected = EXPECTED) -> list[Finding]:
    return diagnose(measured, expected, NOW, NOW + 1)


def test_a_device_that_is_well_has_one_good_finding_for_each_check() -> None:
    found = findings(well())
    assert worst(found) is Severity.OK, [f for f in found if f.severity is not Severity.OK]
    others = (*CHECKS[:4], "k3s")  # of the connection, and of nodes alone
    assert [f.check for f in ordered(found)] == [c for c in CHECKS if c not in others]


def model(**changes: Any) -> Callable[[dict[str, Any]], None]:
    def change(measured: dict[str, Any]) -> None:
        measured["models"][0].update(changes)

    return change


def part(name: str, /, **changes: Any) -> Callable[[dict[str, Any]], None]:
    def change(measured: dict[str, Any]) -> None:
        measured[name] = {**measured[name], **changes}

    return change


def disk(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda measured: measured["disks"][0].update(changes)


def whole(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda measured: measured.update({name: value})


def cdi(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda measured: measured["cdi"][0].update(changes)


def unit(name: str, state: str) -> Callable[[dict[str, Any]], None]:
    return lambda measured: measured["units"]["ours"].update({name: state})


P, W = Severity.PROBLEM, Severity.WARNING
NVIDIA = {"kind": "nvidia", "device": "/dev/nvidia0", "driver": "535.183.01", "model": "A2000"}


@pytest.mark.parametrize(
    ("change", "check", "severity", "word"),
    [
        (disk(free=1), "disk", P, "/ has 1% left"),
        (disk(free=10), "disk", W, "/ has 10% left"),
        (disk(files_free=0), "disk", P, "(files)"),
        (disk(read_only=True), "disk", P, "read-only"),
        (part("memory", available=20), "memory", P, "20 B of 1000 B"),
        (part("memory", available=80), "memory", W, "available"),
        (part("clock", synchronized=False, service=None), "clock", W, "nothing keeps it so"),
        (part("runtime", version=None, state="failed"), "runtime", P, "docker.service is failed"),
        (part("runtime", name="podman"), "runtime", W, "the inventory says docker"),
        (whole("accelerators", []), "accelerator", P, "the inventory says coral"),
        (whole("accelerators", [{**CORAL, "device": None}]), "accelerator", P, "no device node"),
        (cdi(missing=["/dev/x"]),
         "accelerator", P, "names /dev/x, which is not there"),
        (cdi(damaged=True), "accelerator", P, "can't be read"),
        (part("registry", error="Connection refused", certificate=None), "registry", P,
         "can't be reached"),
        (part("registry", error="tlsv13 alert certificate required"), "registry", P,
         "does not take this device's certificate"),
        (part("registry", plain=True, error="x"), "registry", P, "no TLS"),
        (part("registry", untrusted="unable to get issuer"), "registry", P, "is of another CA"),
        (part("registry", untrusted="Hostname mismatch"), "registry", P, "another name"),
        (part("registry", untrusted="expired", certificate=base64.b64encode(OVER).decode()),
         "registry", P, "ended 2 days ago"),
        (part("registry", certificate=base64.b64encode(SOON).decode()),
         "registry", W, "ends in 20 days"),
        (part("registry", status=503), "registry", P, "answers 503"),
        (whole("certificates", [{"path": "/c.crt", "pem": pem(OVER)}]),
         "certificate", P, "/c.crt ended 2 days ago"),
        (whole("certificates", [{"path": "/c.crt", "pem": pem(SOON)}]),
         "certificate", W, "/c.crt ends in 20 days"),
        (unit("muster-boot.service", "masked"), "guard", P, "muster-boot.service: masked"),
        (unit("muster-boot.service", "disabled"), "guard", P, "disabled"),
        (unit("muster-guard@.timer", "not-found"), "guard", P, "not-found"),
        (model(phase="switched", guard=False, since=5.0, remaining=0.0), "guard", P,
         "no guard runs"),
        (model(phase="switched", guard=True, since=7200.0, remaining=9.0), "guard", P,
         "unconfirmed for 2 h"),
        (model(phase="switched", guard=True, since=5.0, remaining=45.0), "guard", W, "45 s left"),
        (whole("models", [{"name": "digits", "damaged": "state.json is damaged"}]),
         "guard", P, "is damaged"),
        (whole("program", {"present": False}), "program", P, "not installed"),
        (part("program", executable=False), "program", P, "can't be executed"),
        (part("program", sha256="other"), "program", W, "another version"),
        (part("program", units={}), "program", W, "other units than here: muster-boot.service"),
        (part("program", configuration="device.json can't be read"), "program", P, "can't be read"),
        (part("units", failed=["x.service"]), "units", W, "x.service failed"),
        (part("units", failed=["muster-model@digits.service"]), "units", P, "failed"),
        (whole("restart_required", True), "units", W, "waits for a restart"),
        (model(not_ready="HTTP 500"), "release", P, "does not serve: HTTP 500"),
        (model(last_good=None), "release", W, "no good release"),
        (model(last_outcome={"outcome": "revert_failed", "reason": "no image"}), "release", P,
         "the way back failed: no image"),
    ],
)  # fmt: skip
def test_each_fault_is_named_with_a_remedy_and_nothing_else_is(
    change: Callable[[dict[str, Any]], None], check: str, severity: Severity, word: str
) -> None:
    measured = well()
    change(measured)
    (bad,) = [f for f in findings(measured) if f.severity is not Severity.OK]
    assert (bad.check, bad.severity) == (check, severity)
    assert word in bad.what
    assert bad.remedy


def test_driver_and_library_must_be_of_one_version() -> None:
    measured = well() | {"accelerators": [NVIDIA], "libraries": {"nvidia": "560.35"}}
    expected = Expected("gpu", "docker", "nvidia", "abc", EXPECTED.units)
    (bad,) = [f for f in findings(measured, expected) if f.severity is not Severity.OK]
    assert (bad.check, bad.severity) == ("accelerator", P)
    assert "driver 535.183.01, but libnvidia-ml 560.35" in bad.what
    measured["libraries"] = {"nvidia": "535.183.01"}
    assert worst(findings(measured, expected)) is Severity.OK


def test_what_provisioning_found_about_the_accelerator_counts() -> None:
    hailo = {"kind": "hailo", "device": "/dev/hailo0", "driver": "4.20.0", "model": "Hailo-8"}
    expected = Expected("pi", "docker", "hailo", "abc", EXPECTED.units)
    for changes, word in (
        ({"library": "4.19.0"}, "but libhailort 4.19.0"),
        ({"library": "4.20.0", "firmware": "4.18.0"}, "but firmware 4.18.0"),
        ({"library": "4.20.0", "working": False}, "failed its smoke test"),
    ):
        found = findings(well() | {"accelerators": [hailo | changes]}, expected)
        (bad,) = [f for f in found if f.severity is not Severity.OK]
        assert (bad.check, word in bad.what) == ("accelerator", True), bad
    good = hailo | {"library": "4.20.0", "firmware": "4.20.0", "working": True}
    assert worst(findings(well() | {"accelerators": [good]}, expected)) is Severity.OK


def test_an_edge_tpu_on_usb_needs_no_node() -> None:
    usb = {"kind": "coral", "device": None, "driver": None, "model": "Edge TPU USB"}
    assert worst(findings(well() | {"accelerators": [usb]})) is Severity.OK


@pytest.mark.parametrize("name", [n for n in well() if isinstance(well()[n], dict | list)])
def test_what_could_not_be_measured_is_no_good_news(name: str) -> None:
    found = findings(well() | {name: {"error": "PermissionError: no"}})
    told = [f for f in found if f.severity is Severity.WARNING]
    assert told or name == "libraries", name
    assert all("PermissionError" in f.what for f in told)


@pytest.mark.parametrize(
    ("variables", "remedy"),
    [
        ({}, "docker_registry_cas in the inventory, then muster provision --limit cam-1"),
        ({"docker_registry_cas": {"r:5000": "ca.pem"}}, "muster provision --limit cam-1"),
        ({"docker_registry_cas": {"other:5000": "ca.pem"}}, "docker_registry_cas in"),
        ({"muster_device_runtime": "podman"}, "podman_registry_cas in the inventory"),
        ({"muster_device_runtime": "podman", "podman_registry_cas": {"r:5000": "ca.pem"}},
         "muster provision --limit cam-1"),
        ({"muster_device_runtime": "podman", "docker_registry_cas": {"r:5000": "ca.pem"}},
         "podman_registry_cas in the inventory"),
        ({"muster_registry_ca": "ca.pem"}, "muster provision --limit cam-1"),
        ({"muster_registry_pki": "pki"}, "muster provision --limit cam-1"),
    ],
)  # fmt: skip
def test_a_ca_that_the_inventory_names_only_has_to_be_brought(
    variables: dict[str, Any], remedy: str
) -> None:
    variables = {"muster_registry": "r:5000", **variables}
    device = Device("cam-1", "10.0.0.1", 22, "site_a", None, (), variables)
    measured = well()
    measured["registry"] |= {"untrusted": "unable to get issuer", "ca": None}
    (bad,) = [
        f
        for f in findings(measured, expectations(device, {}, strict=True))
        if f.check == "registry"
    ]
    assert bad.what.endswith("no CA is installed for it")
    assert bad.remedy.startswith(remedy)
    # Bringing the same once more does not make another CA the right one.
    measured["registry"]["ca"] = "/ca.crt"
    found = findings(measured, expectations(device, {}, strict=True))
    (bad,) = [f for f in found if f.check == "registry"]
    assert "_registry_cas in the inventory, then" in bad.remedy


def test_a_registry_that_wants_a_login_answers() -> None:
    measured = well()
    measured["registry"]["status"] = 401
    assert worst(findings(measured)) is Severity.OK
    assert worst(findings(well() | {"registry": None})) is Severity.OK


@pytest.mark.parametrize(
    ("began", "ended", "offset"),
    [
        (0.2, 0.8, 0.0),  # within what the way may have taken
        (1.0, 1.0, 0.0),
        (60.2, 60.8, 59.8),
        (-59.8, -59.2, -59.8),
    ],
)
def test_only_a_certain_offset_counts(began: float, ended: float, offset: float) -> None:
    measured = {"began": NOW + began, "ended": NOW + ended}
    assert clock_offset(measured, NOW, NOW + 1) == pytest.approx(offset, abs=1e-3)


@pytest.mark.parametrize(("by", "severity"), [(5.0, W), (-5.0, W), (120.0, P), (-120.0, P)])
def test_a_wrong_clock(by: float, severity: Severity) -> None:
    (good,) = [f for f in findings(well()) if f.check == "clock"]
    assert good.what == "agrees with this machine's"
    measured = well() | {"began": NOW + by, "ended": NOW + by + 0.5}
    (bad,) = [f for f in findings(measured) if f.severity is not Severity.OK]
    assert (bad.check, bad.severity) == ("clock", severity)
    assert ("ahead" if by > 0 else "behind") in bad.what


@pytest.mark.parametrize(
    ("remedy", "expected"),
    [
        ("muster provision --limit cam-1", "muster provision -i 'my site' --limit cam-1"),
        ("look; if so: muster enroll cam-1 --replace-key",
         "look; if so: muster enroll -i 'my site' cam-1 --replace-key"),
        ("muster status; muster resume; systemctl start muster-guard@digits.timer",
         "muster status -i 'my site'; muster resume; systemctl start muster-guard@digits.timer"),
        ("", ""),
    ],
)  # fmt: skip
def test_remedies_can_be_typed_where_another_inventory_was_named(
    remedy: str, expected: str
) -> None:
    assert for_inventory(Finding("ssh", P, "x", remedy), "my site").remedy == expected


def test_days_left() -> None:
    assert days_left(GOOD, NOW) == pytest.approx(300)
    assert days_left(pem(OVER).encode(), NOW) == pytest.approx(-2)
    assert days_left(b"-----BEGIN CERTIFICATE-----", NOW) is None
    assert days_left(b"junk", NOW) is None


def test_what_is_expected_of_a_device() -> None:
    def device(hardware: str | None, **variables: Any) -> Device:
        return Device("cam-1", "10.0.0.1", 22, "site_a", hardware, (), variables)

    quarantined = {"digits": {"cam-1": "gave up"}, "other": {"cam-2": "x"}}
    expected = expectations(device("hw_coral"), quarantined, strict=True)
    assert (expected.accelerator, expected.quarantined) == ("coral", {"digits": "gave up"})
    assert len(expected.program) == 64
    assert "muster-boot.service" in expected.units
    assert expectations(device(None), {}, strict=True).accelerator is None
    said = device("hw_raspberry_pi", muster_accelerator="hailo")
    assert expectations(said, {}, strict=True).accelerator == "hailo"
    none = device("hw_coral", muster_accelerator="none")
    assert expectations(none, {}, strict=True).accelerator is None


def test_a_device_in_quarantine() -> None:
    expected = Expected("cam-1", "docker", "coral", "abc", EXPECTED.units, {"digits": "gave up"})
    (bad,) = [f for f in findings(well(), expected) if f.severity is not Severity.OK]
    assert (bad.check, bad.what) == ("release", "digits: gave up")
