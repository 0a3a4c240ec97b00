"""The controller dies at every state that it writes down, or meets another controller."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from drills import SOON, Drill, Scenario, Table, side_by_side
from site_driver import Site

TABLE = Table()
BAD = "1.3"  # ready, and wrong in every answer
TWO_WAVES = [{"size": 1, "soak": "2s"}, {"size": "rest"}]

# What a rollout writes on its way to a good release, and to a bad one. States that are written in
# one transaction are one place to die: with `preflight` the rollout is `running` and its wave
# `updating`.
FORWARD: dict[str, dict[str, Any]] = {
    "preflight": {"event": "device", "to": "preflight"},
    "staging": {"event": "device", "to": "staging"},
    "switching": {"event": "device", "to": "switching"},
    "soaking": {"event": "device", "to": "soaking"},
    "confirming": {"event": "device", "to": "confirming"},
}
BACK: dict[str, tuple[str, dict[str, Any]]] = {
    "rolling_back": ("roll_back_wave", {"event": "rollout", "to": "rolling_back"}),
    "aborting": ("abort", {"event": "rollout", "to": "aborting"}),
    "pausing": ("pause", {"event": "device", "to": "rolling_back"}),
}


@pytest.fixture(scope="module")
def play(
    site: Site, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Callable[[Scenario], None]]:
    items = [item for item in request.session.items if item.path == request.path]
    with side_by_side(site, tmp_path_factory.mktemp("controller"), items) as playing:
        yield playing


@TABLE.parametrize()
def test_controller(scenario: Scenario, play: Callable[[Scenario], None]) -> None:
    play(scenario)


# Killed on the way of a wave of several devices


def killed_between_two_waves(drill: Drill, wanted: dict[str, Any]) -> None:
    """Killed in or after the soak of the first wave, a rollout is completed by `muster resume`."""
    controller = drill.begin(drill.new, waves=TWO_WAVES)
    first = controller.until(event="device", to="committed")["device"]
    controller.until(**wanted)
    controller.kill()
    drill.at_rest(first, drill.new)  # what was confirmed stays so without a controller
    drill.resume().expect(0, "committed", "committed")
    for device in drill.devices:
        drill.at_rest(device, drill.new)


for moment, event in {
    "a_wave_soaks": {"event": "wave", "to": "soaking"},
    "the_next_wave_is_staged": {"event": "device", "to": "staged", "wave": 1},
    "a_wave_has_passed": {"event": "wave", "to": "passed", "wave": 0},
}.items():
    TABLE.add(
        f"killed_when_{moment}_it_is_resumed",
        functools.partial(killed_between_two_waves, wanted=event),
        devices=2,
    )


@TABLE.row(devices=2)
def killed_when_it_takes_a_confirmed_wave_back_it_is_resumed(drill: Drill) -> None:
    """The second wave fails and both go back: `muster resume` ends what was begun."""
    controller = drill.begin(
        drill.new,
        waves=TWO_WAVES,
        min_healthy_time="4s",
        failure_budget={"on_breach": "roll_back_rollout"},
    )
    first = controller.until(event="device", to="committed")["device"]
    second = controller.until(event="device", to="soaking", wave=1)["device"]
    drill.run("docker kill $(docker ps --quiet --filter label=muster.model=digits)", second)
    controller.until(event="device", to="rolling_back", device=first)
    rollout = controller.kill()
    drill.resume().expect(3, "rolled_back", "rolled_back")
    for device in drill.devices:
        drill.at_rest(device, drill.old)
    assert drill.history(rollout)["state"] == "rolled_back"


@TABLE.row(devices=2)
def killed_when_it_waits_for_approval_it_is_resumed(drill: Drill) -> None:
    """An approval that is given while no controller lives counts for the next one."""
    waves = [{"size": 1}, {"size": "rest", "approval": True}]
    controller = drill.begin(drill.new, "--wait", waves=waves)
    controller.until(event="rollout", to="awaiting_approval")
    rollout = controller.kill()
    ended = drill.resume().expect(5)  # still nobody has
    assert set(ended.states.values()) == {"committed", "staged"}
    (waiting,) = (name for name, state in ended.states.items() if state == "staged")
    drill.at_rest(waiting, drill.old)
    approved = drill.site.muster("approve", rollout, "--reason", "a drill")
    assert approved.returncode == 0, approved.stderr
    drill.resume().expect(0, "committed", "committed")
    for device in drill.devices:
        drill.at_rest(device, drill.new)


# Killed on the way of one device, and resumed


def killed_and_resumed(drill: Drill, wanted: dict[str, Any]) -> None:
    """Killed on the way forward, a rollout ends after `muster resume` as if nothing had been."""
    controller = drill.begin(drill.new)
    controller.until(**wanted)
    rollout = controller.kill()
    drill.resume().expect(0, "committed")
    model = drill.at_rest(drill.device, drill.new)
    assert model["rollout"] == rollout
    assert model["last_outcome"]["outcome"] == "confirmed"


def killed_going_back_and_resumed(drill: Drill, on_breach: str, wanted: dict[str, Any]) -> None:
    """Killed on the way back, a rollout ends after `muster resume` with the old release."""
    controller = drill.begin(BAD, failure_budget={"on_breach": on_breach})
    controller.until(**wanted)
    rollout = controller.kill()
    ended = drill.resume().expect(5 if on_breach == "pause" else 3, "rolled_back")
    drill.at_rest(drill.device, drill.old)
    assert drill.history(rollout)["state"] == ended.result["state"]


# Killed, and nobody comes


def killed_and_left_alone(drill: Drill, wanted: dict[str, Any], release: str = "") -> None:
    """Without a controller the device comes to rest by itself; a later resume tells how."""
    before = drill.state()["generation"]
    controller = drill.begin(release or drill.new, **SOON)
    controller.until(**wanted)
    controller.kill()
    time.sleep(4)  # what the device had been told just before
    state = drill.rest(seconds=60)
    outcome = (state["last_outcome"] or {}).get("outcome") if state["generation"] > before else None
    drill.at_rest(drill.device, drill.new if outcome == "confirmed" else drill.old)
    went_on = outcome in (None, "confirmed")
    if wanted.get("to") == "soaking" or release:
        assert outcome == "reverted"
    drill.resume().expect(0 if went_on else 3, "committed" if went_on else "rolled_back")
    drill.at_rest(drill.device, drill.new if went_on else drill.old)


for state, event in FORWARD.items():
    resumed = functools.partial(killed_and_resumed, wanted=event)
    alone = functools.partial(killed_and_left_alone, wanted=event)
    TABLE.add(f"killed_at_{state}_it_is_resumed", resumed)
    TABLE.add(f"killed_at_{state}_the_device_comes_to_rest", alone)
for state, (on_breach, event) in BACK.items():
    back = functools.partial(killed_going_back_and_resumed, on_breach=on_breach, wanted=event)
    TABLE.add(f"killed_at_{state}_it_is_resumed", back)
TABLE.add(
    "killed_at_rolling_back_the_device_comes_to_rest",
    functools.partial(
        killed_and_left_alone, wanted={"event": "device", "to": "rolling_back"}, release=BAD
    ),
)


# Two controllers that do not know of each other


def stranger(drill: Drill) -> Drill:
    """Another controller of the same devices, with a journal of its own."""
    folder = drill.site.folder / "stranger"
    return Drill(dataclasses.replace(drill.site, folder=folder), folder, drill.devices)


@TABLE.row()
def a_controller_that_overslept_is_refused_by_the_device(drill: Drill) -> None:
    """Another journal's rollout took the device meanwhile: its generation fences the older one."""
    other = stranger(drill)
    late = drill.begin(BAD)
    late.until(event="device", to="staging")
    with late.asleep():
        other.roll(other.new).expect(0, "committed")
        generation = drill.state()["generation"]
    ended = late.end().expect(3, "rejected")
    assert "took over" in ended.reason(drill.device)
    refused = [e for e in ended.events if e.get("verb") == "switch"]
    assert refused
    assert f"is older than {generation}" in refused[0]["message"]
    model = drill.at_rest(drill.device, other.new)
    assert model["generation"] == generation


@TABLE.row()
def a_second_controller_leaves_an_unfinished_switch_alone(drill: Drill) -> None:
    """With another journal no lease stops it: the device says that it is not finished."""
    other = stranger(drill)
    first = drill.begin(drill.new)
    first.until(event="device", to="soaking")
    with first.asleep():
        refused = other.roll(BAD).expect(5, "deferred")
    assert "is not finished there" in refused.reason(drill.device)
    first.end().expect(0, "committed")
    drill.at_rest(drill.device, drill.new)


@TABLE.row()
def an_order_of_an_older_generation_is_refused(drill: Drill) -> None:
    """Whoever gives it, and whatever it is: switch, confirm and going back."""
    drill.roll(drill.new).expect(0, "committed")
    model = drill.at_rest(drill.device, drill.new)
    stale = {"model": "digits", "generation": model["generation"] - 1, "rollout": "of-yesterday"}
    switch = {"release_id": model["previous"], "healthy_deadline": 5, "confirm_timeout": 20}
    for subcommand, document in (
        ("switch", {**stale, **switch}),
        ("switch", {**stale, "extend": True, "confirm_timeout": 20}),
        ("confirm", stale),
        ("revert", {**stale, "to": model["previous"]}),
    ):
        answer = drill.call(subcommand, document)
        assert answer["error"]["code"] == "stale_generation", answer
    assert drill.at_rest(drill.device, drill.new) == model
