"""The benchmarks run; what they measure is printed by ``make bench`` and never a test."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_controller_is_measured_over_simulated_devices(tmp_path: Path) -> None:
    output = tmp_path / "figures.json"
    done = subprocess.run(
        [
            *(sys.executable, BENCHMARKS / "controller_scale.py"),
            *("--sizes", "4,8", "--output", output),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "cost of a device at 8 to that at 4:" in done.stdout
    runs = json.loads(output.read_text())["runs"]
    assert [run["devices"] for run in runs] == [4, 8]
    for run in runs:
        assert (run["state"], run["waves"]) == ("succeeded", 3)
        assert run["answers"] == 6 * run["devices"]  # the survey, and five steps
        assert 0 < run["cpu"]["simulation"] < run["cpu"]["total"]
        assert run["peak_memory"] > 2**20


def test_what_a_means_takes_beyond_the_work_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from means import Run
    from rollout_means import figures, ratios, show

    walls = {"work": 10.0, "ssh": 12.0, "ansible": 30.0, "program": 13.0, "muster": 16.0}
    runs = [
        Run(means, wall + delay, 2 * wall, 1.0)
        for means, wall in walls.items()
        for delay in (5.0, 0.0)  # a round in which the machine was busy
    ]
    found = figures(runs)
    assert found["ansible"]["beyond_own"] == 20
    assert found["muster"]["beyond_work"] == 6
    assert found["muster"]["beyond_own"] == 3
    assert ratios(found)["beyond_own"] == {
        "ansible_to_muster": pytest.approx(20 / 3),
        "muster_to_ssh": 1.5,
    }
    assert "6.7" in show(found)


def test_waves_of_all_means_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from rollout_means import cut_into_waves

    waves = cut_into_waves([f"d{number}" for number in range(20)])
    assert [len(wave) for wave in waves] == [1, 5, 14]
