"""Devices that can't be reached, or give no measurements: what it is, and what to do."""

from __future__ import annotations

import pytest

from muster.doctor import examine
from muster.doctor.findings import Expected, Severity
from muster.doctor.reaching import connection_findings, no_answer
from muster.fleet.scripts import Ran

EXPECTED = Expected("cam-1")


@pytest.mark.parametrize(
    ("error", "check", "word"),
    [
        ("SSH host key error (Host key for 10.0.0.1 does not match.)", "host_key", "--replace-key"),
        ("SSH error (StrictPolicy: No host key for 10.0.0.1 found in known_hosts)",
         "host_key", "muster enroll cam-1"),
        ("Authentication error (username=ops) (Authentication failed.)", "login", "--ask-password"),
        ("SSH error (No authentication methods available)", "login",
         "set ansible_ssh_private_key_file"),
        ("Could not resolve hostname (Name or service not known)", "ssh", "ansible_host"),
        ("Could not connect ([Errno None] Unable to connect to port 22: Connection refused)",
         "ssh", "systemctl start ssh"),
        ("Could not connect (timed out)", "ssh", "power, cable"),
        ("no answer within 90 s", "ssh", "power, cable"),
    ],
)  # fmt: skip
def test_a_connection_that_failed(error: str, check: str, word: str) -> None:
    found = connection_findings(error, EXPECTED)
    (bad,) = [f for f in found if f.severity is Severity.PROBLEM]
    assert bad.check == check
    assert word in bad.remedy


def test_an_operator_without_a_key_is_not_told_that_it_was_refused() -> None:
    found = connection_findings("SSH error (No authentication methods available)", EXPECTED)
    assert found[-1].what == "no private key to log in with"
    refused = connection_findings("Authentication error (Authentication failed.)", EXPECTED)
    assert refused[-1].what == "refused: the device does not know the key"


def test_a_connection_whose_host_key_nobody_checks() -> None:
    assert {f.severity for f in connection_findings("", EXPECTED)} == {Severity.OK}
    found = connection_findings("", Expected("cam-1", strict=False))
    assert [f.check for f in found if f.severity is Severity.WARNING] == ["host_key"]


@pytest.mark.parametrize(
    ("error", "stderr", "check", "word"),
    [
        ("", "sudo: a password is required", "sudo", "ansible_become_password"),
        ("sudo wants a password: set ansible_become_password", "", "sudo", "in a vault"),
        ("", "ops is not in the sudoers file.", "sudo", "visudo"),
        ("", "sudo: /etc/sudoers is world writable", "sudo", "visudo"),
        ("", "sh: 1: python3: not found", "python", "muster enroll"),
        ("", "Killed", "ssh", "try again"),
        ("no answer within 90 s", "", "ssh", "try again"),
    ],
)
def test_measurements_that_did_not_come(error: str, stderr: str, check: str, word: str) -> None:
    found = no_answer(error, stderr, ok_status=False)
    assert (found.check, found.severity) == (check, Severity.PROBLEM)
    assert word in found.remedy


def test_without_root_it_tells_what_the_login_may_see() -> None:
    broken = Ran(True, "", False, "", "sudo: a password is required", 100.0, 101.0)
    disk = {"path": "/", "size": 100, "free": 1, "files": 0, "files_free": 0, "read_only": False}
    told = '{"ok": true, "result": {"began": 100, "ended": 100, "python": "3.11", "disks": [%s]}}'
    text = told % str(disk).replace("'", '"').replace("False", "false")
    second = Ran(True, "", True, "motd\n" + text, "", 100.0, 101.0)
    found = examine._findings(broken, second, EXPECTED)
    checks = {f.check for f in found if f.severity is Severity.PROBLEM}
    assert checks == {"sudo", "disk"}
    assert "program" not in {f.check for f in found}
    assert {f.check for f in examine._findings(broken, None, EXPECTED)} == {
        "ssh", "host_key", "login", "sudo",
    }  # fmt: skip
