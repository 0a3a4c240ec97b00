"""The release fails in ways of its own, or what it would go back to does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from drills import Drill, Scenario, Table, side_by_side
from extra_releases import flapping_release, release_with
from site_driver import Site

from muster.rollout.decide import MAX_TRIES

TABLE = Table()
BAD = "1.3"  # ready, and wrong in every answer
PORT = 8001  # of the second model


@pytest.fixture(scope="module")
def play(
    site: Site, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Callable[[Scenario], None]]:
    items = [item for item in request.session.items if item.path == request.path]
    with side_by_side(site, tmp_path_factory.mktemp("release"), items) as playing:
        yield playing


@TABLE.parametrize()
def test_release(scenario: Scenario, play: Callable[[Scenario], None]) -> None:
    play(scenario)


@TABLE.row()
def a_gate_that_flaps_fails_and_goes_back(drill: Drill) -> None:
    """Ready for three seconds of four is not ready: one bad sample is enough."""
    ended = drill.roll(flapping_release(drill.site), min_healthy_time="8s").expect(3, "rolled_back")
    assert "ready" in ended.reason(drill.device)
    measured = [e["verdict"] for e in ended.events if e.get("gate") == "ready"]
    assert "failed" in measured
    assert any(e.get("to") == "soaking" for e in ended.events)  # it was ready once
    drill.at_rest(drill.device, drill.old)


@TABLE.row(devices=2)
def a_device_that_cannot_go_back_is_quarantined_and_the_rollout_stops(drill: Drill) -> None:
    """Its last good release is broken: a few orders to go back, then exit 4, and no next wave."""
    controller = drill.begin(
        BAD, waves=[{"size": 1}, {"size": "rest"}], healthy_deadline="12s", min_healthy_time="5s"
    )
    device = controller.until(event="device", to="soaking")["device"]
    (untouched,) = set(drill.devices) - {device}
    name = f"muster-digits-{drill.site.device_state(device)['last_good']}"
    template = "{{.Config.Image}}"
    image = drill.run(f"docker inspect --format '{template}' {name}", device).strip()
    drill.run(f"docker rm {name} && docker image rm --force {image}", device)
    ended = controller.end().expect(4)
    assert ended.states == {device: "quarantined", untouched: "pending"}
    assert device in ended.result["reason"]
    reverts = [event for event in ended.events if event.get("step") == "revert"]
    assert {event["trouble"] for event in reverts} == {"refused"}
    assert len(reverts) <= MAX_TRIES
    status = drill.site.muster("status", "-m", "digits", "--limit", device)
    assert status.returncode == 1
    drill.at_rest(untouched, drill.old)
    # Once somebody has brought the image back, the device serves it without further help; rollouts
    # leave it alone until they are told otherwise.
    drill.run(f"docker pull --quiet {image}", device)
    drill.at_rest(device, drill.old)
    ended = drill.roll(drill.new).expect(0)
    assert ended.states == {device: "rejected", untouched: "committed"}
    assert "quarantined by rollout" in ended.reason(device)
    ended = drill.roll(drill.new, "--include-quarantined").expect(0)
    assert ended.states == {device: "committed", untouched: "already_current"}


# A second model on the same devices


def second_model(drill: Drill, version: str) -> Path:
    """A release of a version of digits under the name of another model."""
    return release_with(
        drill.site.releases[version],
        drill.site.folder / f"spare-{version}.yml",
        model="spare",
        endpoint={"port": PORT, "container_port": 8080, "ready_path": "/v2/health/ready"},
    )


def spare(drill: Drill) -> dict[str, Any]:
    """What the device says of the second model."""
    model: dict[str, Any] = drill.call("inspect", {"model": "spare"})["model"]
    return model


def retire(drill: Drill) -> None:
    """Take the second model off again."""
    drill.run(
        "systemctl stop muster-model@spare; docker ps --all --quiet --filter"
        " label=muster.model=spare | xargs --no-run-if-empty docker rm --force;"
        " rm -rf /var/lib/muster/spare"
    )


@TABLE.row()
def a_device_without_an_earlier_release_is_not_touched_unless_that_is_accepted(
    drill: Drill,
) -> None:
    """Nothing to go back to: exit 2 before anything; accepted, a failure leaves nothing running."""
    refused = drill.roll(second_model(drill, BAD))
    assert refused.code == 2
    assert drill.device in refused.err
    assert "--accept-no-rollback" in refused.err
    assert drill.run("ls /var/lib/muster").split() == ["digits"]
    try:
        accepted = ["--accept-no-rollback"]
        drill.roll(second_model(drill, BAD), *accepted).expect(3, "rolled_back")
        model = spare(drill)
        assert (model["phase"], model["guard"]["armed"]) == ("idle", False)
        assert (model["current"], model["last_good"]) == (None, None)
        assert drill.answers(port=PORT).startswith("no answer")
        drill.roll(second_model(drill, "1.0"), *accepted).expect(0, "committed")
        assert drill.answers(port=PORT) == "1.0"
        # From now on there is something to go back to.
        drill.roll(second_model(drill, BAD)).expect(3, "rolled_back")
        assert drill.answers(port=PORT) == "1.0"
        drill.at_rest(drill.device, drill.old)
    finally:
        retire(drill)


@TABLE.row()
def two_models_roll_on_one_device_at_the_same_time(drill: Drill) -> None:
    """Each has its own lease, its own guard and its own end; neither touches the other."""
    try:
        first = drill.begin(drill.new)
        second = drill.begin(second_model(drill, "1.1"), "--accept-no-rollback")
        for controller in (first, second):
            controller.end().expect(0, "committed")
        assert (drill.answers(), drill.answers(port=PORT)) == (drill.new, "1.1")
        first = drill.begin(drill.old)
        second = drill.begin(second_model(drill, BAD))
        second.end().expect(3, "rolled_back")
        first.end().expect(0, "committed")
        assert drill.answers(port=PORT) == "1.1"
        assert spare(drill)["phase"] == "idle"
        drill.at_rest(drill.device, drill.old)
    finally:
        retire(drill)
