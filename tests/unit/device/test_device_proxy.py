"""The proxy in front of a model, and devices that get it or lose it."""

from __future__ import annotations

import os

import pytest
from device_stand_ins import PROXY_UNIT, UNIT, Device, Release, device


@pytest.fixture
def dev(dev: Device) -> Device:
    dev.provision(proxy=True)
    dev.mode = "blue_green"
    return dev


@pytest.fixture
def new(dev: Device, old: Release) -> Release:
    """A release that is staged beside it."""
    release = dev.release("2.0")
    dev.stage(release)
    return release


# The proxy itself


def test_a_switch_needs_the_proxy(dev: Device, old: Release, new: Release) -> None:
    dev.provision(proxy=False)
    before = dev.snapshot()
    error = dev.fails("switch", **dev.switch_document(new, 2))
    assert error["code"] == "bad_input"
    assert "muster_device_proxy" in error["message"]
    assert dev.snapshot() == before


def test_a_proxy_that_can_not_run_is_found_before_anything_is_touched(dev: Device) -> None:
    release = dev.release("1.0")
    dev.stage(release)
    with dev.world.change() as content:
        content["proxy_problem"] = "haproxy: No such file or directory"
    error = dev.fails("switch", **dev.switch_document(release, 1))
    assert error["code"] == "runtime_unavailable"
    assert dev.world.read()["started"] == []
    dev.assert_rests_on(None)


def test_a_device_whose_proxy_is_gone_serves_without_it(dev: Device, old: Release) -> None:
    with dev.world.change() as content:
        content["proxy_problem"] = "haproxy: No such file or directory"
    dev.power_cut()
    assert dev.boot()["ok"]
    dev.assert_rests_on(old)
    assert PROXY_UNIT not in dev.world.read()["active"]


def _refuse_proxy(dev: Device, *units: str) -> None:
    """HAProxy reads its configuration well, and ends at once: its check does not see that."""
    with dev.world.change() as content:
        content["refused_units"] = list(units)


def test_a_device_whose_proxy_does_not_start_serves_without_it(dev: Device, old: Release) -> None:
    dev.power_cut()
    _refuse_proxy(dev, PROXY_UNIT)
    assert dev.boot()["ok"]
    dev.assert_rests_on(old)
    assert not (dev.state / "blue").is_symlink()
    _refuse_proxy(dev)
    dev.power_cut()
    assert dev.boot()["ok"]
    dev.assert_rests_on(old)
    assert PROXY_UNIT in dev.world.read()["active"]


@pytest.mark.parametrize("mode", device.MODES)
def test_the_way_back_does_not_need_a_proxy_that_starts(dev: Device, mode: str) -> None:
    dev.provision(proxy=False)
    dev.mode = "recreate"
    old, new = dev.release("1.0"), dev.release("2.0")
    dev.roll_out(old, 1)
    dev.provision(proxy=True)
    dev.stage(new)
    dev.mode = mode
    _refuse_proxy(dev, PROXY_UNIT)
    dev.fails("switch", **dev.switch_document(new, 2))
    dev.guard()
    dev.assert_rests_on(old)


def test_a_proxy_that_does_not_listen_is_started_anew(
    dev: Device, old: Release, new: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("device_stand_ins.StandInProxy.ask", lambda self, command: "what?")
    assert dev.switch(new, 2)["ready"]
    assert dev.world.serving() == new.id


def test_the_proxy_finds_its_slot_again(dev: Device, old: Release, new: Release) -> None:
    dev.switch(new, 2)
    dev.confirm(2)
    systemd = dev.host.systemd
    systemd.stop(PROXY_UNIT)
    systemd.start(PROXY_UNIT)
    dev.assert_rests_on(new)


@pytest.mark.parametrize("ipv6", [True, False])
def test_the_configuration(dev: Device, old: Release, ipv6: bool) -> None:
    if ipv6:
        (dev.root / "proc/net").mkdir()
        (dev.root / "proc/net/if_inet6").write_text("")
    proxy = device.Proxy(dev.paths, dev.host.systemd, "digits")
    lines = [line.strip() for line in proxy._configuration(8000).splitlines()]
    assert ("bind :::8000 v4v6" if ipv6 else "bind :8000") in lines
    assert f"use_backend %[str(active),map({proxy.map})]" in lines
    addresses = {proxy.place(slot) for slot in device.SLOTS}
    assert len(addresses) == 2
    for address, port in addresses:
        assert address.startswith("127.")
        assert f"server model {address}:{port}" in lines
    other = device.Proxy(dev.paths, dev.host.systemd, "faces")
    assert not addresses & {other.place(slot) for slot in device.SLOTS}


def test_a_port_of_a_slot_can_not_be_served(dev: Device) -> None:
    proxy = device.Proxy(dev.paths, dev.host.systemd, "digits")
    for port in device.SLOT_PORTS.values():
        assert "taken by a slot" in str(proxy.problem(port))


def test_another_port_is_taken_over_as_well(dev: Device, old: Release) -> None:
    release = dev.release("2.0")
    release.body["endpoint"]["port"] = 9
    dev.stage(release)
    answer = dev.switch(release, 2)
    assert answer["ready"] is False, "nobody listens there in this test"
    config = (dev.state / "proxy/haproxy.cfg").read_text()
    assert ":9\n" in config
    dev.revert(2)
    dev.assert_rests_on(old)


def test_a_full_disk_does_not_stop_the_way_back(
    dev: Device, old: Release, new: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    dev.switch(new, 2)

    def write(path: str, data: bytes) -> None:
        raise OSError(device.errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(device, "write_file", write)
        assert dev.revert(2)["ready"]
        assert dev.answer() == old.id
    dev.clock.offset += 1000
    dev.guard()
    dev.assert_rests_on(old)
    assert (dev.state / "proxy/active.map").read_text() == "active blue\n"


# A device gets the proxy, or loses it


@pytest.mark.parametrize("mode", device.MODES)
def test_what_runs_without_the_proxy_moves_behind_it_at_the_next_switch(
    dev: Device, mode: str
) -> None:
    dev.provision(proxy=False)
    first, second = dev.release("1.0"), dev.release("2.0")
    dev.mode = "recreate"
    dev.roll_out(first, 1)
    dev.provision(proxy=True)
    dev.assert_rests_on(first)
    dev.stage(second)
    answer = dev.switch(second, 2, mode=mode)
    assert answer["ready"]
    assert answer["downtime"] > 0, "somebody noticed, and it says so"
    assert PROXY_UNIT in dev.world.read()["active"]
    dev.revert(2)
    dev.assert_rests_on(first)
    assert dev.switch(second, 3, mode=mode)["ready"]
    dev.confirm(3)
    dev.assert_rests_on(second)
    assert UNIT not in dev.world.read()["active"]


@pytest.mark.parametrize("mode", device.MODES)
def test_a_device_without_the_proxy_leaves_no_trace_of_it(
    dev: Device, old: Release, new: Release, mode: str
) -> None:
    dev.switch(new, 2, mode=mode)
    dev.confirm(2)
    dev.provision(proxy=False)
    dev.assert_rests_on(new)
    dev.mode = "recreate"
    assert dev.switch(old, 3)["ready"]
    dev.confirm(3)
    dev.assert_rests_on(old)
    assert PROXY_UNIT not in dev.world.read()["active"]
    assert not (dev.state / "proxy").exists()
    assert not [slot for slot in device.SLOTS if os.path.lexists(dev.state / slot)]


@pytest.mark.parametrize("gets", [True, False])
def test_a_device_that_changes_comes_back_after_a_restart(dev: Device, gets: bool) -> None:
    dev.provision(proxy=not gets)
    dev.mode = "recreate"
    release = dev.release("1.0")
    dev.roll_out(release, 1)
    dev.provision(proxy=gets)
    assert dev.boot()["ok"]
    dev.assert_rests_on(release)
    assert (PROXY_UNIT in dev.world.read()["active"]) is not gets, "what runs stays as it is"
    dev.power_cut()
    assert dev.boot()["ok"]
    dev.assert_rests_on(release)
    assert (PROXY_UNIT in dev.world.read()["active"]) is gets


@pytest.mark.parametrize("gets", [True, False])
@pytest.mark.parametrize("heal", ["revert", "guard", "boot"])
def test_a_device_that_changes_during_a_switch_goes_back_all_the_same(
    dev: Device, gets: bool, heal: str
) -> None:
    dev.provision(proxy=not gets)
    dev.mode = "recreate" if gets else "blue_green"
    first, second = dev.release("1.0"), dev.release("2.0")
    dev.roll_out(first, 1)
    dev.stage(second)
    assert dev.switch(second, 2)["ready"]
    dev.provision(proxy=gets)
    if heal == "revert":
        assert dev.revert(2)["ready"]
    elif heal == "guard":
        dev.clock.offset += 100
        dev.guard()
    else:
        dev.power_cut()
        assert dev.boot()["ok"]
    dev.assert_rests_on(first)
    assert (PROXY_UNIT in dev.world.read()["active"]) is gets


@pytest.mark.parametrize("proxy", [True, False])
def test_a_damaged_configuration_leaves_it_as_it_was(
    dev: Device, old: Release, new: Release, proxy: bool
) -> None:
    if not proxy:
        dev.provision(proxy=False)
        dev.switch(new, 2, mode="recreate")
        dev.revert(2)
    (dev.root / "etc/muster/device.json").write_text("damaged")
    dev.power_cut()
    assert dev.boot()["ok"]
    dev.assert_rests_on(old)
    assert (PROXY_UNIT in dev.world.read()["active"]) is proxy


def test_a_container_in_the_wrong_place_is_made_anew(dev: Device, old: Release) -> None:
    name = f"muster-digits-{old.id}"
    with dev.world.change() as content:
        content["containers"][name] |= {"slot": "green", "spec": "other"}
    assert device.prepare_run(dev.host, "digits.blue") == ["attach", name]
    assert dev.world.read()["containers"][name]["slot"] == "blue"


def test_a_unit_stops_what_is_in_its_own_slot(dev: Device, old: Release, new: Release) -> None:
    with dev.world.change() as content:
        content["containers"]["other"] = {
            "release": new.id,
            "model": "digits",
            "slot": "green",
            "spec": "",
            "running": True,
            "broken": "",
        }
    device.halt(dev.host, "digits.blue")
    assert dev.world.running() == [new.id]
    device.halt(dev.host, "digits")
    assert dev.world.running() == [new.id]
    device.halt(dev.host, "digits.green")
    assert dev.world.running() == []


def test_a_dropped_release_leaves_its_slot(dev: Device, old: Release, new: Release) -> None:
    dev.switch(new, 2)
    dev.revert(2)
    assert dev.ok("prune", retain=0)["pruned"] == [new.id]
    assert not (dev.state / "green").is_symlink()
    dev.assert_rests_on(old)
