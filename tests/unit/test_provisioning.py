"""The commands `muster inventory` and `muster provision`, without any device."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from muster import provisioning
from muster.cli import run
from muster.errors import MusterError
from muster.inventory import Inventory, load_inventory
from muster.paths import COLLECTION_ROOT
from muster.provisioning import SITE_ROLES

HOSTS = {
    "all": {
        "vars": {"muster_registry": "registry:5000", "password_of_something": "s3cret"},
        "children": {
            "site_a": {"hosts": {"a1": None, "a2": {"ansible_port": 2222}}},
            "hw_coral": {"hosts": {"a1": None}},
            "line": {"hosts": {"a2": None}},
        },
    }
}


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MUSTER_CACHE_DIR", str(tmp_path / "cache"))
    file = tmp_path / "hosts.yml"
    file.write_text(yaml.safe_dump(HOSTS), encoding="utf-8")
    return file


def operation(name: str, outcome: str, **more: str) -> dict[str, str]:
    return {"name": name, "outcome": outcome, **more}


@pytest.fixture
def pyinfra(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stand in for pyinfra: exit status, log, and what it reports about devices."""
    told: dict[str, Any] = {"code": 0, "log": [], "report": [], "commands": []}

    def stand_in(
        command: list[str], environment: dict[str, str], on_step: Any, on_line: Any
    ) -> tuple[int, Any]:
        told["commands"].append((command, environment))
        lines = [json.dumps(entry) for entry in told["report"]]
        Path(environment[provisioning.REPORT_FILE]).write_text("\n".join(lines), encoding="utf-8")
        log = provisioning._Log()
        for line in told["log"]:
            log.add(line)
            on_line(line)
        return told["code"], log

    monkeypatch.setattr(provisioning, "_run", stand_in)
    return told


def well(name: str, *operations: dict[str, str]) -> dict[str, Any]:
    return {"device": name, "failed": False, "operations": list(operations)}


def test_inventory_as_json_has_no_variables(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inventory", "-i", str(path), "--json"]) == 0
    text = capsys.readouterr().out
    assert "s3cret" not in text
    document = json.loads(text)
    assert document["devices"][0] == {
        "device": "a1",
        "address": "a1",
        "port": 22,
        "site": "site_a",
        "hardware": "hw_coral",
        "groups": ["hw_coral", "site_a"],
    }
    assert document["sites"] == {"site_a": ["a1", "a2"]}
    assert document["hardware"] == {"hw_coral": ["a1"], "": ["a2"]}


@pytest.mark.parametrize("form", ["table", "graph"])
def test_inventory_for_people(path: Path, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inventory", "-i", str(path), "--format", form, "--limit", "a2"]) == 0
    text = capsys.readouterr().out
    assert "a2:2222" in text
    assert "site_a" in text
    assert "a1" not in text


def test_invalid_input_ends_with_2(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inventory", "-i", str(path), "--limit", "site_b"]) == 2
    assert run(["inventory", "-i", str(path.parent / "none")]) == 2
    assert run(["provision", "-i", str(path), "--limit", "site_b"]) == 2
    assert "site_b" in capsys.readouterr().err


def test_all_wrong_variables_end_provisioning_before_it_begins(
    path: Path, pyinfra: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    hosts = {"a1": {"ansible_become": "perhaps"}, "a2": {"watchdog_runtime": "soon"}}
    path.write_text(yaml.safe_dump({"all": {"hosts": hosts}}), encoding="utf-8")
    assert run(["provision", "-i", str(path)]) == 2
    told = capsys.readouterr().err
    for part in ("a1: ansible_become", "a2: watchdog_runtime", "a1, a2: muster_registry"):
        assert part in told
    assert pyinfra["commands"] == []


def test_the_deploy_is_that_of_plain_pyinfra(path: Path, pyinfra: dict[str, Any]) -> None:
    pyinfra["report"] = [well("a2")]
    run(["provision", "-i", str(path), "--limit", "line", "-vv"])
    ((command, environment),) = pyinfra["commands"]
    assert [Path(part).name for part in command[-2:]] == ["inventory.py", "site.py"]
    assert "--yes" in command
    assert "-v" in command
    assert environment["MUSTER_INVENTORY"] == str(path)
    assert environment["MUSTER_LIMIT"] == "line"
    assert environment["PATH"] == os.environ["PATH"]
    pyinfra["report"] = [well("a1"), well("a2")]
    run(["provision", "-i", str(path), "--dry"])
    command, environment = pyinfra["commands"][-1]
    assert "--dry" in command
    assert "--yes" not in command
    assert "MUSTER_LIMIT" not in environment


def test_results(path: Path, pyinfra: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    pyinfra["report"] = [
        well("a1", operation("base | time", "changed"), operation("base | packages", "unchanged")),
        well("a2", operation("base | time", "unchanged"), operation("base | packages", "changed")),
    ]
    assert run(["provision", "-i", str(path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["changed"], document["failed"]) == (2, [])
    assert run(["provision", "-i", str(path)]) == 0
    assert "2 changes after" in capsys.readouterr().out


def test_a_failed_operation_is_told_with_device_and_reason(
    path: Path, pyinfra: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    failed = operation("docker | daemon.json", "failed", error="unknown key x")
    pyinfra["code"] = 1
    pyinfra["report"] = [
        well("a1", operation("base | time", "unchanged")),
        {"device": "a2", "failed": True, "operations": [failed, operation("later", "not run")]},
    ]
    assert run(["provision", "-i", str(path), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["failed"] == ["a2"]
    entry = document["devices"][1]
    assert (entry["operation"], entry["error"]) == ("docker | daemon.json", "unknown key x")
    assert run(["provision", "-i", str(path)]) == 1
    told = capsys.readouterr().out
    assert "failed: docker | daemon.json: unknown key x" in told
    assert "1 of 2 devices failed, nothing changed after" in told


def test_a_device_that_failed_without_an_operation_has_the_last_of_its_log(
    path: Path, pyinfra: dict[str, Any]
) -> None:
    pyinfra["code"] = 1
    pyinfra["log"] = ["    [a2]  Connected", "    [a2]  could not load fact: roles.facts.X"]
    pyinfra["report"] = [well("a1"), {"device": "a2", "failed": True, "operations": []}]
    results = provisioning.provision(load_inventory(path))
    assert not results[0].failed
    assert "could not load fact" in results[1].error


def test_an_unreachable_device(
    path: Path, pyinfra: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    pyinfra["code"] = 1
    pyinfra["log"] = ["    [a1]  Could not connect (timed out)", "    [a2]  Connected"]
    pyinfra["report"] = [well("a2", operation("base | time", "unchanged"))]
    assert run(["provision", "-i", str(path)]) == 1
    assert "unreachable: Could not connect (timed out)" in capsys.readouterr().out


def test_when_pyinfra_breaks_off_its_log_is_told(path: Path, pyinfra: dict[str, Any]) -> None:
    inventory: Inventory = load_inventory(path)
    pyinfra["code"] = 1
    pyinfra["log"] = ["--> pyinfra error: No such private key file: /k"]
    assert provisioning.provision(inventory)[0].error.endswith("No such private key file: /k")
    pyinfra["log"] = ["    [a1]  Connected", "    [a2]  Connected", "Traceback", "Oops"]
    with pytest.raises(MusterError, match="Oops"):
        provisioning.provision(inventory)
    pyinfra["report"] = [well("a1"), well("a2")]
    with pytest.raises(MusterError, match="status 1"):
        provisioning.provision(inventory)


def test_the_deploy_runs_every_role_in_order() -> None:
    text = (COLLECTION_ROOT / "deploys" / "site.py").read_text(encoding="utf-8")
    assert re.findall(r'^run\("(\w+)"\)$', text, re.MULTILINE) == list(SITE_ROLES)
    packages = {path.parent.name for path in (COLLECTION_ROOT / "roles").glob("*/deploy.py")}
    assert packages - {"model"} == set(SITE_ROLES)


def test_a_killed_controller_leaves_no_run_behind(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    run = ["sh", "-c", f"echo $$ >{told}; exec sleep 60"]
    code = (
        "from muster.provisioning import _run; import os;"
        f" _run({run!r}, dict(os.environ), lambda _: None, lambda _: None)"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as controller:
        until = time.monotonic() + 30
        while not (told.exists() and told.read_text().strip()):
            assert time.monotonic() < until
            time.sleep(0.05)
        controller.kill()
    process = Path("/proc", told.read_text().strip(), "cmdline")
    until = time.monotonic() + 10
    while process.exists() and b"sleep" in process.read_bytes():
        assert time.monotonic() < until, "it goes on"
        time.sleep(0.05)
