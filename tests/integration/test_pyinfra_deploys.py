"""Releases put on batches of emulated devices with pyinfra's own command, and taken off again."""

from __future__ import annotations

import subprocess
import sys
import time

from site_driver import Site

from muster.paths import COLLECTION_ROOT

CORALS = ("north-coral-1", "south-coral-1")


def start(site: Site, deploy: str, *arguments: str) -> subprocess.Popen[str]:
    """Start pyinfra on the fleet, without anybody to ask."""
    inventory = site.inventory.parent / "inventory.py"
    command = [sys.executable, "-m", "pyinfra", str(inventory), f"deploys/{deploy}.py", *arguments]
    return subprocess.Popen(
        command,
        cwd=COLLECTION_ROOT,
        env=site.environment | {"PYINFRA_PROGRESS": "off"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(site: Site, deploy: str, *arguments: str) -> tuple[int, str]:
    """Give the exit code of a deploy and what it printed."""
    process = start(site, deploy, *arguments)
    output, _ = process.communicate(timeout=400)
    print(output)
    return process.returncode, output


def data(site: Site, version: str, **clocks: str) -> list[str]:
    strategy = site.strategy(**clocks)
    return ["--data", f"release={site.releases[version]}", "--data", f"strategy={strategy}"]


def test_release_goes_to_one_batch_once_and_back(site: Site) -> None:
    site.everywhere("1.0")
    before = {name: site.device_state(name) for name in site.names}

    code, output = run(site, "model", "--dry", *data(site, "1.1"))
    assert code == 0
    assert output.count(" to 1.1-") == 8
    assert {name: site.device_state(name) for name in site.names} == before

    batch = ("-y", "--limit", "hw_coral")
    assert run(site, "model", *batch, *data(site, "1.1"))[0] == 0
    versions = {name: "1.1" if name in CORALS else "1.0" for name in site.names}
    assert site.answering() == versions
    after = {name: site.device_state(name) for name in site.names}
    assert {name for name in site.names if after[name] != before[name]} == set(CORALS)
    assert {after[name]["phase"] for name in CORALS} == {"idle"}

    code, output = run(site, "model", *batch, *data(site, "1.1"))
    assert code == 0
    assert output.count("No changes") == 4 * len(CORALS)
    assert {name: site.device_state(name) for name in site.names} == after

    assert run(site, "rollback", *batch, "--data", "model=digits")[0] == 0
    assert set(site.answering().values()) == {"1.0"}

    code, output = run(site, "rollback", *batch, "--data", "model=digits")
    assert code == 0
    assert output.count("No changes") == len(CORALS)
    assert set(site.answering().values()) == {"1.0"}


def test_release_that_answers_wrongly_fails_its_batch_which_goes_back(site: Site) -> None:
    site.everywhere("1.0")
    code, output = run(site, "model", "-y", "--limit", "hw_raspberry_pi", *data(site, "1.3"))
    assert code == 1
    assert "smoke: 0 of " in output
    assert "operation: model | confirm" not in output
    assert set(site.answering().values()) == {"1.0"}
    for name in ("north-pi-1", "south-pi-1"):
        state = site.device_state(name)
        assert (state["phase"], state["guard"]["armed"]) == ("idle", False)
        assert state["last_outcome"]["outcome"] == "reverted"


def test_device_that_fails_does_not_keep_the_others_of_its_batch_back(site: Site) -> None:
    site.everywhere("1.0")
    north, south = CORALS
    site.fleet.fault("cut", south)
    try:
        code, _ = run(site, "model", "-y", "--limit", "hw_coral", *data(site, "1.1"))
    finally:
        site.fleet.fault("heal", south)
    assert code == 1
    answering = site.answering()
    assert (answering[north], answering[south]) == ("1.1", "1.0")


def test_named_release_is_gone_back_to(site: Site) -> None:
    for version in ("1.0", "1.1"):
        site.everywhere(version)
    target = site.device_state(CORALS[0])["previous"]
    arguments = ("--data", "model=digits", "--data", f"to={target}", "--limit", "north-*")
    assert run(site, "rollback", "-y", *arguments)[0] == 0
    versions = {name: "1.0" if name.startswith("north-") else "1.1" for name in site.names}
    assert site.answering() == versions


def test_without_pyinfra_a_device_goes_back_by_itself(site: Site) -> None:
    site.everywhere("1.0")
    device = CORALS[0]
    clocks = {"healthy_deadline": "25s", "confirm_timeout": "45s"}
    process = start(site, "model", "-y", "--limit", device, *data(site, "1.1", **clocks))
    assert process.stdout is not None
    for line in process.stdout:
        if "operation: model | health gate" in line:
            break
    process.kill()
    process.communicate()
    assert site.device_state(device)["guard"]["armed"]
    deadline = time.monotonic() + 300  # far beyond what it takes
    while site.device_state(device)["phase"] != "idle":
        assert time.monotonic() < deadline
        time.sleep(2)
    assert site.device_state(device)["last_outcome"]["outcome"] == "reverted"
    assert set(site.answering().values()) == {"1.0"}
