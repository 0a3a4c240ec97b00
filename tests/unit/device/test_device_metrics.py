"""``metrics``: what a device tells Prometheus of itself."""

from __future__ import annotations

import re
import subprocess
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from device_stand_ins import Device, Release, StandInSystemd, device

from muster.emulator.hardware import HARDWARE_ROOT, PROFILES


def measured(dev: Device, capsys: pytest.CaptureFixture[str], *certificates: str) -> dict[str, str]:
    """Values by metric with its labels, as written."""
    capsys.readouterr()
    device.metrics(dev.host, None, certificates)
    text = capsys.readouterr().out
    for name in set(re.findall(r"^(\w+)[{ ]", text, re.MULTILINE)):
        assert len(re.findall(rf"^# TYPE {name} (?:gauge|counter)$", text, re.MULTILINE)) == 1
        assert f"# HELP {name} " in text
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    found = dict(line.rsplit(" ", 1) for line in lines)
    assert len(found) == len(lines), "a sample was written twice"
    return found


def test_an_empty_device(dev: Device, capsys: pytest.CaptureFixture[str]) -> None:
    found = measured(dev, capsys)
    assert found["muster_accelerators"] == "0.0"
    assert found["muster_runtime_ready"] == "1.0"
    assert any(name.startswith("muster_device_info{") for name in found)
    assert not [name for name in found if "model=" in name]


def test_a_device_that_serves(
    dev: Device, old: Release, capsys: pytest.CaptureFixture[str]
) -> None:
    found = measured(dev, capsys)
    labels = f'model="digits",release="{old.id}"'
    assert found[f'muster_release_info{{{labels},version="1.0",digest="{old.digest}"}}'] == "1.0"
    assert found[f"muster_last_good_info{{{labels}}}"] == "1.0"
    assert found['muster_generation{model="digits"}'] == "1.0"
    assert found['muster_model_ready{model="digits"}'] == "1.0"
    assert found['muster_guard_armed{model="digits"}'] == "0.0"
    assert found['muster_switch_unfinished{model="digits"}'] == "0.0"
    assert found['muster_reverted{model="digits"}'] == "0.0"


def test_an_armed_guard_with_its_age_and_then_a_way_back(
    dev: Device,
    old: Release,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(StandInSystemd, "active_seconds", lambda _self, _unit: 90.0)
    new = dev.release("2.0")
    dev.stage(new)
    dev.switch(new, 2)
    found = measured(dev, capsys)
    assert found['muster_guard_armed{model="digits"}'] == "1.0"
    assert found['muster_switch_unfinished{model="digits"}'] == "1.0"
    since = float(found['muster_guard_armed_since_timestamp_seconds{model="digits"}'])
    assert abs(time.time() - 90 - since) < 5
    assert float(found['muster_guard_remaining_seconds{model="digits"}']) > 0
    dev.revert(2)
    found = measured(dev, capsys)
    assert found['muster_reverted{model="digits"}'] == "1.0"
    assert found['muster_guard_armed{model="digits"}'] == "0.0"
    assert any('outcome="reverted"' in name for name in found)


def test_damaged_state_is_told_and_hides_nothing_else(
    dev: Device, old: Release, capsys: pytest.CaptureFixture[str]
) -> None:
    (dev.state / "state.json").write_text("{")
    found = measured(dev, capsys)
    assert found['muster_state_damaged{model="digits"}'] == "1.0"
    assert found['muster_generation{model="digits"}'] == "1.0"
    assert found['muster_model_ready{model="digits"}'] == "1.0"


def test_an_accelerator_with_its_driver(dev: Device, capsys: pytest.CaptureFixture[str]) -> None:
    for name, content in PROFILES["hailo"].all_files().items():
        path = dev.root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    dev.configure(runtime="docker", hardware_root=HARDWARE_ROOT)
    found = measured(dev, capsys)
    assert found["muster_accelerators"] == "1.0"
    (info,) = [name for name in found if name.startswith("muster_accelerator_info")]
    assert 'kind="hailo"' in info
    assert 'driver="4.20.0"' in info


def make_certificate(path: Path, days: int) -> None:
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x"]
    command += ["-keyout", "/dev/null", "-out", str(path), "-days", str(days)]
    subprocess.run(command, check=True, capture_output=True)


def test_the_first_end_of_the_certificates_in_a_file(
    dev: Device, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for days in (30, 9):
        make_certificate(tmp_path / f"{days}.pem", days)
    both = tmp_path / "both.crt"
    both.write_text((tmp_path / "30.pem").read_text() + (tmp_path / "9.pem").read_text())
    (tmp_path / "none.crt").write_text("no certificate\n")
    found = measured(dev, capsys, f"{tmp_path}/*.crt", "/nowhere/*")
    name = "muster_certificate_not_after_timestamp_seconds"
    (ends,) = [value for key, value in found.items() if key.startswith(name)]
    expected = datetime.now(timezone.utc) + timedelta(days=9)
    assert abs(float(ends) - expected.timestamp()) < 60
    assert found[f'muster_certificate_unreadable{{path="{both}"}}'] == "0.0"
    assert found[f'muster_certificate_unreadable{{path="{tmp_path}/none.crt"}}'] == "1.0"


def test_labels_are_escaped() -> None:
    found = device.Exposition()
    found.add("muster_x", "X.", 1, name='a"b\\c\nd', nothing=None)
    assert found.text().splitlines()[-1] == 'muster_x{name="a\\"b\\\\c\\nd"} 1.0'


def test_the_file_is_replaced_at_once_and_all_may_read_it(dev: Device, tmp_path: Path) -> None:
    target = tmp_path / "muster.prom"
    target.write_text("old")
    with target.open() as reader:
        device.metrics(dev.host, str(target), ())
        assert reader.read() == "old"
    assert "muster_device_info" in target.read_text()
    assert oct(target.stat().st_mode & 0o777) == "0o644"
    assert not (tmp_path / "muster.prom.new").exists()


def test_a_read_only_command_takes_no_lock_and_changes_nothing(dev: Device, old: Release) -> None:
    before = {path: path.stat().st_mtime_ns for path in dev.state.rglob("*")}
    device.metrics(dev.host, None, ())
    assert {path: path.stat().st_mtime_ns for path in dev.state.rglob("*")} == before
