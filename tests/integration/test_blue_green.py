"""Rollouts on a device with the proxy, while it is asked from outside all the time."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from site_driver import Site
from steady_load import BODY, SteadyLoad

from examples.digits import publish
from muster.emulator import EmulatedFleet
from muster.inventory import load_inventory

DOCUMENT = """
apiVersion: muster/v1
kind: Fleet
name: proxied
sites: {workshop: {}}
devices:
  bench-pi-1: {site: workshop, hardware: raspberry_pi}
"""
STRATEGY = """
apiVersion: muster/v1
kind: Strategy
waves: [{{size: rest}}]
min_healthy_time: 2s
healthy_deadline: 60s
probe_interval: 1s
command_margin: 15s
drain_deadline: 20s
switch: {switch}
"""
DEVICE = "bench-pi-1"
RATE = 60.0
"""Requests per second, enough that at least 50 go out when the machine is busy."""


@pytest.fixture(scope="module")
def site(
    make_fleet: Callable[[str, str], EmulatedFleet], tmp_path_factory: pytest.TempPathFactory
) -> Site:
    """A device behind the proxy that serves 1.0."""
    fleet = make_fleet("bluegreen", DOCUMENT)
    fleet.up()
    variables = fleet.inventory_dir / "group_vars" / "all.yml"
    variables.parent.mkdir(exist_ok=True)
    variables.write_text("muster_device_proxy: true\n", encoding="utf-8")
    folder = tmp_path_factory.mktemp("proxied")
    site = Site(fleet, folder, publish(fleet.registry_address, fleet.registry_ca, folder / "r"))
    done = site.muster("provision")
    assert done.returncode == 0, done.stdout + done.stderr
    roll_out(site, "1.0", "blue_green")
    return site


def roll_out(site: Site, version: str, switch: str, expect: int = 0) -> dict[str, Any]:
    strategy = site.folder / f"{switch}.yml"
    strategy.write_text(STRATEGY.format(switch=switch), encoding="utf-8")
    options = ["--json", "--accept-no-rollback"]
    done = site.muster("rollout", site.releases[version], "-s", strategy, *options)
    assert done.returncode == expect, done.stdout + done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def address(site: Site) -> str:
    (device,) = load_inventory(site.inventory).devices
    return str(device.address)


def on_device(site: Site, command: str) -> str:
    code, output = site.fleet.exec(DEVICE, ["sh", "-c", command])
    assert code == 0, output
    return output


class SlowRequest:
    """A request that stays open until :meth:`finish` sends its last byte."""

    def __init__(self, address: str) -> None:
        self._link = socket.create_connection((address, 8000), timeout=30)
        head = (
            "POST /v2/models/digits/infer HTTP/1.1\r\nHost: device\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(BODY)}\r\n\r\n"
        )
        self._link.sendall(head.encode() + BODY[:-1])

    def finish(self) -> str:
        """Version that answered."""
        self._link.sendall(BODY[-1:])
        answer = b"".join(iter(lambda: self._link.recv(1 << 16), b""))
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        return str(json.loads(body)["model_version"])


def finish_when_another_serves(site: Site, slow: SlowRequest, answers: list[str]) -> None:
    deadline = time.monotonic() + 60
    while site.answering() != {DEVICE: "1.1"} and time.monotonic() < deadline:
        time.sleep(0.2)
    answers.append(slow.finish())


def test_the_role_changes_nothing_the_second_time(site: Site) -> None:
    done = site.muster("provision", "--json")
    assert done.returncode == 0
    (device,) = json.loads(done.stdout)["devices"]
    outcomes = {op["name"]: op["outcome"] for op in device["operations"]}
    assert outcomes["muster_device | haproxy"] == "unchanged"
    assert set(outcomes.values()) == {"unchanged"}
    assert on_device(site, "systemctl is-enabled haproxy.service || true").strip() == "disabled"


def test_no_request_is_lost_when_a_release_takes_over(site: Site) -> None:
    late: list[str] = []
    with SteadyLoad(address(site), rate=RATE) as load:
        slow = SlowRequest(address(site))
        arguments = (site, slow, late)
        finisher = threading.Thread(target=finish_when_another_serves, args=arguments)
        finisher.start()
        result = roll_out(site, "1.1", "blue_green")
        finisher.join()
    print(f"blue_green 1.0 -> 1.1: {load.requests}")
    assert result["devices"][0]["state"] == "committed"
    assert load.requests.lost.total() == 0
    assert load.requests.rate >= 50
    assert set(load.requests.versions) == {"1.0", "1.1"}
    assert late == ["1.0"], "what was open is answered by whom it was asked"
    names = on_device(site, "docker ps --all --format '{{.Names}} {{.State}}'").split("\n")
    assert sorted(name.split()[1] for name in names if name) == ["exited", "running"]
    on_device(site, "systemctl restart muster-proxy@digits.service")
    assert site.answering() == {DEVICE: "1.1"}, "the slot survives a restart of the proxy"


def test_no_request_is_lost_when_a_bad_release_goes_back(site: Site) -> None:
    assert site.answering() == {DEVICE: "1.1"}
    with SteadyLoad(address(site), rate=RATE) as load:
        result = roll_out(site, "1.3", "blue_green", expect=3)
    print(f"blue_green 1.1 -> 1.3 -> 1.1: {load.requests}")
    assert result["devices"][0]["state"] == "rolled_back"
    assert load.requests.lost.total() == 0
    assert set(load.requests.versions) == {"1.1", "1.3"}
    assert site.answering() == {DEVICE: "1.1"}


def test_recreate_says_how_long_nobody_answered(site: Site) -> None:
    with SteadyLoad(address(site), rate=RATE) as load:
        result = roll_out(site, "1.0", "recreate")
    state = json.loads(on_device(site, "cat /var/lib/muster/digits/state.json"))
    downtime = state["result"]["downtime"]
    print(f"recreate 1.1 -> 1.0: downtime {downtime} s by the device; {load.requests}")
    assert result["devices"][0]["state"] == "committed"
    assert set(load.requests.versions) == {"1.0", "1.1"}
    # The device counts from the order to stop, and a busy machine takes its time to stop it.
    assert 0.2 < load.requests.longest_gap < downtime + 2
