"""Rollouts over emulated devices: what answers requests, and what is left when things go wrong."""

from __future__ import annotations

import json
import signal
import subprocess
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from site_driver import Site


def states(result: dict[str, Any]) -> Counter[str]:
    return Counter(device["state"] for device in result["devices"])


def wait_for(what: str, condition: Callable[[], bool], seconds: float = 180) -> None:
    """Poll until something holds; the limit is far beyond what it takes."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s"
        time.sleep(1)


def read_until(process: subprocess.Popen[str], **wanted: object) -> dict[str, Any]:
    """Read events of a rollout until one has these fields."""
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if all(event.get(key) == value for key, value in wanted.items()):
            return dict(event)
    raise AssertionError(f"no event {wanted}; {process.stderr and process.stderr.read()}")


def test_releases_roll_forward_wave_by_wave(site: Site) -> None:
    site.everywhere("1.0")
    events = site.rollout("1.1")
    result = events[-1]
    assert states(result) == {"committed": 8}
    assert set(site.answering().values()) == {"1.1"}
    assert [wave["devices"] for wave in result["waves"]] == [1, 4, 3]
    assert max(device["commands"] for device in result["devices"]) <= 8
    for wave in result["waves"]:  # what its slowest device costs, not the sum
        assert wave["seconds"] < 1.5 * wave["slowest"] + 1


def test_a_plan_changes_nothing_and_names_what_runs(site: Site) -> None:
    site.everywhere("1.1")
    before = {name: site.device_state(name) for name in site.names}
    done = site.muster("plan", site.releases["1.0"], "-s", site.strategy(), "--json")
    assert done.returncode == 0
    document = json.loads(done.stdout)
    assert sum(len(wave["devices"]) for wave in document["waves"]) == 8
    assert all(release.startswith("1.1-") for release in document["current"].values())
    assert {name: site.device_state(name) for name in site.names} == before


def test_the_same_release_again_touches_nothing(site: Site) -> None:
    site.everywhere("1.1")
    generations = {name: site.device_state(name)["generation"] for name in site.names}
    result = site.rollout("1.1")[-1]
    assert states(result) == {"already_current": 8}
    assert {n: site.device_state(n)["generation"] for n in site.names} == generations


def test_a_release_that_answers_wrongly_goes_back_at_the_canary(site: Site, tmp_path: Path) -> None:
    site.everywhere("1.1")
    junit = tmp_path / "junit.xml"
    result = site.rollout("1.3", "--junit", junit, expect=3)[-1]
    assert states(result) == {"rolled_back": 1, "pending": 7}
    assert set(site.answering().values()) == {"1.1"}
    canary = next(d["device"] for d in result["devices"] if d["state"] == "rolled_back")
    state = site.device_state(canary)
    assert (state["phase"], state["guard"]["armed"]) == ("idle", False)
    failure = ElementTree.parse(junit).find(".//failure")
    assert failure is not None
    assert "smoke" in failure.attrib["message"]


def test_a_release_that_is_never_ready_goes_back_at_the_canary(site: Site) -> None:
    site.everywhere("1.1")
    site.rollout("1.2", healthy_deadline="10s", expect=3)
    assert set(site.answering().values()) == {"1.1"}


def test_without_its_controller_a_device_goes_back_by_itself(site: Site) -> None:
    site.everywhere("1.0")
    strategy = site.strategy(healthy_deadline="25s", confirm_timeout="45s")
    process = site.start("rollout", site.releases["1.1"], "-s", strategy, "--json")
    event = read_until(process, event="device", to="soaking")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    device = event["device"]
    assert site.device_state(device)["guard"]["armed"]
    wait_for("the guard", lambda: site.device_state(device)["phase"] == "idle")
    assert site.device_state(device)["last_outcome"]["outcome"] == "reverted"
    assert set(site.answering().values()) == {"1.0"}
    # Another controller finds out, and reports it as what it is.
    assert site.muster("resume", "--json").returncode == 3
    assert set(site.answering().values()) == {"1.0"}


def test_resume_completes_what_a_killed_controller_began(site: Site) -> None:
    site.everywhere("1.0")
    process = site.start("rollout", site.releases["1.1"], "-s", site.strategy(), "--json")
    read_until(process, event="device", to="soaking", wave=1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = site.muster("resume", "--json")
    assert done.returncode == 0
    assert states(json.loads(done.stdout.splitlines()[-1])) == {"committed": 8}
    assert set(site.answering().values()) == {"1.1"}


def test_an_unreachable_device_is_deferred_and_the_rest_finishes(site: Site) -> None:
    site.everywhere("1.0")
    victim = site.names[2]
    site.fleet.fault("cut", victim)
    try:
        result = site.rollout("1.1", expect=6)[-1]
    finally:
        site.fleet.fault("heal", victim)
    assert states(result) == {"committed": 7, "deferred": 1}
    answers = site.answering()
    assert answers.pop(victim) == "1.0"
    assert set(answers.values()) == {"1.1"}


def test_a_device_that_loses_power_before_the_confirmation_goes_back(site: Site) -> None:
    site.everywhere("1.0")
    process = site.start("rollout", site.releases["1.1"], "-s", site.strategy(), "--json")
    device = read_until(process, event="device", to="soaking")["device"]
    site.fleet.fault("kill", device)
    site.fleet.fault("heal", device)
    out, err = process.communicate(timeout=400)
    assert process.returncode == 3, out + err
    assert set(site.answering().values()) == {"1.0"}
    assert site.device_state(device)["phase"] == "idle"


def test_a_second_controller_is_refused_and_told_who_holds_the_lease(site: Site) -> None:
    site.everywhere("1.0")
    first = site.start("rollout", site.releases["1.1"], "-s", site.strategy(), "--json")
    read_until(first, event="device", to="staging")
    second = site.muster("rollout", site.releases["1.1"], "-s", site.strategy(), "--json")
    assert second.returncode == 1
    assert f"process {first.pid}" in second.stderr
    first.communicate(timeout=400)
    assert first.returncode == 0
    assert set(site.answering().values()) == {"1.1"}


def test_rollback_takes_every_device_to_what_it_ran_before(site: Site) -> None:
    site.everywhere("1.0")
    site.everywhere("1.1")
    done = site.muster("rollback", "-s", site.strategy(), "--json")
    assert done.returncode == 0
    assert set(site.answering().values()) == {"1.0"}
    again = site.muster("rollback", "--to", "1.0", "--json")
    assert again.returncode == 2
    assert "nothing to go back to" in again.stderr
    status = site.muster("status", "--json")
    assert status.returncode == 0
    history = json.loads(site.muster("history", "--json").stdout)
    assert history[0]["kind"] == "rollback"


def test_models_return_after_a_reboot(site: Site) -> None:
    site.everywhere("1.1")
    device = site.names[0]
    site.fleet.fault("reboot", device)
    wait_for("the model", lambda: site.answering()[device] == "1.1")
