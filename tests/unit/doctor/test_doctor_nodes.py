"""What a node of K3s measures, and what that means."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_doctor_findings import GOOD, NOW, OVER, SOON, pem

from muster.doctor import on_device
from muster.doctor.examine import expectations
from muster.doctor.findings import Expected, Finding, Severity, for_inventory
from muster.doctor.nodes import k3s
from muster.inventory import Device

VERSION = "v1.33.4+k3s1"
EXPECTED = Expected("cam-1", k3s_role="server", k3s_version=VERSION)


def measured(**how: Any) -> dict[str, Any]:
    node = {"name": "cam-1", "ready": True, "reason": "", "version": VERSION, "voter": True}
    node |= {"unschedulable": False, **how.pop("node", {})}
    seen = {"role": "server", "unit": "k3s.service", "active": True, "binary": VERSION}
    seen |= {"datastore": "etcd", "node": node, "error": "", "certificates": [], **how}
    return {"k3s": seen}


def told(given: dict[str, Any], expected: Expected = EXPECTED) -> list[Finding]:
    return list(k3s(given, expected, NOW))


def test_a_node_that_is_well() -> None:
    (found,) = told(measured(certificates=[{"path": "/a.crt", "pem": pem(GOOD)}]))
    assert (found.severity, found.what) == (
        Severity.OK,
        f"server, {VERSION}, Ready, its etcd votes",
    )


def test_a_device_that_is_to_be_no_node_is_not_looked_at() -> None:
    assert told({"k3s": None}, Expected("cam-1")) == []
    assert told(measured(active=False), Expected("cam-1")) == []


@pytest.mark.parametrize(
    ("given", "severity", "what", "remedy"),
    [
        ({"k3s": None}, "problem", "muster-k3s is missing", "muster provision --limit cam-1"),
        ({"k3s": {"error": "no"}}, "warning", "can't be measured: no", "look"),
        (measured(role="none"), "problem", "not installed, k3s_role is server", "provision"),
        (measured(role="agent"), "problem", "installed as agent", "muster k3s reset cam-1"),
        (measured(active=False), "problem", "k3s.service does not run", "systemctl restart k3s"),
        (measured() | {"k3s": measured()["k3s"] | {"node": None, "error": "refused"}},
         "problem", "refused", "journalctl"),
        (measured() | {"k3s": measured()["k3s"] | {
            "node": None, "error": 'Error from server (NotFound): nodes "cam-1" not found'}},
         "problem", "no such node", "provision --limit cam-1, together with a server"),
        (measured(node={"ready": False, "reason": "disk"}), "problem", "Ready: disk", "journal"),
        (measured(node={"voter": False}), "problem", "no voter", "journalctl"),
        (measured(node={"version": "v1.32.1+k3s1"}, binary="v1.32.1+k3s1"),
         "warning", "the inventory says v1.33.4", "muster k3s upgrade cam-1"),
        (measured(node={"version": "v1.32.1+k3s1"}), "warning", "is installed", "restart"),
        (measured(node={"unschedulable": True}), "warning", "cordoned", "uncordon cam-1"),
        (measured(certificates=[{"path": "/a.crt", "pem": pem(SOON)}]),
         "warning", "/a.crt ends in 20 days", "muster k3s rotate-certificates cam-1"),
        (measured(certificates=[{"path": "/a.crt", "pem": pem(SOON)},
                                {"path": "/b.crt", "pem": pem(OVER)}]),
         "problem", "/b.crt ended 2 days ago, and 1 more", "rotate-certificates"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_node(
    given: dict[str, Any], severity: str, what: str, remedy: str
) -> None:
    (found,) = told(given)
    assert found.severity.value == severity
    assert what in found.what
    assert remedy in found.remedy


def test_an_external_datastore_has_no_voters() -> None:
    (found,) = told(measured(datastore="external", node={"voter": False}))
    assert found.severity is Severity.OK


def test_the_inventory_says_what_a_device_is_in_its_cluster() -> None:
    variables = {"k3s_role": "agent", "k3s_version": VERSION}
    device = Device("a", "a", 22, None, None, (), variables)
    assert expectations(device, {}, True).k3s_role == "agent"
    device = Device("a", "a", 22, None, None, (), {"k3s_role": "none"})
    assert expectations(device, {}, True).k3s_role == ""


def test_a_remedy_names_the_inventory() -> None:
    (found,) = told(measured(node={"version": "v1.32.1+k3s1"}, binary="v1.32.1+k3s1"))
    assert for_inventory(found, "plant").remedy == "muster k3s upgrade -i plant cam-1"


class Program:
    """Stands in for the device program as a module: its one command answers ``out``."""

    def __init__(self, root: Path, out: str, err: str = "") -> None:
        self.root, self.done = root, SimpleNamespace(status=0, out=out, err=err)
        self.given = ""

    def at(self, path: str) -> str:
        return str(self.root / path.lstrip("/"))

    def execute(self, argv: list[str], timeout: float, given: str) -> SimpleNamespace:
        self.given = given
        return self.done


@pytest.mark.parametrize(
    ("out", "expected"),
    [
        ('{"ok": true, "role": "agent"}', {"ok": True, "role": "agent"}),
        ('{"ok": false, "error": {"message": "no K3s"}}', {"error": "no K3s"}),
        ("", {"error": "killed"}),
    ],
)
def test_a_device_asks_its_own_program(tmp_path: Path, out: str, expected: dict[str, Any]) -> None:
    program = Program(tmp_path, out, "killed")
    assert on_device.k3s(program, program) is None
    path = tmp_path / "usr/local/sbin/muster-k3s"
    path.parent.mkdir(parents=True)
    path.touch()
    assert on_device.k3s(program, program) == expected
    assert program.given == '{"certificates": true}'
