"""Muster on a device whose programs are arm64, beside one of this machine's own architecture."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from muster.emulator.hardware import HARDWARE_ROOT
from muster.inventory import load_inventory

if TYPE_CHECKING:
    from site_driver import Site

ARM, BOX = "arm-1", "box-1"
TOGETHER = "[{size: rest}]"
CLOCKS = {"healthy_deadline": "120s", "confirm_timeout": "240s"}
"""An emulated model is ready later, and its device answers later."""

TASKS = """\
apiVersion: muster/v1
kind: Strategy
waves: [{size: rest}]
min_healthy_time: 2s
healthy_deadline: 180s
probe_interval: 1s
command_margin: 60s
"""
AARCH64 = 183
"""Number of the machine in the head of its programs."""


def on_device(site: Site, device: str, command: str) -> str:
    code, output = site.fleet.exec(device, ["sh", "-c", command])
    assert code == 0, output
    return output


def machine_of(site: Site, device: str, program: str) -> int:
    """Number of the machine that a program on a device was made for."""
    return int(on_device(site, device, f"od -An -t u2 -j 18 -N 2 {program}"))


def inspected(site: Site, device: str) -> dict[str, Any]:
    told = on_device(site, device, "echo '{}' | muster-device inspect")
    return dict(json.loads(told.splitlines()[-1]))


def variants(site: Site, version: str) -> dict[str, Any]:
    document = yaml.safe_load(site.releases[version].read_text(encoding="utf-8"))
    return dict(document["variants"])


def states(events: list[dict[str, Any]]) -> dict[str, str]:
    return {device["device"]: device["state"] for device in events[-1]["devices"]}


def everywhere(site: Site, version: str) -> None:
    if set(site.answering().values()) != {version}:
        site.rollout(version, waves=TOGETHER, **CLOCKS)
    assert set(site.answering().values()) == {version}


def running_model(site: Site, device: str) -> str:
    """Process id of the model server on a device."""
    return on_device(
        site, device, "docker inspect --format '{{.State.Pid}}' $(docker ps --quiet)"
    ).strip()


def test_the_device_is_arm64_from_its_first_process_to_its_python(site: Site) -> None:
    for program in (
        "/sbin/init",
        "/usr/sbin/sshd",
        "/usr/bin/sudo",
        "$(readlink -f /usr/bin/python3)",
    ):
        assert machine_of(site, ARM, program) == AARCH64, program
    assert on_device(site, ARM, "uname -m").strip() == "aarch64"
    assert on_device(site, ARM, "dpkg --print-architecture").strip() == "arm64"
    assert inspected(site, ARM)["arch"] == "arm64"
    assert inspected(site, BOX)["arch"] == "amd64"


def test_provisioning_again_changes_nothing(site: Site) -> None:
    done = site.muster("provision", "--expect-no-change", timeout=1200)
    assert done.returncode == 0, done.stdout


def test_packages_of_arm64_come_from_the_mirror_of_the_site(site: Site) -> None:
    on_device(site, ARM, "! test -e /usr/bin/wg")
    on_device(site, ARM, "apt-get -qq update && apt-get -qq --yes install wireguard-tools 2>&1")
    assert machine_of(site, ARM, "/usr/bin/wg") == AARCH64


def test_the_doctor_finds_nothing_wrong(site: Site) -> None:
    done = site.muster("doctor", ARM, "--json")
    findings = json.loads(done.stdout)["devices"][0]["findings"]
    # a nearly full disk of the machine that runs the tests is no fault of a device
    wrong = [
        found for found in findings
        if found["severity"] != "ok"
        and not (found["check"] == "disk" and found["what"].startswith("/ "))
    ]  # fmt: skip
    assert wrong == []


def test_one_rollout_gives_each_device_the_image_of_its_architecture(site: Site) -> None:
    site.rollout("1.0", waves=TOGETHER, **CLOCKS)
    events = site.rollout("1.1", waves="[{size: 1}, {size: rest}]", **CLOCKS)
    assert states(events) == {ARM: "committed", BOX: "committed"}
    assert site.answering() == {ARM: "1.1", BOX: "1.1"}
    for device, group, architecture in (
        (ARM, "hw_raspberry_pi", "arm64"),
        (BOX, "hw_coral", "amd64"),
    ):
        variant = variants(site, "1.1")[group]
        assert variant["requires"]["arch"] == [architecture]
        image = f"registry:5000/{variant['image']}"
        found = on_device(
            site, device, f"docker image inspect --format '{{{{.Architecture}}}}' {image}"
        )
        assert found.strip() == architecture
        running = on_device(
            site, device, "docker inspect --format '{{.Config.Image}}' $(docker ps --quiet)"
        )
        assert running.split() == [image]
        program = f"/proc/{running_model(site, device)}/root/usr/bin/python3"
        assert (machine_of(site, device, program) == AARCH64) is (architecture == "arm64")


def test_a_release_that_answers_wrongly_goes_back_on_the_arm64_device(site: Site) -> None:
    everywhere(site, "1.1")
    events = site.rollout("1.3", "--limit", ARM, waves=TOGETHER, expect=3, **CLOCKS)
    assert states(events) == {ARM: "rolled_back"}
    assert site.answering()[ARM] == "1.1"
    state = site.device_state(ARM)
    assert (state["phase"], state["guard"]["armed"]) == ("idle", False)


def test_a_release_for_another_architecture_is_refused_before_any_pull(
    site: Site, tmp_path: Path
) -> None:
    everywhere(site, "1.1")
    document = yaml.safe_load(site.releases["1.0"].read_text(encoding="utf-8"))
    document["version"] = "1.0-amd64"
    document["variants"]["hw_raspberry_pi"] = document["variants"]["hw_x86_gpu"] | {
        "devices": [], "requires": {"arch": ["amd64"]}
    }  # fmt: skip
    path = tmp_path / "wrong.yml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    done = site.muster(
        "rollout", path, "-s", site.strategy(waves=TOGETHER, **CLOCKS), "--limit", ARM, "--json"
    )
    assert done.returncode == 2, done.stdout
    assert "arm-1: architecture arm64, needed amd64" in done.stderr
    assert site.answering()[ARM] == "1.1"


def test_an_arm64_model_serves_on_the_other_device_too(site: Site, tmp_path: Path) -> None:
    """Whatever runs such programs may say so: here the machine emulates them in containers."""
    everywhere(site, "1.1")
    document = yaml.safe_load(site.releases["1.0"].read_text(encoding="utf-8"))
    document["version"] = "1.0-emulated"
    arm = document["variants"]["hw_raspberry_pi"]
    document["variants"] = {"hw_coral": {**arm, "requires": {"arch": ["amd64"]}}}
    path = tmp_path / "emulated.yml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    strategy = site.strategy(waves=TOGETHER, **CLOCKS)
    done = site.muster("rollout", path, "-s", strategy, "--limit", BOX, "--json")
    assert done.returncode == 0, done.stderr
    assert site.answering()[BOX] == "1.0"
    program = f"/proc/{running_model(site, BOX)}/root/usr/bin/python3"
    assert machine_of(site, BOX, program) == AARCH64
    back = site.muster("rollback", "--limit", BOX, "--yes", "-s", strategy)
    assert back.returncode == 0, back.stderr
    assert site.answering()[BOX] == "1.1"
    assert (
        machine_of(site, BOX, f"/proc/{running_model(site, BOX)}/root/usr/bin/python3") != AARCH64
    )


def test_the_model_is_back_after_the_power_was_cut(site: Site) -> None:
    everywhere(site, "1.1")
    site.fleet.fault("kill", ARM)
    site.fleet.fault("heal", ARM)
    on_device(
        site,
        ARM,
        "for i in $(seq 120); do curl -sf http://127.0.0.1:8000/v2/health/ready && exit; sleep 1;"
        " done; exit 1",
    )
    assert site.answering()[ARM] == "1.1"


def test_a_reboot_goes_over_the_device_as_a_task(site: Site) -> None:
    everywhere(site, "1.1")
    before = inspected(site, ARM)["boot_id"]
    path = site.folder / "tasks.yml"
    path.write_text(TASKS, encoding="utf-8")
    done = site.muster("reboot", ARM, "-s", path, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert states(events) == {ARM: "committed"}
    assert site.answering()[ARM] == "1.1"
    assert inspected(site, ARM)["boot_id"] != before


def test_enrolment_takes_it_for_the_arm64_computer_that_it_is(site: Site) -> None:
    state = site.fleet.state
    address = next(d.address for d in load_inventory(site.inventory).devices if d.name == ARM)
    dock = site.folder / "inventories" / "dock"
    run = [sys.executable, "-m", "muster"]
    settings: dict[str, Any] = {
        "cwd": site.folder,
        "env": site.environment,
        "capture_output": True,
        "text": True,
    }
    made = subprocess.run([*run, "site", "new", "dock", "--user", "ops"], **settings)
    assert made.returncode == 0, made.stderr
    with (dock / "group_vars" / "all.yml").open("a", encoding="utf-8") as file:
        file.write(f"ansible_ssh_private_key_file: {state / 'id_ed25519'}\n")
        file.write(f"muster_device_hardware_root: {HARDWARE_ROOT}\n")
    fingerprints = site.folder / "fingerprints"
    told = on_device(site, ARM, "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub")
    fingerprints.write_text(told.split()[1] + "\n")
    enrolled = subprocess.run(
        [
            *run, "enroll", str(address), "-i", str(dock), "--key", str(state / "id_ed25519.pub"),
            "--fingerprints", str(fingerprints), "--json",
        ],
        **settings,
    )  # fmt: skip
    assert enrolled.returncode == 0, enrolled.stdout + enrolled.stderr
    (device,) = load_inventory(dock).devices
    assert (device.name, device.hardware) == (ARM, "hw_raspberry_pi")
    assert device.variables["muster_facts"]["arch"] == "arm64"
