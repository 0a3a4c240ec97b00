"""The deploys under pyinfra's own command: who fails, who goes on, and with which exit code.

The devices are pyinfra's ``@fake`` ones, which answer each command of the device program always in
the same way.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from release_documents import IMAGE, release_document

from muster.paths import COLLECTION_ROOT
from muster.release import Release

OLD = "1.0-aaaaaaaaaaaa"
RELEASE = release_document(variants={"hw_coral": {"image": IMAGE, "requires": {"arch": ["amd64"]}}})
NEW = Release.model_validate(RELEASE).id
REFUSAL = {"ok": False, "error": {"code": "bad_input", "message": "not expected", "detail": {}}}


def inspected(
    current: str = OLD, arch: str = "amd64", runtime: str = "docker", **model: Any
) -> dict[str, Any]:
    return {
        "ok": True,
        "arch": arch,
        "runtime": {"name": runtime, "ready": True},
        "model": {
            "current": {"id": current, "serving": True},
            "previous": None,
            "last_good": current,
            "generation": 3,
            "rollout": "other",
            "phase": "idle",
            "guard": {"armed": False, "remaining": None},
            "releases": [current],
            "last_outcome": None,
        }
        | model,
    }


def device(status: int = 200, *, refuses: tuple[str, ...] = (), **seen: Any) -> dict[str, Any]:
    """Data of a device.

    :param status: what its model answers to the readiness gate.
    :param refuses: commands of the device program that must not be given, and fail.
    """
    sample = {"at": 0.0, "status": status, "latency": 0.01, "body": "", "error": None}
    answers = {
        "inspect": inspected(**seen),
        "stage": {"ok": True, "staged": True},
        "switch": {"ok": True, "generation": 4, "ready": True, "detail": ""},
        "probe": {"ok": True, "restarts": 0, "measurements": {"ready": [sample]}},
        "confirm": {"ok": True},
        "revert": {"ok": True, "reverted": True, "from": NEW, "to": OLD, "ready": True},
    } | dict.fromkeys(refuses, REFUSAL)
    responses = {
        f"muster-device {verb}": {"stdout": json.dumps(answer), "success": answer["ok"]}
        for verb, answer in answers.items()
    }
    return {"fake_responses": responses, "fake_delay": 0, "fake_delay_jitter": 0}


ORDERS = ("stage", "switch", "probe", "confirm", "revert")
COMMANDS = ("inspect", *ORDERS)


class Run:
    """Starts pyinfra on an inventory of these devices."""

    def __init__(self, folder: Path) -> None:
        self.release = folder / "release.yml"
        self.release.write_text(yaml.dump(RELEASE))
        self.inventory = folder / "inventory.py"

    def start(
        self, deploy: str, devices: dict[str, dict[str, Any]], *arguments: str
    ) -> subprocess.Popen[str]:
        hosts = [(f"@fake/{name}", data) for name, data in devices.items()]
        fitting = [host for host in hosts if "misplaced" not in host[0]]
        self.inventory.write_text(f"all = {hosts!r}\nhw_coral = {fitting!r}\n")
        command = [sys.executable, "-m", "pyinfra", str(self.inventory), f"deploys/{deploy}.py"]
        return subprocess.Popen(
            [*command, *arguments],
            cwd=COLLECTION_ROOT,
            env=os.environ | {"PYINFRA_PROGRESS": "off"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def __call__(
        self, deploy: str, devices: dict[str, dict[str, Any]], *arguments: str
    ) -> tuple[int, str]:
        """Give the exit code and all that was printed."""
        process = self.start(deploy, devices, *arguments)
        output, _ = process.communicate(timeout=120)
        print(output)
        return process.returncode, output

    def model(self, devices: dict[str, dict[str, Any]], *arguments: str) -> tuple[int, str]:
        return self("model", devices, "--data", f"release={self.release}", *arguments)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def step(output: str, name: str) -> str:
    """What was printed while an operation ran."""
    return output.partition(f"Starting operation: model | {name}")[2].partition("-->")[0]


def test_devices_that_fail_are_left_behind_and_the_others_go_on(run: Run) -> None:
    devices = {
        "good": device(refuses=("revert",)),
        "wrong": device(503, refuses=("confirm",)),
        "small": device(refuses=ORDERS, arch="arm64"),
        "node": device(refuses=ORDERS, runtime="k3s"),
        "bare": device(refuses=COMMANDS),
        "misplaced": device(refuses=COMMANDS),
    }
    code, output = run.model(devices, "-y")
    assert code == 1
    assert f"from {OLD} to {NEW} (hw_coral)" in output
    before, _, _ = output.partition("--> Beginning operation run")
    assert "architecture arm64, needed amd64" in before
    assert "its models run on K3s" in before
    assert "inspect failed: was the device provisioned?" in before
    assert "it is in no hardware group" in before
    gate = step(output, "health gate")
    assert "passed: ready: ready in 1 of 1 samples" in gate
    assert f"HTTP 503 instead of 200; it runs {OLD} again" in gate
    assert "Traceback" not in output
    confirmed = step(output, "confirm")
    assert "[@fake/good]" in confirmed
    assert confirmed.count("[@fake/") == 1


def test_batch_that_is_well_exits_with_0_and_leaves_others_alone(run: Run) -> None:
    devices = {"good": device(refuses=("revert",)), "other": device(refuses=COMMANDS)}
    code, output = run.model(devices, "-y", "--limit", "@fake/good")
    assert code == 0
    assert "@fake/other" not in output


def test_release_that_runs_already_changes_nothing(run: Run) -> None:
    code, output = run.model({"a": device(refuses=ORDERS, current=NEW)}, "-y")
    assert code == 0
    assert f"runs {NEW} already" in output
    assert output.count("No changes") == 4


def test_dry_run_tells_and_touches_nothing(run: Run) -> None:
    devices = {"a": device(refuses=ORDERS), "b": device(refuses=ORDERS, current=NEW)}
    code, output = run.model(devices, "--dry")
    assert code == 0
    assert f"from {OLD} to {NEW} (hw_coral)" in output
    changes = output.partition("Detected changes")[2]
    assert changes.count("1 (@fake/a)") == 4
    assert "not expected" not in output


@pytest.mark.parametrize("argument", ["--no-wait", "--serial"])
def test_failure_is_not_forgotten_in_other_orders(run: Run, argument: str) -> None:
    devices = {"good": device(refuses=("revert",)), "wrong": device(503, refuses=("confirm",))}
    code, output = run.model(devices, "-y", argument)
    assert code == 1
    assert "passed: ready" in output
    assert "not expected" not in output


def test_too_many_failures_stop_the_batch_before_any_is_confirmed(run: Run) -> None:
    devices = {"good": device(refuses=("confirm",)), "wrong": device(503)}
    code, output = run.model(devices, "-y", "--fail-percent", "20")
    assert code == 1
    assert "Over 20% of hosts failed" in output
    assert not step(output, "confirm")


def test_limit_that_matches_nothing_is_a_failure(run: Run) -> None:
    code, output = run.model({"a": device()}, "-y", "--limit", "typo")
    assert code == 1
    assert "No host was reached" in output


def test_wrong_input_is_told_before_anything_connects(run: Run) -> None:
    run.release.write_text(yaml.dump(RELEASE | {"version": 1.1}))
    code, output = run.model({"a": device()}, "-y", "--data", "stratgy=x")
    assert code == 2
    assert "--data stratgy: expected no such key, did you mean strategy?" in output
    assert "version: expected text, got the number 1.1" in output
    assert "Connect" not in output


def test_wrong_input_touches_nothing_where_config_py_is_not_read(run: Run) -> None:
    run.release.unlink()
    code, output = run.model({"a": device(refuses=COMMANDS)}, "-y", "--config", os.devnull)
    assert code == 1
    assert "can't be read" in output
    assert "not expected" not in output


def test_interrupted_run_is_a_failure(run: Run) -> None:
    slow = device() | {"fake_delay": 60}
    process = run.start("model", {"a": slow}, "-y", "--data", f"release={run.release}")
    assert process.stdout is not None
    for line in process.stdout:
        if "Loading: deploys/model.py" in line:
            break
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=300)  # it waits for what is under way
    assert process.returncode == 130
    assert "goes back by itself" in output


def test_rollback_takes_back_whom_it_can(run: Run) -> None:
    held = {"releases": [OLD, NEW]}
    reverted = {"outcome": "reverted", "release": NEW, "reason": "smoke"}
    devices = {
        "new": device(current=NEW, previous=OLD, **held),
        "back": device(refuses=ORDERS, previous=NEW, last_outcome=reverted, **held),
        "first": device(refuses=ORDERS, current=NEW, releases=[NEW]),
        "stuck": device(refuses=("revert",), current=NEW, previous=OLD, **held),
    }
    code, output = run("rollback", devices, "-y", "--data", "model=digits")
    assert code == 1
    assert f"back from {NEW} to {OLD}" in output
    assert f"went back from {NEW} already (smoke) and runs {OLD}" in output
    assert f"runs {NEW} and knows no earlier release" in output
    assert "COULD NOT GO BACK: revert: not expected" in output
    assert [line.split()[-1] for line in output.splitlines() if "Grand total" in line] == ["1"]


def test_rollback_to_what_runs_changes_nothing(run: Run) -> None:
    devices = {"a": device(refuses=ORDERS)}
    code, output = run("rollback", devices, "-y", "--data", "model=digits", "--data", f"to={OLD}")
    assert code == 0
    assert f"runs {OLD} already" in output
    assert output.count("No changes") == 1
