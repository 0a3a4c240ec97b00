"""The life of devices: restart, firmware, configuration, reset and retirement, wave by wave."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from site_driver import Site

from examples.digits import publish
from muster.emulator import EmulatedFleet

FLEET = """\
apiVersion: muster/v1
kind: Fleet
name: life
sites:
  yard: {}
devices:
  yard-pi-1: {site: yard, hardware: raspberry_pi}
  yard-gpu-1: {site: yard, hardware: x86_gpu}
"""
PI, GPU = "yard-pi-1", "yard-gpu-1"
ONE_BY_ONE = "[{pattern: yard-pi-1}, {size: rest}]"
STRATEGY = """\
apiVersion: muster/v1
kind: Strategy
waves: {waves}
min_healthy_time: 2s
healthy_deadline: {healthy}
probe_interval: 1s
command_margin: 15s
failure_budget: {{max_failed: 0, max_unreachable: 0, on_breach: abort}}
"""
EEPROM = """\
#!/bin/sh
# A stand-in for rpi-eeprom-update: a newer boot loader is there until a restart has applied it.
state=/var/lib/stand-in-eeprom
mkdir -p $state
if [ -e $state/staged ] && [ "$(cat $state/staged)" != "$(stat -c %Y /proc/1)" ]; then
    [ -e $state/broken ] || touch $state/applied
fi
case "$1" in
-a) stat -c %Y /proc/1 > $state/staged ;;
-r) rm -f $state/staged ;;
*)
    echo "    LATEST: 2026-10"
    if [ -e $state/applied ]; then echo "   CURRENT: 2026-10"; exit 0; fi
    echo "   CURRENT: 2025-01"; exit 1 ;;
esac
"""


@pytest.fixture(scope="module")
def life(
    make_fleet: Callable[[str, str], EmulatedFleet], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    fleet = make_fleet("life", FLEET)
    fleet.up()
    folder = tmp_path_factory.mktemp("life-site")
    site = Site(fleet, folder, publish(fleet.registry_address, fleet.registry_ca, folder / "rel"))
    done = site.muster("provision")
    assert done.returncode == 0, done.stdout + done.stderr
    site.everywhere("1.0")
    yield site
    fleet.down()


def on_device(site: Site, device: str, command: str) -> str:
    code, output = site.fleet.exec(device, ["sh", "-c", command])
    assert code == 0, output
    return output


def boot(site: Site, device: str) -> str:
    return on_device(site, device, "stat -c %Y /proc/1")


def strategy(site: Site, waves: str = ONE_BY_ONE, healthy: str = "60s") -> Path:
    path = site.folder / "tasks.yml"
    path.write_text(STRATEGY.format(waves=waves, healthy=healthy))
    return path


def task(site: Site, *words: str, expect: int = 0, healthy: str = "60s") -> list[dict[str, Any]]:
    done = site.muster(*words, "-s", strategy(site, healthy=healthy), "--json")
    assert done.returncode == expect, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def states(events: list[dict[str, Any]]) -> dict[str, str]:
    return {device["device"]: device["state"] for device in events[-1]["devices"]}


def test_a_reboot_goes_in_waves_and_waits_until_models_serve(life: Site) -> None:
    before = {name: boot(life, name) for name in (PI, GPU)}
    events = task(life, "reboot")
    assert states(events) == {PI: "committed", GPU: "committed"}
    assert all(boot(life, name) != before[name] for name in before)
    assert set(life.answering().values()) == {"1.0"}
    waves = [e for e in events if e["event"] == "wave" and e["to"] == "passed"]
    assert [wave["reason"] for wave in waves] == ["1 of 1 devices came back"] * 2
    switched = [e["at"] for e in events if e["event"] == "device" and e["to"] == "switching"]
    assert switched[1] > waves[0]["at"] - 0.01, "the second wave began before the first had passed"


def test_a_device_that_does_not_serve_afterwards_stops_the_rest(life: Site) -> None:
    on_device(life, PI, "systemctl mask muster-model@digits.service")
    before = boot(life, GPU)
    try:
        events = task(life, "reboot", expect=4, healthy="15s")
        assert states(events) == {PI: "quarantined", GPU: "pending"}
        assert boot(life, GPU) == before
        told = next(d["reason"] for d in events[-1]["devices"] if d["device"] == PI)
        assert "digits" in told
    finally:
        on_device(
            life,
            PI,
            "systemctl unmask muster-model@digits.service;"
            " systemctl reset-failed; systemctl restart muster-boot.service",
        )
    left_alone = life.muster("reboot", PI, "--json")
    assert left_alone.returncode == 2
    assert "--include-quarantined" in left_alone.stderr
    events = task(life, "reboot", PI, "--include-quarantined")
    assert states(events) == {PI: "committed"}


def test_a_reboot_goes_on_after_its_controller_died(life: Site) -> None:
    before = {name: boot(life, name) for name in (PI, GPU)}
    process = life.start("reboot", "-s", strategy(life, "[{size: rest}]"), "--json")
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "device" and event["to"] == "switching":
            break
    time.sleep(1.5)  # until a device has been told
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = life.muster("resume", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert {device["state"] for device in result["devices"]} == {"committed"}
    assert all(boot(life, name) != before[name] for name in before)
    assert set(life.answering().values()) == {"1.0"}


def test_firmware_is_applied_where_there_is_newer(life: Site) -> None:
    tool = "/usr/local/bin/rpi-eeprom-update"
    on_device(life, PI, f"cat > {tool} <<'END'\n{EEPROM}END\nchmod 755 {tool}")
    done = life.muster("firmware", "check", "--json")
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen[PI]["firmware"] == [
        {
            "tool": "rpi-eeprom-update",
            "device": "bootloader",
            "current": "2025-01",
            "available": "2026-10",
        }
    ]
    assert seen[GPU]["firmware"] == []
    events = task(life, "firmware", "apply")
    assert states(events) == {PI: "committed", GPU: "already_current"}
    seen = json.loads(life.muster("firmware", "check", "--json").stdout)
    assert seen[PI]["firmware"][0]["available"] is None
    events = task(life, "firmware", "apply")
    assert states(events) == {PI: "already_current", GPU: "already_current"}
    assert set(life.answering().values()) == {"1.0"}


def test_firmware_that_does_not_take_effect_has_failed(life: Site) -> None:
    on_device(life, PI, "rm -f /var/lib/stand-in-eeprom/*; touch /var/lib/stand-in-eeprom/broken")
    events = task(life, "firmware", "apply", expect=3)
    assert states(events)[PI] == "rolled_back"
    assert any("still old" in e.get("reason", "") for e in events if e["event"] == "gate")
    on_device(life, PI, "rm -f /usr/local/bin/rpi-eeprom-update; rm -rf /var/lib/stand-in-eeprom")


def test_configure_touches_only_what_differs(life: Site) -> None:
    on_device(life, GPU, "echo 'kernel.panic = 1' > /etc/sysctl.d/90-muster.conf")
    events = task(life, "configure")
    assert states(events) == {PI: "already_current", GPU: "committed"}
    assert "kernel.panic = 10" in on_device(life, GPU, "cat /etc/sysctl.d/90-muster.conf")
    events = task(life, "configure")
    assert states(events) == {PI: "already_current", GPU: "already_current"}


def test_a_rollout_and_a_task_keep_off_each_other(life: Site) -> None:
    process = life.start("reboot", PI, "-s", strategy(life), "--json")
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["event"] == "device":
            break
    refused = life.muster("rollout", life.releases["1.1"], "--limit", PI, "--json")
    assert refused.returncode != 0
    assert "held by" in refused.stderr
    process.communicate(timeout=120)
    assert process.returncode == 0


def test_the_report_of_a_task(life: Site) -> None:
    page = life.folder / "task.html"
    done = life.muster("report", "-o", page)
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    assert "reboot" in text.lower()
    assert PI in text


def test_a_reset_leaves_nothing(life: Site) -> None:
    events = task(life, "reset", GPU)
    assert states(events) == {GPU: "committed"}
    assert on_device(life, GPU, "docker ps -aq; docker images -q") == ""
    assert on_device(life, GPU, "ls -A /var/lib/muster").split() == [".task"]
    assert life.answering()[PI] == "1.0"
    assert life.answering()[GPU] != "1.0"
    # and it can be brought up again
    assert life.muster("provision").returncode == 0
    life.rollout("1.0", waves="[{size: rest}]")
    assert set(life.answering().values()) == {"1.0"}


def test_status_is_shown_again_and_again(life: Site) -> None:
    process = life.start("status", "--model", "digits", "--watch", "1", "--json")
    assert process.stdout is not None
    rounds = [json.loads(process.stdout.readline()) for _ in range(2)]
    process.terminate()  # a shell's background jobs ignore Ctrl-C, and so would this
    process.communicate(timeout=30)
    assert [len(one["devices"]) for one in rounds] == [2, 2]
    assert all(device["serving"] for device in rounds[1]["devices"])


def test_a_retired_device_is_gone_from_everywhere(life: Site) -> None:
    key = (life.fleet.state / "id_ed25519.pub").read_text().split()[1]
    keys = on_device(life, GPU, "cat ~ops/.ssh/authorized_keys")
    assert key in keys
    before = life.inventory.read_text()
    done = life.muster("retire", GPU, "-s", strategy(life), "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert life.names == [PI]
    assert GPU in before
    assert GPU not in life.inventory.read_text()
    assert on_device(life, GPU, "ls -A /var/lib/muster").split() == [".task"]
    assert key not in on_device(life, GPU, "cat ~ops/.ssh/authorized_keys || true")
    refused = life.muster("status", "--limit", GPU, "--model", "digits")
    assert refused.returncode == 2
    assert life.answering() == {PI: "1.0"}
    life.inventory.write_text(before)


def test_a_device_that_can_not_be_taken_out_is_told_before_anything(life: Site) -> None:
    text = life.inventory.read_text()
    life.inventory.write_text(text.replace(f"{PI}:", "yard-pi-[1:1]:"))
    try:
        done = life.muster("retire", PI)
        assert done.returncode == 2
        assert "expected a host of its own" in done.stderr
    finally:
        life.inventory.write_text(text)
    assert life.answering()[PI] == "1.0"
