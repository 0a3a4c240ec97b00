"""The commands that only look: diff, report and history, over simulated devices."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from drill import make_release
from test_commands import Desk

from muster.cli import run

Output = pytest.CaptureFixture[str]
C = "models/digits@sha256:" + "c" * 64


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.chdir(tmp_path)
    return Desk(tmp_path, monkeypatch)


def test_diff_tells_what_changes_and_touches_nothing(desk: Desk, capsys: Output) -> None:
    desk.document(desk.release, make_release("1.5"))
    assert desk.rollout("--yes") == 0
    desk.fleet.devices["d0002"].reachable = False
    before = {name: (d.generation, d.current) for name, d in desk.fleet.devices.items()}
    desk.document(desk.release, make_release("1.6", variants={"hw_a": {"image": C}}))
    capsys.readouterr()
    assert run(["diff", str(desk.release)]) == 0
    out = capsys.readouterr().out
    assert "3 devices on 1.5-" in out
    assert C in out
    assert "no answer from 1 device: the link is cut" in out
    assert run(["diff", str(desk.release), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    first = document["groups"][0]
    assert first["devices"] == ["d0000", "d0001", "d0003"]
    assert [change["what"] for change in first["changes"]] == ["image"]
    assert {name: (d.generation, d.current) for name, d in desk.fleet.devices.items()} == before


def test_diff_says_what_the_journal_does_not_know(desk: Desk, capsys: Output) -> None:
    assert run(["diff", str(desk.release)]) == 0
    out = capsys.readouterr().out
    assert "4 devices on 1.0-" in out
    assert "the journal does not know that release" in out
    assert run(["diff", str(desk.folder / "nothing.yml")]) == 2


def test_report_writes_one_page(desk: Desk, capsys: Output) -> None:
    assert run(["report"]) == 1
    assert "no rollout yet" in capsys.readouterr().err
    assert desk.rollout("--yes") == 0
    assert run(["history", "--json"]) == 0
    out = capsys.readouterr().out
    (row,) = json.loads(out[out.rindex("\n[") :])
    assert run(["report", row["rollout"][:18], "-o", "page.html"]) == 0
    page = (desk.folder / "page.html").read_text()
    assert page.rstrip().endswith("</html>")
    assert all(name in page for name in desk.fleet.devices)
    assert run(["report"]) == 0  # the newest, under its own name
    assert (desk.folder / f"{row['rollout']}.html").read_text() == page
    capsys.readouterr()
    assert run(["report", "-o", "-"]) == 0
    assert capsys.readouterr().out == page + "\n"


def test_a_report_that_cannot_be_made_says_why(desk: Desk, capsys: Output) -> None:
    assert run(["report", "nosuch"]) == 1
    assert "no such rollout" in capsys.readouterr().err
    assert desk.rollout("--yes") == 0
    assert run(["report", "-o", "nowhere/page.html"]) == 2
    assert "nowhere/page.html" in capsys.readouterr().err


def test_history_of_a_device_over_all_rollouts(desk: Desk, capsys: Output) -> None:
    assert desk.rollout("--yes") == 0
    desk.document(desk.release, make_release("3.0"))
    assert desk.rollout("--yes", "--limit", "d0001") == 0
    capsys.readouterr()
    assert run(["history", "--device", "d0001", "--json"]) == 0
    newest, oldest = json.loads(capsys.readouterr().out)
    assert newest["release"].startswith("3.0-")
    assert oldest["release"].startswith("2.0-")
    assert (newest["state"], newest["previous"]) == ("committed", oldest["release"])
    assert run(["history", "--device", "d0002", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 1
    assert run(["history", "--device", "d0001", "-n", "1"]) == 0
    out = capsys.readouterr().out
    assert newest["rollout"] in out
    assert oldest["rollout"] not in out
    for arguments in (["history"], ["history", oldest["rollout"]]):
        assert run([*arguments, "--device", "d001"]) == 2
        error = capsys.readouterr().err
        assert "--device d001" in error
        assert "d0001" in error  # a name that is like it
    assert run(["history", newest["rollout"], "--device", "d0003"]) == 2
    assert run(["history", "--device", "d0001", "--model", "other"]) == 2
    assert "no rollout of other" in capsys.readouterr().err
