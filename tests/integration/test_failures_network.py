"""The link of a device is cut, or its registry does not answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from drills import SOON, Drill, Scenario, Table, side_by_side, wait_for
from extra_releases import heavy_release
from site_driver import Site

TABLE = Table()
BAD = "1.3"  # ready, and wrong in every answer


@pytest.fixture(scope="module")
def play(
    site: Site, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Callable[[Scenario], None]]:
    items = [item for item in request.session.items if item.path == request.path]
    with side_by_side(site, tmp_path_factory.mktemp("network"), items) as playing:
        yield playing


@TABLE.parametrize()
def test_network(scenario: Scenario, play: Callable[[Scenario], None]) -> None:
    play(scenario)


@TABLE.row(devices=3)
def links_cut_before_the_stage_and_in_the_pull_defer_their_devices(drill: Drill) -> None:
    """Nothing that serves was touched; the third device gets the release; exit code 6."""
    early, pulling, well = drill.devices
    heavy = heavy_release(drill.site)
    drill.run(
        "nft add table inet drill;"
        " nft add chain inet drill in '{type filter hook input priority 0;}';"
        " nft add rule inet drill in tcp sport 5000 limit rate over 1 mbytes/second drop",
        pulling,
    )
    budget = {"max_unreachable": 2}
    try:
        controller = drill.begin(heavy, **SOON, pull_deadline="90s", failure_budget=budget)
        controller.until(event="device", to="preflight", device=early)
        with controller.asleep():
            drill.fault("cut", early)
        controller.until(event="device", to="staging", device=pulling)
        wait_for("the pull", lambda: "docker pull" in drill.run("ps -e -o args", pulling))
        drill.fault("cut", pulling)
        ended = controller.end().expect(6)
    finally:
        for device in (early, pulling):
            drill.fault("heal", device)
        drill.run("nft delete table inet drill", pulling)
    assert ended.states == {early: "deferred", pulling: "deferred", well: "committed"}
    for device in (early, pulling):
        drill.at_rest(device, drill.old)
    assert drill.answers(well) == "1.5"
    drill.roll(drill.old).expect(0)


@TABLE.row()
def a_link_cut_before_the_confirmation_makes_the_guard_go_back(drill: Drill) -> None:
    """The device goes back behind the cut; seen again, it is reported as what it is."""
    controller = drill.begin(drill.new, **SOON)
    controller.until(event="device", to="soaking")
    drill.fault("cut")
    outcome = drill.rest()["last_outcome"]
    assert (outcome["outcome"], outcome["reason"]) == (
        "reverted",
        "the switch was not confirmed in time",
    )
    drill.fault("heal")
    controller.end().expect(3, "rolled_back")
    drill.at_rest(drill.device, drill.old)


@TABLE.row()
def a_controller_killed_while_a_device_is_lost_finds_it_back(drill: Drill) -> None:
    """Killed at `lost`: the guard has gone back, and `muster resume` ends as rolled back."""
    controller = drill.begin(drill.new, **SOON)
    controller.until(event="device", to="soaking")
    drill.fault("cut")
    controller.until(event="device", to="lost")
    rollout = controller.kill()
    drill.rest()
    drill.fault("heal")
    drill.resume().expect(3, "rolled_back")
    drill.at_rest(drill.device, drill.old)
    assert drill.history(rollout)["state"] == "rolled_back"


@TABLE.row()
def a_device_that_stays_lost_is_named_and_counts_as_not_back(drill: Drill) -> None:
    """Nobody can say that it went back, so the exit code is 4; it did so all the same."""
    controller = drill.begin(drill.new, **SOON)
    controller.until(event="device", to="soaking")
    drill.fault("cut")
    ended = controller.end().expect(4, "lost")
    assert drill.device in ended.result["reason"]
    assert drill.state()["phase"] == "idle"
    drill.fault("heal")
    drill.at_rest(drill.device, drill.old)


@TABLE.row()
def a_link_cut_while_a_device_goes_back_does_not_stop_it(drill: Drill) -> None:
    """It has, or its guard has, all that going back takes."""
    controller = drill.begin(BAD, **SOON)
    controller.until(event="device", to="rolling_back")
    drill.fault("cut")
    drill.rest()
    drill.fault("heal")
    controller.end().expect(3, "rolled_back")
    drill.at_rest(drill.device, drill.old)


def test_with_its_registry_down_a_site_defers_and_can_still_go_back(
    site: Site, tmp_path: Path
) -> None:
    """No image, no release, and no blame: exit 6; what is on the devices needs no registry."""
    drill = Drill(site, tmp_path / "drill", site.names[-2:])
    there, absent = drill.devices
    back, release = drill.new, drill.old
    drill.roll(back).expect(0)  # so that the journal knows it
    drill.forget(release, absent)
    site.fleet.fault("registry-down")
    try:
        ended = drill.roll(release).expect(6, "committed", "deferred")
        assert "registry" in ended.reason(absent)
        assert ended.result["state"] == "succeeded_with_deferred"
        drill.at_rest(there, release)
        drill.at_rest(absent, back)
        again = drill.muster(
            *("rollback", "--to", back, "-s", drill.strategy(), "--json"),
            *("--limit", ",".join(drill.devices)),
        ).end()
        again.expect(0, "committed", "already_current")
        for device in drill.devices:
            drill.at_rest(device, back)
    finally:
        site.fleet.fault("heal", "registry")
