"""Changes that go back by themselves: the scripts run for real, with stand-ins for systemd."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pyinfra.api.exceptions import ConnectError
from test_scripts import OWNER

from roles import guarded
from roles.facts import kept_path
from roles.guarded import apply_script, confirm_script, connect_again
from roles.operations import File

SYSTEMD_RUN = """#!/bin/sh
echo "$@" >>"$CALLS"
"""
SYSTEMCTL = """#!/bin/sh
echo "systemctl $*" >>"$CALLS"
"""


class Device:
    """A folder in which the scripts believe to be on a device."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.undo = folder / "undo"
        self.calls = folder / "calls"
        self.file = folder / "a.conf"
        self.taken_up = folder / "taken-up"
        programs = folder / "bin"
        programs.mkdir()
        for name, text in (
            ("systemd-run", SYSTEMD_RUN),
            ("systemctl", SYSTEMCTL),
            ("logger", "#!/bin/sh\n"),
        ):
            (programs / name).write_text(text, encoding="utf-8")
            (programs / name).chmod(0o755)
        self.environment = {
            **os.environ,
            "PATH": f"{programs}:{os.environ['PATH']}",
            "CALLS": str(self.calls),
        }

    def run(self, script: str, *words: str) -> subprocess.CompletedProcess[str]:
        local = script.replace("/var/lib/muster-undo", str(self.undo)).replace(
            "/etc/systemd/system", str(self.folder)
        )
        return subprocess.run(
            ["sh", "-s", *words],
            input=local,
            env=self.environment,
            capture_output=True,
            text=True,
        )

    def change(self, content: str, **options: Any) -> subprocess.CompletedProcess[str]:
        files = [File(str(self.file), content, "600", OWNER)]
        then = options.get("then", f"cp {self.file} {self.taken_up} || rm -f {self.taken_up}")
        return self.run(apply_script("link", files, files, then, options.get("check"), 60))

    def confirm(self) -> subprocess.CompletedProcess[str]:
        return self.run(confirm_script("link", [File(str(self.file), "")]))

    def go_back(self, *words: str) -> None:
        """What the timer does, or the next start."""
        for each in sorted(self.undo.glob("[a-z]*")):
            subprocess.run(["sh", each, *words], env=self.environment, check=True)

    @property
    def pending(self) -> list[str]:
        left = [each.name for each in self.undo.glob("[a-z]*")] if self.undo.exists() else []
        return left + [each.name for each in self.folder.glob(".*")]


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


def test_the_way_back_is_armed_before_anything_changes(device: Device) -> None:
    device.file.write_text("old\n")
    # a device that can't arm it stays as it is
    (device.folder / "bin" / "systemd-run").write_text("#!/bin/sh\nexit 1\n")
    done = device.change("new\n")
    assert done.returncode == 1
    assert "can't arm the way back" in done.stderr
    assert device.file.read_text() == "old\n"
    assert not device.taken_up.exists()


def test_what_is_confirmed_stays(device: Device) -> None:
    device.file.write_text("old\n")
    assert device.change("new\n").returncode == 0
    assert device.taken_up.read_text() == "new\n"
    assert "--unit=muster-undo-link --on-active=60" in device.calls.read_text()
    assert device.confirm().returncode == 0
    device.go_back("now")
    assert (device.file.read_text(), device.pending) == ("new\n", [])
    assert "systemctl stop muster-undo-link.timer" in device.calls.read_text()


def test_what_is_not_confirmed_goes_back_and_takes_effect(device: Device) -> None:
    device.file.write_text("old\n")
    device.change("new\n")
    device.go_back("now")
    assert (device.file.read_text(), device.taken_up.read_text()) == ("old\n", "old\n")
    assert device.pending == []
    late = device.confirm()
    assert (late.returncode, late.stderr) == (
        1,
        "not confirmed in time, so the former files are back\n",
    )
    assert device.file.read_text() == "old\n"


def test_what_was_not_there_goes_away_again(device: Device) -> None:
    device.change("new\n")
    device.go_back("now")
    assert not device.file.exists()
    assert not device.taken_up.exists()
    assert device.pending == []


def test_at_the_next_start_files_alone_go_back(device: Device) -> None:
    device.file.write_text("old\n")
    device.change("new\n")
    device.go_back()
    assert (device.file.read_text(), device.taken_up.read_text()) == ("old\n", "new\n")


def test_a_way_back_that_was_cut_off_is_gone_to_its_end(device: Device) -> None:
    device.file.write_text("old\n")
    device.change("new\n")
    Path(kept_path(str(device.file))).replace(device.file)  # as far as it had come
    device.go_back()
    assert (device.file.read_text(), device.pending) == ("old\n", [])


def test_a_second_try_still_knows_the_last_good_version(device: Device) -> None:
    device.file.write_text("good\n")
    device.change("first\n")
    device.change("second\n")
    device.go_back("now")
    assert device.file.read_text() == "good\n"


def test_what_does_not_take_effect_goes_back_at_once(device: Device) -> None:
    device.file.write_text("old\n")
    done = device.change("new\n", then=f"grep -q old {device.file}")
    assert done.returncode == 1
    assert "the former files are back" in done.stderr
    assert (device.file.read_text(), device.pending) == ("old\n", [])


def test_what_is_refused_is_never_put_in_place(device: Device) -> None:
    device.file.write_text("old\n")
    done = device.change("new\n", check=f'grep -q old "$(newest {device.file})"')
    assert done.returncode == 1
    assert "nothing was changed" in done.stderr
    assert not device.calls.exists()
    assert (device.file.read_text(), device.pending) == ("old\n", [])


class Connector:
    """Gives no new connection for a while."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.client: Any = SimpleNamespace(close=lambda: self.closed.append("old"))
        self.closed: list[str] = []

    def connect(self) -> None:
        self.client = SimpleNamespace(close=lambda: self.closed.append("new"))
        if self.failures:
            self.failures -= 1
            raise ConnectError("Could not connect (timed out)")

    def disconnect(self) -> None: ...


def connect(monkeypatch: pytest.MonkeyPatch, connector: Any, seconds: float) -> list[str]:
    told: list[str] = []
    clock = iter(range(1000))
    monkeypatch.setattr(guarded.time, "sleep", lambda _: None)
    monkeypatch.setattr(guarded.time, "monotonic", lambda: float(next(clock)))
    host = SimpleNamespace(
        connector=connector, log_styled=lambda text, **_: told.append(text), name="d"
    )
    assert connect_again(SimpleNamespace(), host, seconds)  # type: ignore[arg-type]
    return told


def test_the_proof_is_a_new_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    connector = Connector(failures=3)
    assert connect(monkeypatch, connector, 20) == []
    assert connector.closed == ["old"]


def test_the_old_connection_stays_when_there_is_no_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    connector = Connector(failures=1000)
    old = connector.client
    (told,) = connect(monkeypatch, connector, 20)
    assert "no new connection: Could not connect" in told
    assert connector.client is old
    assert "old" not in connector.closed


def test_nothing_is_to_prove_where_there_is_no_ssh(monkeypatch: pytest.MonkeyPatch) -> None:
    assert connect(monkeypatch, object(), 20) == []
