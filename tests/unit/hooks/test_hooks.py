from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from drill import Drill, bad, make_release, strategy

from muster.commands.options import hooks_option, webhook_option
from muster.errors import InputError
from muster.fleet.simulated import Quality, SimulatedFleet
from muster.hooks.calls import (
    HookCalls,
    HookObserver,
    HookResult,
    find_hooks,
    is_failure,
    open_hooks,
)
from muster.hooks.program import OUTPUT_BYTES, HookProgram, last_line
from muster.rollout.events import Event, EventKind
from muster.rollout.journal import Journal
from muster.rollout.machine import DeviceState
from muster.rollout.records import DeviceRecord, RolloutRecord, Snapshot, WaveRecord

D = DeviceState
Script = Callable[..., Path]


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MUSTER_HOOK_TIMEOUT", "MUSTER_WEBHOOK_SECRET"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Write a hook into the folder ``hooks``."""
    folder = tmp_path / "hooks"
    folder.mkdir()

    def write(name: str, text: str = "", mode: int = 0o755) -> Path:
        path = folder / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(mode)
        return path

    return write


def results(hooks: HookCalls, seconds: float = 20) -> list[HookResult]:
    """Wait for the first results."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := hooks.finished():
            return found
        time.sleep(0.02)
    raise AssertionError("no hook finished")


# -- configuration --------------------------------------------------------------------------


def test_the_hooks_of_a_folder_are_found(script: Script, tmp_path: Path) -> None:
    wanted = script("pre_wave"), script("on_failure")
    script("README.md", mode=0o644)
    script("lib.sh")
    script("pre_rollout.sample", mode=0o644)
    script("post_wave.disabled")
    script(".pre_rollout.swp")
    assert find_hooks(tmp_path / "hooks") == {path.name: path for path in wanted}


def test_a_hook_may_be_a_link(script: Script, tmp_path: Path) -> None:
    target = script("notify.sh")
    (tmp_path / "hooks" / "on_pause").symlink_to("notify.sh")
    assert find_hooks(tmp_path / "hooks") == {"on_pause": target}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("pre-wave", "pre_wave"),
        ("pre_wave.sh", "pre_wave"),
        ("prewave", "pre_wave"),
        ("post_rolout", "post_rollout"),
        ("On_Failure.py", "on_failure"),
        ("on_aproval", "on_approval"),
    ],
)
def test_a_name_that_is_almost_a_hook_is_an_error(
    script: Script, tmp_path: Path, name: str, meant: str
) -> None:
    script(name)
    with pytest.raises(InputError, match=f"{name}: no hook has this name; expected {meant}"):
        find_hooks(tmp_path / "hooks")


def test_a_hook_that_cannot_be_executed_is_an_error(script: Script, tmp_path: Path) -> None:
    script("pre_wave", mode=0o644)
    (tmp_path / "hooks" / "on_pause").mkdir()
    (tmp_path / "hooks" / "post_wave").symlink_to("nowhere")
    with pytest.raises(InputError) as error:
        find_hooks(tmp_path / "hooks")
    problems = error.value.problems
    assert [Path(problem.partition(": ")[0]).name for problem in problems] == [
        "on_pause",
        "post_wave",
        "pre_wave",
    ]
    assert "chmod +x" in problems[2]


def test_a_folder_that_is_missing_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(InputError, match="nowhere: expected the folder"):
        find_hooks(tmp_path / "nowhere")
    with pytest.raises(InputError, match="file: expected the folder"), open_hooks(file, None):
        pass


@pytest.mark.parametrize("value", ["soon", "0", "-1", "nan", "30 s", "25h"])
def test_a_time_limit_that_is_none_is_an_error(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("MUSTER_HOOK_TIMEOUT", value)
    with pytest.raises(InputError, match="MUSTER_HOOK_TIMEOUT"), open_hooks(None, None):
        pass


# -- one hook -------------------------------------------------------------------------------


def test_a_hook_gets_the_event_and_two_variables_but_not_the_webhooks_secret(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUSTER_WEBHOOK_SECRET", "hush-hush")
    script("pre_wave", f"cat > {tmp_path}/event; env > {tmp_path}/environment")
    event = {"event": "wave", "rollout": "r-1", "wave": 0, "devices": ["a", "b"]}
    with open_hooks(tmp_path / "hooks", None) as hooks:
        hooks.call("pre_wave", event)
        assert results(hooks) == [HookResult("pre_wave", True, "")]
    told = json.loads((tmp_path / "event").read_text())
    assert abs(told.pop("at") - time.time()) < 60
    assert told == event | {"event": "pre_wave"}
    environment = (tmp_path / "environment").read_text().splitlines()
    assert "MUSTER_HOOK_NAME=pre_wave" in environment
    assert "MUSTER_ROLLOUT_ID=r-1" in environment
    assert "hush-hush" not in "\n".join(environment)


def test_a_large_event_that_nobody_reads_blocks_nobody(script: Script, tmp_path: Path) -> None:
    script("pre_rollout", "exit 0")
    with open_hooks(tmp_path / "hooks", None) as hooks:
        hooks.call("pre_rollout", {"devices": [f"device-{n:06}" for n in range(50_000)]})
        assert results(hooks)[0].ok


def test_a_hook_that_fails_says_why(script: Script, tmp_path: Path) -> None:
    script("pre_wave", "echo first; echo 'ticket 7 is not signed' >&2; echo; exit 3")
    with open_hooks(tmp_path / "hooks", None) as hooks:
        hooks.call("pre_wave", {})
        assert results(hooks) == [
            HookResult("pre_wave", False, "exit code 3: ticket 7 is not signed")
        ]


def test_a_hook_without_a_known_interpreter_fails(script: Script, tmp_path: Path) -> None:
    path = script("pre_wave")
    path.write_text("#!/no/such/interpreter\n")
    with open_hooks(tmp_path / "hooks", None) as hooks:
        hooks.call("pre_wave", {})
        [result] = results(hooks)
    assert not result.ok
    assert "it can't be run: No such file" in result.message


def test_a_hook_that_is_killed_fails(script: Script) -> None:
    path = script("pre_wave", "kill -TERM $$")
    assert HookProgram("pre_wave", path).run(b"{}", "r", 10) == "it was ended by signal 15"


def test_a_hook_that_takes_too_long_is_killed_with_all_its_children(
    script: Script, tmp_path: Path
) -> None:
    path = script(
        "pre_wave",
        f"echo waiting; trap '' TERM; (sleep 60 & echo $! > {tmp_path}/child; wait) ; exit 0",
    )
    begun = time.monotonic()
    problem = HookProgram("pre_wave", path).run(b"{}", "r", 1.0)
    assert time.monotonic() - begun < 5
    assert problem == "it took longer than 1 s and was killed: waiting"
    child = int((tmp_path / "child").read_text())
    end = time.monotonic() + 5
    while _runs(child) and time.monotonic() < end:
        time.sleep(0.05)
    assert not _runs(child)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_hook_may_leave_something_behind(script: Script) -> None:
    path = script("pre_wave", "sleep 5 & exit 0")
    begun = time.monotonic()
    assert HookProgram("pre_wave", path).run(b"{}", "r", 30) is None
    assert time.monotonic() - begun < 4


def test_of_much_output_the_end_is_kept(script: Script) -> None:
    path = script("pre_wave", "yes muster | head -c 50000000; echo; echo the end; exit 1")
    problem = HookProgram("pre_wave", path).run(b"{}", "r", 60)
    assert problem == "exit code 1: the end"


def test_the_last_line_is_fit_to_be_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAGER_TOKEN", "s3cr3t-t0ken")
    assert last_line(b"a\n\n  \n") == "a"
    assert last_line(b"") == ""
    assert last_line(b"ok\n\x1b[31mred\xff\x00\n") == " [31mred\ufffd "
    assert last_line(b"curl: Bearer s3cr3t-t0ken refused") == "curl: Bearer *** refused"
    assert len(last_line(b"x" * OUTPUT_BYTES)) == 200


# -- calling them ---------------------------------------------------------------------------


def test_to_call_a_blocking_hook_does_not_block(script: Script, tmp_path: Path) -> None:
    script("pre_wave", "sleep 0.5")
    with open_hooks(tmp_path / "hooks", None) as hooks:
        begun = time.monotonic()
        hooks.call("pre_wave", {})
        assert time.monotonic() - begun < 0.4
        assert hooks.finished() == []
        assert results(hooks)[0].ok
        assert hooks.finished() == []


def test_a_blocking_hook_that_is_not_there_is_ok_at_once() -> None:
    with open_hooks(None, None) as hooks:
        hooks.call("pre_rollout", {})
        hooks.call("post_wave", {})
        assert hooks.finished() == [HookResult("pre_rollout", True, "")]


def test_notices_are_told_in_order_and_have_no_result(script: Script, tmp_path: Path) -> None:
    for name, seconds in (("post_wave", 0.3), ("on_pause", 0), ("post_rollout", 0.1)):
        script(name, f"sleep {seconds}; echo $MUSTER_HOOK_NAME >> {tmp_path}/told")
    with open_hooks(tmp_path / "hooks", None) as hooks:
        for name in ("post_wave", "on_pause", "post_rollout"):
            hooks.call(name, {})
        assert hooks.finished() == []
    assert (tmp_path / "told").read_text().split() == ["post_wave", "on_pause", "post_rollout"]
    assert hooks.finished() == []


def test_a_notice_that_fails_is_warned_of_once(
    script: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script("post_wave", "echo no route; exit 1")
    with open_hooks(tmp_path / "hooks", None) as hooks:
        for _ in range(3):
            hooks.call("post_wave", {})
    assert capsys.readouterr().err.splitlines() == [
        "warning: hook post_wave failed: exit code 1: no route",
        "warning: hook post_wave failed 3 times",
    ]


def test_the_end_does_not_wait_for_notices_without_limit(
    script: Script,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MUSTER_HOOK_TIMEOUT", "1s")
    script("on_failure", f"echo x >> {tmp_path}/begun; sleep 60")
    begun = time.monotonic()
    with open_hooks(tmp_path / "hooks", None) as hooks:
        for _ in range(20):
            hooks.call("on_failure", {})
    assert time.monotonic() - begun < 5
    assert "calls of hooks were given up at the end" in capsys.readouterr().err
    time.sleep(0.3)  # and nothing is begun afterwards
    assert len((tmp_path / "begun").read_text().split()) <= 2


def test_a_blocking_hook_is_killed_when_nobody_waits_any_more(
    script: Script, tmp_path: Path
) -> None:
    script("pre_wave", f"echo $$ > {tmp_path}/pid; sleep 60")
    with open_hooks(tmp_path / "hooks", None) as hooks:
        hooks.call("pre_wave", {})
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().strip():
            time.sleep(0.02)
    pid = int((tmp_path / "pid").read_text())
    end = time.monotonic() + 60
    while _runs(pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert not _runs(pid)


_UNDER_GEVENT = """
from gevent import monkey
monkey.patch_all()
import sys, time
from pathlib import Path
from muster.hooks.calls import open_hooks
with open_hooks(Path(sys.argv[1]), None) as hooks:
    hooks.call("pre_wave", {"devices": ["d"] * 50000})
    hooks.call("pre_rollout", {})
    hooks.call("post_wave", {})
    turns, found = 0, []
    while len(found) < 2:
        time.sleep(0.05)
        turns += 1
        found += hooks.finished()
    for result in sorted(found, key=lambda result: result.hook):
        print(result)
    print("turns", turns > 10)
"""


def test_it_works_with_gevents_patches(script: Script, tmp_path: Path) -> None:
    script("pre_rollout", "sleep 60 & sleep 60")
    script("pre_wave", "cat > /dev/null; echo refused; exit 4")
    script("post_wave", f"sleep 0.2; echo told > {tmp_path}/told; exit 1")
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", _UNDER_GEVENT, str(tmp_path / "hooks")],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"MUSTER_HOOK_TIMEOUT": "1.5"},
    )
    assert time.monotonic() - begun < 20
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "HookResult(hook='pre_rollout', ok=False,"
        " message='it took longer than 1.5 s and was killed')",
        "HookResult(hook='pre_wave', ok=False, message='exit code 4: refused')",
        "turns True",
    ]
    assert done.stderr == "warning: hook post_wave failed: exit code 1\n"
    assert (tmp_path / "told").exists()


# -- what is told ---------------------------------------------------------------------------


class Calls:
    """Hooks that remember what they were called for."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def call(self, hook: str, event: Mapping[str, Any]) -> None:
        self.calls.append((hook, dict(event)))

    def finished(self) -> list[HookResult]:
        return []

    @property
    def names(self) -> list[str]:
        return [hook for hook, _ in self.calls]


def watched(quality: Quality = Quality.GOOD, **changes: Any) -> Calls:
    """The calls of one simulated rollout over four devices."""
    calls, drill = Calls(), Drill(Journal("sqlite://"))
    fleet = SimulatedFleet(drill.devices(4), bad(drill.release, quality))
    snapshot = drill.prepare(fleet, strategy(**changes))
    drill.drive(snapshot, fleet, HookObserver(calls, snapshot))  # type: ignore[arg-type]
    drill.journal.close()
    return calls


def test_a_good_rollout_tells_of_its_waves_and_its_end() -> None:
    calls = watched(waves=[{"size": 1, "name": "first"}, {"size": "rest"}])
    assert calls.names == ["post_wave", "post_wave", "post_rollout"]
    first, _, last = (event for _, event in calls.calls)
    assert first["model"] == "digits"
    assert first["release"] == make_release().id
    assert first["kind"] == "rollout"
    assert (first["wave"], first["to"]) == ({"index": 0, "name": "first"}, "passed")
    assert len(first["devices"]) == 1
    assert first["states"] == {"committed": 1}
    assert last["to"] == "succeeded"
    assert last["wave"] is None
    assert last["devices"] == ["d0000", "d0001", "d0002", "d0003"]
    assert last["states"] == {"committed": 4}
    assert json.loads(json.dumps(last)) == last


def test_a_bad_release_tells_of_failure_rollback_and_end() -> None:
    calls = watched(Quality.WRONG, waves=[{"size": 1}, {"size": "rest"}])
    assert calls.names[0] == "on_failure"
    assert sorted(calls.names) == ["on_failure", "on_rollback", "post_rollout", "post_wave"]
    failure = dict(calls.calls)["on_failure"]
    [device] = failure["devices"]
    assert failure["wave"]["index"] == 0
    assert failure["reasons"][device]
    assert dict(calls.calls)["post_wave"]["to"] == "failed"
    assert dict(calls.calls)["post_rollout"]["to"] == "rolled_back"


def test_a_breach_that_pauses_is_told() -> None:
    calls = watched(
        Quality.WRONG,
        waves=[{"size": 1}, {"size": "rest"}],
        failure_budget={"max_failed": 0, "max_unreachable": 0, "on_breach": "pause"},
    )
    assert calls.names == ["on_failure", "on_pause"]


def snapshot_of(*devices: str) -> Snapshot:
    rollout = RolloutRecord("r-1", "rollout", "digits", "2.0-abc", "{}", {}, "inventory")
    return Snapshot(
        rollout, [WaveRecord(0, "canary")], [DeviceRecord(device, wave=0) for device in devices]
    )


def step(kind: EventKind, before: str, to: str, device: str = "", wave: int | None = 0) -> Event:
    data = {"from": before, "to": to, "reason": "because"}
    return Event(kind, "r-1", 1.0, device, wave, data)


def test_failures_between_two_ticks_make_one_call() -> None:
    calls = Calls()
    observer = HookObserver(calls, snapshot_of("a", "b", "c"))
    for device in ("a", "b"):
        observer.event(step(EventKind.DEVICE, "pending", "switching", device))
        observer.event(step(EventKind.DEVICE, "switching", "rolling_back", device))
    assert calls.calls == []
    observer.tick()
    observer.tick()
    [(hook, event)] = calls.calls
    assert hook == "on_failure"
    assert event["devices"] == ["a", "b"]
    assert event["reasons"] == {"a": "because", "b": "because"}
    assert event["wave"] == {"index": 0, "name": "canary"}


def test_people_are_asked_for_an_approval_once() -> None:
    calls = Calls()
    observer = HookObserver(calls, snapshot_of("a", "b"))
    wave, state = EventKind.WAVE, EventKind.ROLLOUT
    observer.event(step(wave, "pending", "awaiting_approval"))
    observer.event(step(state, "running", "awaiting_approval", wave=None))
    assert calls.names == ["on_approval"]
    assert calls.calls[0][1]["devices"] == ["a", "b"]
    observer.event(step(wave, "awaiting_approval", "updating"))
    observer.event(step(state, "awaiting_approval", "running", wave=None))
    observer.event(step(wave, "pending", "awaiting_approval", wave=1))
    assert calls.names == ["on_approval", "on_approval"]


@pytest.mark.parametrize(
    ("before", "to", "failed"),
    [
        (D.SOAKING, D.ROLLING_BACK, True),
        (D.SWITCHING, D.ROLLED_BACK, True),
        (D.SWITCHING, D.LOST, True),
        (D.ROLLBACK_FAILED, D.QUARANTINED, True),
        (D.STAGING, D.REJECTED, True),
        (D.PREFLIGHT, D.REJECTED, False),
        (D.COMMITTED, D.ROLLING_BACK, False),
        (D.ROLLING_BACK, D.ROLLED_BACK, False),
        (D.LOST, D.ROLLED_BACK, False),
        (D.PREFLIGHT, D.DEFERRED, False),
        (D.CONFIRMING, D.COMMITTED, False),
    ],
)
def test_what_counts_as_a_failure(before: DeviceState, to: DeviceState, failed: bool) -> None:
    assert is_failure(before, to) is failed


# -- the options ----------------------------------------------------------------------------


def test_wrong_options_are_found_before_the_command_begins(tmp_path: Path) -> None:
    @click.command()
    @hooks_option
    @webhook_option
    def command(hooks_folder: Path | None, webhook_url: str | None) -> None:
        print(hooks_folder, webhook_url)

    run = CliRunner().invoke
    assert run(command, []).output == "None None\n"
    good = run(command, ["--hooks", str(tmp_path), "--webhook", "https://example.com/x"])
    assert good.output == f"{tmp_path} https://example.com/x\n"
    environment = {"MUSTER_HOOKS": str(tmp_path), "MUSTER_WEBHOOK": "https://example.com/x"}
    assert run(command, [], env=environment).output == good.output
    for arguments in (["--hooks", f"{tmp_path}/nowhere"], ["--webhook", "example.com"]):
        result = run(command, arguments)
        assert isinstance(result.exception, InputError)
        assert result.output == ""
