"""The device's broker keeps what the site's broker can't have yet, on emulated devices."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from muster.emulator import EmulatedFleet
from muster.paths import COLLECTION_ROOT

SCENARIO = COLLECTION_ROOT / "molecule" / "hub"
DEVICE, SERVER = "quay-cam", "quay-server"
LIMIT = 2000
"""``hub_max_queued_messages`` of the device in the scenario's fleet."""
IN_FLIGHT = 100
"""Messages that are on their way at once; they come on top of those that wait."""


def told(fleet: EmulatedFleet, device: str, command: str) -> str:
    code, output = fleet.exec(device, ["sh", "-c", command])
    assert code == 0, output
    return output


@pytest.fixture(scope="module")
def hubs(make_fleet: Callable[[str, str], EmulatedFleet]) -> EmulatedFleet:
    """Bring up a site's broker, and a device with a bridge to it."""
    fleet = make_fleet("hub", (SCENARIO / "fleet.yml").read_text(encoding="utf-8"))
    subprocess.run(["sh", SCENARIO / "prepare.sh", fleet.inventory_dir / "tls"], check=True)
    fleet.up()
    command = [sys.executable, "-m", "muster", "provision", "-i", str(fleet.inventory_file)]
    subprocess.run(command, check=True, cwd=COLLECTION_ROOT)
    return fleet


class Collector:
    """Somebody at the site's broker who wants every message, and notes what comes."""

    def __init__(self, fleet: EmulatedFleet, topic: str) -> None:
        self.fleet, self.topic = fleet, topic
        self._file = f"/tmp/{topic.replace('/', '-')}"
        told(
            fleet,
            SERVER,
            f"setsid mosquitto_sub -u collector -P collects-everything -i {topic.split('/')[-1]}"
            f" -c -q 1 -t '{topic}' >{self._file} 2>&1 &"
            f" until grep -q . {self._file}; do mosquitto_pub -u collector"
            f" -P collects-everything -t '{topic}' -m 0 -q 1; sleep 0.2; done",
        )

    def numbers(self) -> list[int]:
        """Numbers of the messages so far, in the order in which they came first."""
        return list(dict.fromkeys(map(int, told(self.fleet, SERVER, f"cat {self._file}").split())))

    def wait_for(self, last: int, seconds: float = 600) -> list[int]:
        """Wait until a message came."""
        deadline = time.monotonic() + seconds
        while last not in (numbers := self.numbers()):
            assert time.monotonic() < deadline, f"{len(numbers)} came, the last is {numbers[-1:]}"
            time.sleep(0.5)
        return numbers

    def stop(self) -> None:
        told(self.fleet, SERVER, f"pkill -f -- '[-]t {self.topic}' || true")


@pytest.fixture
def collector(
    hubs: EmulatedFleet, request: pytest.FixtureRequest
) -> Iterator[tuple[Collector, str]]:
    topic = f"telemetry/{request.node.name[:20]}"
    collector = Collector(hubs, f"{DEVICE}/{topic}")
    yield collector, topic
    hubs.fault("heal", DEVICE)
    collector.stop()


def publish(fleet: EmulatedFleet, topic: str, first: int, last: int) -> None:
    """Publish numbers on the device, each in a message that its broker has accepted."""
    told(fleet, DEVICE, f"seq {first} {last} | timeout 300 mosquitto_pub -t {topic} -q 1 -l")


def wait_for_broker(fleet: EmulatedFleet) -> None:
    told(
        fleet,
        DEVICE,
        "timeout 60 sh -c 'until mosquitto_pub -t started -m 1 -q 1; do sleep 0.2; done'",
    )


def test_what_was_published_behind_a_cut_link_arrives_in_order_whatever_happened_between(
    hubs: EmulatedFleet, collector: tuple[Collector, str]
) -> None:
    site, topic = collector
    publish(hubs, topic, 1, 100)
    site.wait_for(100)
    hubs.fault("cut", DEVICE)
    publish(hubs, topic, 101, 600)
    told(hubs, DEVICE, "systemctl kill --signal KILL mosquitto.service")
    wait_for_broker(hubs)
    publish(hubs, topic, 601, 900)
    hubs.fault("kill", DEVICE)
    hubs.up()  # the power is back, the link still cut
    wait_for_broker(hubs)
    publish(hubs, topic, 901, 1200)
    assert site.numbers()[-1] == 100
    hubs.fault("heal", DEVICE)
    assert site.wait_for(1200) == [*range(1201)]


def test_the_limit_is_what_was_stated_and_the_oldest_are_kept(
    hubs: EmulatedFleet, collector: tuple[Collector, str]
) -> None:
    site, topic = collector
    hubs.fault("cut", DEVICE)
    publish(hubs, topic, 1, LIMIT + IN_FLIGHT + 500)
    hubs.fault("heal", DEVICE)
    site.wait_for(LIMIT)
    publish(hubs, topic, 9001, 9001)
    *kept, end = site.wait_for(9001)
    assert end == 9001
    assert kept == [*range(len(kept))]
    assert LIMIT <= len(kept) - 1 <= LIMIT + IN_FLIGHT


def test_orders_reach_a_device_that_was_away(hubs: EmulatedFleet) -> None:
    hubs.fault("cut", DEVICE)
    told(
        hubs,
        SERVER,
        "seq 1 50 | mosquitto_pub -u collector -P collects-everything"
        " -t quay-cam/orders/turn -q 1 -l",
    )
    told(
        hubs,
        DEVICE,
        "setsid timeout 60 mosquitto_sub -i arm -c -q 1 -t orders/turn -C 50 >/tmp/orders 2>&1 &",
    )
    hubs.fault("heal", DEVICE)
    wait = "until [ $(wc -l </tmp/orders) = 50 ]; do sleep 0.2; done"
    told(hubs, DEVICE, f"timeout 40 sh -c '{wait}'")
    assert told(hubs, DEVICE, "cat /tmp/orders").split() == [str(n) for n in range(1, 51)]


def test_the_bridge_refuses_a_broker_with_a_certificate_of_somebody_else(
    hubs: EmulatedFleet,
) -> None:
    told(
        hubs,
        DEVICE,
        "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=other -keyout /dev/null"
        " -out /tmp/other.pem 2>/dev/null; cp /etc/mosquitto/muster/upstream-ca.crt /tmp/ca.pem;"
        " cat /tmp/other.pem >/etc/mosquitto/muster/upstream-ca.crt; systemctl restart mosquitto",
    )
    try:
        said = "journalctl --unit mosquitto --output cat --since -10s"
        wait = f"until {said} | grep -q 'certificate verify failed'; do sleep 0.5; done"
        told(hubs, DEVICE, f'timeout 30 sh -c "{wait}"')
    finally:
        told(
            hubs,
            DEVICE,
            "cat /tmp/ca.pem >/etc/mosquitto/muster/upstream-ca.crt; systemctl restart mosquitto",
        )


def test_settings_that_the_broker_refuses_leave_the_running_one_alone(
    hubs: EmulatedFleet, tmp_path: Path
) -> None:
    inventory = tmp_path / "hosts.yml"
    shutil.copy(hubs.inventory_file, inventory)
    shutil.copytree(hubs.inventory_dir / "tls", tmp_path / "tls")
    shutil.copy(tmp_path / "tls" / "ca.key", tmp_path / "tls" / "server.key")
    process = told(hubs, SERVER, "systemctl show mosquitto --property MainPID")
    files = told(hubs, SERVER, "sha256sum /etc/mosquitto/muster/*; ls -A /etc/mosquitto")
    options = ["--inventory", str(inventory), "--limit", SERVER, "--json"]
    command = [sys.executable, "-m", "muster", "provision", *options]
    done = subprocess.run(command, cwd=COLLECTION_ROOT, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    (device,) = json.loads(done.stdout)["devices"]
    assert device["operation"] == "hub | broker"
    assert "key values mismatch" in device["error"]
    assert "nothing was changed" in device["error"]
    assert told(hubs, SERVER, "systemctl show mosquitto --property MainPID") == process
    assert told(hubs, SERVER, "sha256sum /etc/mosquitto/muster/*; ls -A /etc/mosquitto") == files


def test_a_cut_link_is_noticed_and_so_is_one_that_healed(hubs: EmulatedFleet) -> None:
    link = "ss -Htn state established dport = :8883 | grep -q ."
    hubs.fault("heal", DEVICE)
    told(hubs, DEVICE, f"timeout 90 sh -c 'until {link}; do sleep 0.5; done'")
    hubs.fault("cut", DEVICE)
    told(hubs, DEVICE, f"timeout 90 sh -c 'while {link}; do sleep 0.5; done'")
    hubs.fault("heal", DEVICE)
    told(hubs, DEVICE, f"timeout 90 sh -c 'until {link}; do sleep 0.5; done'")
