"""The program as a file and as a command, and the units that call it."""

from __future__ import annotations

import ast
import configparser
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from device_stand_ins import PROGRAM, Device, device

UNITS = PROGRAM.parent / "systemd"


def test_it_is_one_file_of_python_3_8_and_the_standard_library() -> None:
    tree = ast.parse(PROGRAM.read_text(), feature_version=(3, 8))
    imported: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(str(node.module).split(".")[0])
    assert imported <= set(sys.stdlib_module_names)


def test_it_does_not_use_what_came_after_python_3_8() -> None:
    """Names and methods that parse in any version, but are not there in 3.8."""
    tree = ast.parse(PROGRAM.read_text())
    late = {"removeprefix", "removesuffix", "is_relative_to", "bit_count", "pairwise", "to_thread"}
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not used & late
    annotations = {
        id(inner)
        for node in ast.walk(tree)
        for part in (
            getattr(node, "annotation", None),
            getattr(node, "returns", None),
        )
        if part is not None
        for inner in ast.walk(part)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            assert id(node) in annotations or not _may_be_dict(node), ast.unparse(node)


def _may_be_dict(node: ast.BinOp) -> bool:
    return any(isinstance(side, (ast.Dict, ast.Call)) for side in (node.left, node.right))


def run(
    root: Path, *arguments: str, given: object = None, raw: bytes | None = None
) -> tuple[int, Any]:
    """Exit status and answer of the command itself."""
    done = subprocess.run(
        [sys.executable, "-I", str(PROGRAM), *arguments],
        input=json.dumps(given).encode() if raw is None else raw,
        capture_output=True,
        env={"PATH": "/nowhere", "MUSTER_ROOT": str(root)},
    )
    assert b"Traceback" not in done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) <= 1
    return done.returncode, json.loads(lines[0]) if lines else None


def test_a_document_in_and_one_line_out(tmp_path: Path) -> None:
    status, answer = run(tmp_path, "inspect", given={"model": "digits"})
    assert (status, answer["ok"]) == (0, True)
    assert answer["runtime"]["ready"] is False
    assert answer["model"]["phase"] == "idle"


def test_a_failure_is_an_answer_too(tmp_path: Path) -> None:
    document = {"model": "digits", "generation": 1, "rollout": "r"}
    status, answer = run(tmp_path, "confirm", given=document)
    assert status == 1
    assert answer["ok"] is False
    assert set(answer["error"]) == {"code", "message", "detail"}
    assert answer["error"]["code"] == "not_armed"


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'"text"', b"\xff\xfe{}", b"null"])
def test_what_is_not_a_document_is_refused(tmp_path: Path, raw: bytes) -> None:
    status, answer = run(tmp_path, "inspect", raw=raw)
    assert (status, answer["error"]["code"]) == (1, "bad_input")


def test_what_the_units_call(tmp_path: Path) -> None:
    assert run(tmp_path, "guard", "--model", "digits") == (0, None)
    assert run(tmp_path, "boot") == (0, {"ok": True, "started": []})
    status, answer = run(tmp_path, "guard", "--model", "../etc")
    assert (status, answer["error"]["code"]) == (1, "bad_input")
    status, answer = run(tmp_path, "run", "--model", "../etc")
    assert (status, answer["error"]["code"]) == (1, "bad_input")
    assert run(tmp_path, "run", "--model", "digits") == (device.EXIT_NOTHING_TO_RUN, None)
    assert not (tmp_path / "var").exists()


def test_a_reader_that_went_away_does_no_harm(tmp_path: Path) -> None:
    """The connection may break while a switch is at work: it must end all the same."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-I", str(PROGRAM), "inspect"],
        input=b'{"model": "digits"}',
        stdout=writing,
        stderr=subprocess.PIPE,
        env={"PATH": "/nowhere", "MUSTER_ROOT": str(tmp_path)},
    )
    os.close(writing)
    assert b"Traceback" not in done.stderr


def test_an_error_nobody_thought_of_is_an_answer(
    dev: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_off(*arguments: Any) -> None:
        raise KeyError("surprise")

    monkeypatch.setattr(device, "architecture", break_off)
    error = dev.fails("inspect")
    assert error["code"] == "internal"
    assert "surprise" in error["message"]


def test_a_full_disk_has_a_code_of_its_own(dev: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(*arguments: Any) -> None:
        raise OSError(device.errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(device.os, "mkdir", fill)
    error = dev.fails("stage", **dev.stage_document(dev.release("1.0")))
    assert error["code"] == "no_space"


@pytest.mark.parametrize("command", ["stage", "switch", "probe", "confirm", "revert", "prune"])
@pytest.mark.parametrize("model", [None, "", "..", "a/b", "A", "-a", "a" * 60, "a\n", 1, ["a"]])
def test_models_with_bad_names_are_refused_everywhere(
    dev: Device, command: str, model: object
) -> None:
    error = dev.fails(command, model=model)
    assert error["code"] == "bad_input"
    assert error["message"].startswith("model: ")


@pytest.mark.parametrize("release", ["..", "1.0", "../1.0-0123456789ab", "1.0-0123456789AB", "a\n"])
def test_releases_with_bad_names_are_refused_everywhere(dev: Device, release: str) -> None:
    staged = dev.stage_document(dev.release("1.0"), release_id=release)
    switched = {"generation": 1, "rollout": "r", "release_id": release, "confirm_timeout": 60}
    for command, document in (
        ("stage", staged),
        ("switch", switched),
        ("revert", {"to": release, "reason": "x"}),
    ):
        assert dev.fails(command, **document)["code"] == "bad_input"
    assert not dev.state.exists()


@pytest.mark.parametrize(
    ("command", "document", "named"),
    [
        ("switch", {"generation": 0}, "generation"),
        ("switch", {"generation": True}, "generation"),
        ("switch", {"generation": "1"}, "generation"),
        ("switch", {"rollout": ""}, "rollout"),
        ("switch", {"mode": "blue_green"}, "mode"),
        ("switch", {"healthy_deadline": 0}, "healthy_deadline"),
        ("switch", {"healthy_deadline": 60, "confirm_timeout": 60}, "confirm_timeout"),
        ("switch", {"confirm_timeout": float("nan")}, "confirm_timeout"),
        ("switch", {"drain": True}, "drain"),
        ("switch", {"extend": 1}, "extend"),
        ("confirm", {"generation": 1, "rollout": "r", "retain": -1}, "retain"),
        ("revert", {"generation": -1}, "generation"),
        ("revert", {"reason": 5}, "reason"),
        ("prune", {}, "retain"),
        ("prune", {"retain": 1.5}, "retain"),
        ("inspect", {"models": "x"}, "models"),
    ],
)
def test_bad_fields_are_named(
    dev: Device, command: str, document: dict[str, Any], named: str
) -> None:
    if command == "switch":
        document = dev.switch_document(dev.release("1.0"), 1) | document
    error = dev.fails(command, **document)
    assert error["code"] == "bad_input"
    assert error["message"].startswith(f"{named}: ")
    assert not dev.state.exists()


# The units


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNITS / name)
    return parser


def test_the_units_call_subcommands_that_there_are() -> None:
    called = {
        line.split("=", 1)[1]
        for path in UNITS.iterdir()
        for line in path.read_text().splitlines()
        if line.startswith("Exec") and "muster-device" in line
    }
    assert called == {
        "/usr/local/sbin/muster-device boot",
        "/usr/local/sbin/muster-device guard --model %i",
        "/usr/local/sbin/muster-device run --model %i",
        "/usr/local/sbin/muster-device halt --model %i",
    }
    for command in called:
        device.parse_arguments(command.split()[1:])


def test_only_the_boot_unit_starts_by_itself() -> None:
    names = {path.name for path in UNITS.iterdir()}
    assert names == {
        "muster-boot.service",
        "muster-guard@.service",
        "muster-guard@.timer",
        "muster-model@.service",
        "muster-proxy@.service",
    }
    assert {name for name in names if unit(name).has_section("Install")} == {"muster-boot.service"}


def test_the_guard_comes_by_whatever_the_time_of_day_does() -> None:
    """systemd takes these from a clock that nobody sets."""
    timer = unit("muster-guard@.timer")["Timer"]
    assert set(timer) == {"OnActiveSec", "OnUnitInactiveSec", "AccuracySec"}


def test_the_unit_of_the_proxy_never_gives_up() -> None:
    proxy = unit("muster-proxy@.service")
    assert proxy["Service"]["Restart"] == "always"
    assert proxy["Unit"]["StartLimitIntervalSec"] == "0"


def test_the_unit_of_a_model_never_gives_up() -> None:
    model = unit("muster-model@.service")
    assert model["Service"]["Restart"] == "always"
    assert model["Unit"]["StartLimitIntervalSec"] == "0"
    assert int(model["Service"]["RestartPreventExitStatus"]) == device.EXIT_NOTHING_TO_RUN
    assert float(model["Service"]["TimeoutStopSec"]) < device.STOP_TIMEOUT


def test_the_guard_is_a_monotonic_timer_of_a_few_seconds() -> None:
    timer = unit("muster-guard@.timer")["Timer"]
    assert dict(timer) == {"OnActiveSec": "5s", "OnUnitInactiveSec": "5s", "AccuracySec": "1s"}


@pytest.mark.skipif(
    subprocess.run(["sh", "-c", "command -v systemd-analyze"], capture_output=True).returncode != 0,
    reason="systemd-analyze, which checks the units, is not installed",
)
def test_systemd_understands_the_units(tmp_path: Path) -> None:
    for path in UNITS.iterdir():
        text = re.sub("/usr/(local/)?sbin/(muster-device|haproxy)", "/bin/true", path.read_text())
        (tmp_path / path.name.replace("@.", "@x.")).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *sorted(map(str, tmp_path.iterdir()))],
        capture_output=True,
        text=True,
    )
    about_ours = [line for line in done.stderr.splitlines() if "muster-" in line]
    assert [line for line in about_ours if "docker.service" not in line] == []
