"""`muster doctor` on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from muster.cli import run
from muster.commands import doctor as command
from muster.doctor.findings import Finding, ok, problem, warning
from muster.inventory import Device, Inventory
from muster.rollout.journal import open_journal

GOOD = [ok("ssh", "answers"), ok("disk", "50% free")]


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, list[Finding]]:
    found: dict[str, list[Finding]] = {}
    devices = tuple(Device(name, name, 22, "site_a", None, (), {}) for name in ("a", "b", "c"))

    def load(path: Path, limit: str | None = None) -> Inventory:
        names = limit.split(",") if limit else ["a", "b", "c"]
        return Inventory(path, tuple(device for device in devices if device.name in names))

    def examine(chosen: Any, quarantined: Any, progress: Any) -> dict[str, list[Finding]]:
        return {device.name: found.get(device.name, GOOD) for device in chosen}

    monkeypatch.setattr(command, "load_inventory", load)
    monkeypatch.setattr(command, "examine", examine)
    monkeypatch.setenv("MUSTER_STATE_DIR", str(tmp_path))
    return found


def test_a_fleet_that_is_well(
    found: dict[str, list[Finding]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(["doctor", "-i", "x"]) == 0
    assert capsys.readouterr().out.strip() == "3 devices well"
    assert list(tmp_path.iterdir()) == []  # no journal is made for this
    assert run(["doctor", "-i", "x", "--all"]) == 0
    assert capsys.readouterr().out.count("50% free") == 3


def test_warnings_are_shown_and_problems_end_with_1(
    found: dict[str, list[Finding]], capsys: pytest.CaptureFixture[str]
) -> None:
    found["a"] = [*GOOD, warning("clock", "is odd", "set it")]
    assert run(["doctor", "-i", "x"]) == 0
    assert "is odd" in capsys.readouterr().out
    found["b"] = [problem("ssh", "does not answer", "check power")]
    assert run(["doctor", "-i", "x"]) == 1
    shown = capsys.readouterr().out
    for word in ("does not answer", "check power", "set it"):
        assert word in shown
    assert "1 device well, 1 device with warnings, 1 device with problems" in shown
    assert run(["doctor", "a,c", "-i", "x"]) == 0


def test_remedies_name_the_inventory_that_was_typed(
    found: dict[str, list[Finding]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found["b"] = [problem("program", "not installed", "muster provision --limit b")]
    monkeypatch.setenv("MUSTER_INVENTORY", "elsewhere")  # what is typed later finds it as well
    for words, remedy in (
        (["-i", "sites/x"], "muster provision -i sites/x --limit b"),
        ([], "muster provision --limit b"),
    ):
        assert run(["doctor", *words]) == 1
        assert remedy in capsys.readouterr().out
        assert run(["doctor", *words, "--json"]) == 1
        told = json.loads(capsys.readouterr().out)["devices"][1]["findings"][0]
        assert told["remedy"] == remedy


def test_json(found: dict[str, list[Finding]], capsys: pytest.CaptureFixture[str]) -> None:
    found["b"] = [problem("ssh", "does not answer", "check power")]
    assert run(["doctor", "-i", "x", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["ok"], document["warning"], document["problem"]) == (2, 0, 1)
    assert document["devices"][1] == {
        "device": "b",
        "severity": "problem",
        "findings": [
            {"check": "ssh", "severity": "problem", "what": "does not answer",
             "remedy": "check power"},
        ],
    }  # fmt: skip


def test_quarantine_is_read_from_the_journal(
    found: dict[str, list[Finding]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def examine(chosen: Any, quarantined: Any, progress: Any) -> dict[str, list[Finding]]:
        seen.append(quarantined)
        return {device.name: GOOD for device in chosen}

    monkeypatch.setattr(command, "examine", examine)
    monkeypatch.setattr(command.controller, "quarantine", lambda _journal, model: {"b": model})
    url = f"sqlite:///{tmp_path / 'journal.sqlite'}"
    with open_journal(url) as journal:
        monkeypatch.setattr(
            type(journal), "rollouts", lambda *_a, **_k: [SimpleNamespace(model="digits")]
        )
        assert run(["doctor", "-i", "x"]) == 0  # the file is there now
        assert run(["doctor", "-i", "x", "--journal", url]) == 0
    assert seen == [{"digits": {"b": "digits"}}] * 2
