"""`muster enroll` on the command line: bad input, and what is shown."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from muster.cli import run
from muster.commands import enroll as command
from muster.enrolment.enrolling import Result
from muster.enrolment.plan import Settings
from muster.enrolment.site import write_site

SECRET = "correct horse"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MUSTER_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write_site("north", tmp_path / "north", "ops", "r.x:5000")
    (tmp_path / "pw").write_text(SECRET + "\n")
    keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")]
    subprocess.run(keygen, check=True)
    return tmp_path / "north"


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the command hands on; the results that it shows are under ``results``."""
    seen: dict[str, Any] = {"results": []}

    def stand_in(path: Path, targets: Any, settings: Settings, observer: Any) -> list[Result]:
        seen.update(path=path, targets=targets, settings=settings, observer=observer)
        return list(seen["results"])

    monkeypatch.setattr(command, "run_enroll", stand_in)
    return seen


def enroll(site: Path, *words: str) -> int:
    return run(["enroll", "-i", str(site), "--key", "key.pub", *words])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["10.0.0.300"], "expected a name, an address"),
        (["a", "--accept-new-keys", "--host-ca", "key.pub"], "expected one of --accept-new-keys"),
        (["a", "--password-file", "pw", "--ask-password"], "expected one of --password-file"),
        (["a", "--password-file", "none"], "none: can't be read"),
        (["a", "--password-file", "key"], "expected one line with the password"),
        (["a", "--identity", "pw"], "is no private key"),
        (["a", "--host-ca", "pw"], "public key of a host CA"),
        (["a", "--fingerprints", "pw"], "line 1: expected"),
        (["a", "--site", "Big One"], "--site or --hardware: expected a name"),
        (["a", "--key", "key"], "it is a private one"),
        (["a", "-i", "nowhere"], "expected an inventory file or folder"),
    ],
)
def test_bad_input_ends_with_2_before_anything(
    site: Path, capsys: pytest.CaptureFixture[str], words: list[str], expected: str
) -> None:
    assert enroll(site, *words) == 2
    said = capsys.readouterr().err
    assert expected in said
    assert SECRET not in said


def test_what_is_handed_on(site: Path, given: dict[str, Any]) -> None:
    given["results"] = [Result("a", "enrolled")]
    assert enroll(site, "a", "--password-file", "pw", "--site", "north", "--hardware", "coral") == 0
    settings = given["settings"]
    assert (settings.site, settings.hardware) == ("site_north", "hw_coral")
    assert settings.password.reveal() == SECRET
    assert SECRET not in repr(settings)
    assert settings.public_key.startswith("ssh-ed25519 AAAA")
    assert settings.private_key.name == "key"
    assert given["observer"].confirm([]) is None  # nobody sits here


def test_the_key_that_the_inventory_names_is_yours(site: Path, given: dict[str, Any]) -> None:
    given["results"] = [Result("a", "enrolled")]
    assert run(["enroll", "-i", str(site), "a"]) == 2  # there is none in ~/.ssh
    with (site / "group_vars" / "all.yml").open("a") as file:
        file.write('ansible_ssh_private_key_file: "{{ inventory_dir }}/../key"\n')
    assert run(["enroll", "-i", str(site), "a"]) == 0
    assert given["settings"].private_key.resolve() == site.parent / "key"


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [
        (["enrolled", "updated", "unchanged", "absent"], 0),
        (["enrolled", "failed"], 1),
        (["absent", "absent"], 1),
    ],
)
def test_exit_codes_and_both_forms(
    site: Path,
    given: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    outcomes: list[str],
    code: int,
) -> None:
    given["results"] = [Result(f"h{n}", outcome) for n, outcome in enumerate(outcomes)]
    assert enroll(site, "a", "--json") == code
    document = json.loads(capsys.readouterr().out)
    assert [device["outcome"] for device in document["devices"]] == outcomes
    assert document["failed"] == outcomes.count("failed")
    assert enroll(site, "a") == code
    shown = capsys.readouterr().out
    assert ("h0" in shown) == (outcomes[0] != "absent")


def test_the_table_tells_what_is_to_be_done(
    site: Path, given: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    given["results"] = [
        Result("10.0.0.1", "enrolled", "cam-1", "site_north", None, "Radxa", done=["key installed"],
               notes=["unknown hardware: Radxa"]),
        Result("10.0.0.2", problem="login refused"),
    ]  # fmt: skip
    enroll(site, "a")
    shown = capsys.readouterr().out
    for word in ("cam-1", "key installed", "unknown hardware: Radxa", "login refused", "none"):
        assert word in shown
    assert "1 device enrolled, 1 device failed" in shown
