"""What a strategy limits: windows, rates, places to pull, max_parallel, staging ahead, locks."""

from __future__ import annotations

import datetime
import itertools
from zoneinfo import ZoneInfo

import pytest
from stage import Stage, killed_everywhere

from muster.fleet.interface import Order, Verb
from muster.fleet.simulated import Quality
from muster.rollout.decide import EXIT_DEFERRED
from muster.rollout.machine import DeviceState, RolloutState, WaveState

D, R, W = DeviceState, RolloutState, WaveState

AT_ONCE = [{"size": "rest"}]
HOUR = 3600.0
TINY = 1e-3
"""What the virtual clock may be off after many steps, in seconds."""


# -- maintenance windows; the simulation begins on a Thursday, 00:00 UTC ---------------------


def test_devices_switch_inside_their_window_and_stage_before() -> None:
    window = {"opens": "02:00", "closes": "04:00"}
    stage = Stage(waves=AT_ONCE, maintenance_window=[window])
    assert stage.run() is R.SUCCEEDED
    assert all(at < 60 for at, _ in stage.begun(Verb.STAGE))
    assert all(2 * HOUR <= at + TINY < 2 * HOUR + 60 for at, _ in stage.switches())
    assert any("d0000 waits for its maintenance window" in text for text in stage.texts())


def test_a_long_wait_for_the_window_is_no_lack_of_progress() -> None:
    window = {"opens": "20:00", "closes": "21:00"}
    stage = Stage(waves=AT_ONCE, maintenance_window=[window], progress_deadline=900)
    assert stage.run() is R.SUCCEEDED


def test_each_device_has_the_window_of_its_own_time_zone() -> None:
    zones = ["UTC", "Europe/Vienna", "America/New_York", "Asia/Kolkata"]
    stage = Stage(waves=AT_ONCE, maintenance_window=[{"opens": "02:00", "closes": "04:00"}])
    for number, zone in enumerate(zones):
        stage.device(number).timezone = None if zone == "UTC" else zone
    assert stage.run() is R.SUCCEEDED
    begin = stage.fleet.wall_time() - stage.fleet.now()
    hours = {}
    for at, device in stage.switches():
        zone = ZoneInfo(zones[int(device[1:])])
        hours[device] = datetime.datetime.fromtimestamp(begin + at + TINY, zone).hour
    assert set(hours.values()) == {2}
    assert len({round(2 * at / HOUR) for at, _ in stage.switches()}) == len(zones)


def test_the_inventory_knows_the_time_zone_better_than_the_device() -> None:
    stage = Stage(1, waves=AT_ONCE, maintenance_window=[{"opens": "02:00", "closes": "04:00"}])
    stage.device(0).timezone = "America/New_York"
    facts = stage.drill.facts(stage.fleet, timezone="Europe/Vienna")
    assert stage.run(facts=facts) is R.SUCCEEDED
    assert stage.switches()[0][0] == pytest.approx(HOUR)


def test_a_window_that_closes_meanwhile_keeps_the_rest_for_the_next_day() -> None:
    window = {"opens": "23:00", "closes": "00:05"}
    stage = Stage(10, waves=AT_ONCE, rate_per_minute=1, maintenance_window=[window])
    assert stage.run() is R.SUCCEEDED
    early = [at for at, _ in stage.switches() if at <= 300]
    late = [at for at, _ in stage.switches() if at > 300]
    assert len(early) == 5
    assert len(late) == 5
    assert min(late) + TINY >= 23 * HOUR


def test_days_without_a_window_are_waited_for() -> None:
    window = {"days": ["sat"], "opens": "01:00", "closes": "02:00"}
    stage = Stage(2, waves=AT_ONCE, maintenance_window=[window])
    stage.life.turns = 200_000
    assert stage.run() is R.SUCCEEDED
    assert min(at for at, _ in stage.switches()) == pytest.approx(49 * HOUR)


# -- rate, max_parallel, places to pull ------------------------------------------------------


@pytest.mark.parametrize("rate", [1, 6, 30, 0.5])
def test_no_more_switches_in_any_minute_than_the_rate_allows(rate: float) -> None:
    stage = Stage(8, waves=AT_ONCE, rate_per_minute=rate)
    assert stage.run() is R.SUCCEEDED
    times = sorted(at for at, _ in stage.switches())
    for begin in times:
        assert sum(begin <= at < begin + 60 - TINY for at in times) <= max(1, rate)


def test_a_slow_rate_is_no_lack_of_progress() -> None:
    stage = Stage(3, waves=AT_ONCE, rate_per_minute=0.05, progress_deadline=900)
    assert stage.run() is R.SUCCEEDED
    assert stage.fleet.now() > 2400


def test_the_rate_goes_over_the_end_of_a_wave() -> None:
    stage = Stage(3, waves=[{"size": 1}, {"size": 1}, {"size": "rest"}], rate_per_minute=1)
    assert stage.run() is R.SUCCEEDED
    times = [at for at, _ in stage.switches()]
    assert all(later - earlier >= 60 - TINY for earlier, later in itertools.pairwise(times))


@pytest.mark.parametrize("places", [1, 2])
def test_no_more_devices_of_a_site_pull_at_once_than_it_has_places(places: int) -> None:
    stage = Stage(12, waves=AT_ONCE, pull_concurrency=places)
    facts = stage.drill.facts(stage.fleet)
    most = dict.fromkeys(("site_0", "site_1"), 0)

    def watch(_order: Order, _now: float) -> None:
        pulling = [o.device for o in stage.fleet.under_way.values() if o.verb is Verb.STAGE]
        for site in most:
            most[site] = max(most[site], sum(facts[name].site == site for name in pulling))

    stage.fleet.watch = watch
    assert stage.run() is R.SUCCEEDED
    assert set(most.values()) == {places}


def test_a_device_that_cannot_pull_gives_its_place_to_the_next() -> None:
    budget = {"max_failed": "100%"}
    stage = Stage(6, waves=AT_ONCE, pull_concurrency=1, failure_budget=budget)
    stage.device(0).disk_free = stage.device(1).disk_free = 0
    assert stage.run() is R.SUCCEEDED
    assert stage.record(0).state is D.REJECTED
    assert "disk is full" in stage.record(0).reason
    assert {stage.record(number).state for number in range(2, 6)} == {D.COMMITTED}


def test_places_to_pull_do_not_run_out_when_a_registry_is_down() -> None:
    stage = Stage(6, waves=AT_ONCE, pull_concurrency=1, failure_budget={"max_unreachable": "100%"})
    stage.device(2).registry_from = stage.device(3).registry_from = float("inf")
    assert stage.run() is R.SUCCEEDED_WITH_DEFERRED
    deferred = {d.device for d in stage.loaded.devices if d.state is D.DEFERRED}
    assert deferred == {"d0002", "d0003"}


@pytest.mark.parametrize("parallel", [1, 3])
def test_a_wave_staged_ahead_keeps_to_max_parallel(parallel: int) -> None:
    stage = Stage(9, waves=[{"size": 1, "soak": 60}, {"size": "rest"}], max_parallel=parallel)
    most = 0

    def watch(_order: Order, _now: float) -> None:
        nonlocal most
        soaking = stage.loaded.waves[0].state is W.SOAKING
        most = max(most, len(stage.fleet.under_way) - soaking)

    stage.fleet.watch = watch
    assert stage.run() is R.SUCCEEDED
    assert most == parallel
    assert stage.fleet.turns < 2000  # who has to wait costs no turns of the loop


def test_the_next_wave_is_staged_during_a_soak_and_no_wave_after_it() -> None:
    waves = [{"size": 1, "soak": 60}, {"size": 1, "soak": 60}, {"size": "rest"}]
    stage = Stage(6, waves=waves)
    assert stage.run() is R.SUCCEEDED
    wave = {d.device: d.wave for d in stage.loaded.devices}
    staged: dict[int | None, list[float]] = {0: [], 1: [], 2: []}
    for at, device in stage.begun(Verb.STAGE):
        staged[wave[device]].append(at)
    switched = {wave[device]: at for at, device in stage.switches()}
    assert max(staged[1]) < 60 < switched[1]
    assert switched[1] < min(staged[2])
    assert max(staged[2]) < switched[1] + 60 < switched[2]


# -- an application's lock -------------------------------------------------------------------


def test_a_switch_waits_until_the_application_is_done_and_loses_no_generation() -> None:
    stage = Stage(3, waves=AT_ONCE)
    stage.device(1).locked_until = 95.0
    assert stage.run() is R.SUCCEEDED
    assert stage.device(1).generation == 2
    tries = [at for at, device in stage.switches() if device == "d0001"]
    assert len(tries) > 5
    assert stage.running() == {stage.drill.release.id}


def test_a_lock_that_is_never_released_defers_the_device() -> None:
    stage = Stage(3, waves=AT_ONCE, lock_deadline=120)
    stage.device(1).locked_until = float("inf")
    assert stage.run() is R.SUCCEEDED_WITH_DEFERRED
    assert stage.code == EXIT_DEFERRED
    record = stage.record(1)
    assert (record.state, record.failed, record.unreachable) == (D.DEFERRED, False, True)
    assert "inspection-line holds /run/muster/digits.lock, for 2m" in record.reason
    assert stage.device(1).generation == 1
    assert 120 <= stage.fleet.now() < 150


def test_a_locked_device_holds_nobody_else_up() -> None:
    stage = Stage(4, waves=AT_ONCE, max_parallel=1)
    stage.device(0).locked_until = 300.0
    assert stage.run() is R.SUCCEEDED
    done = {device: at for at, device in stage.begun(Verb.CONFIRM)}
    assert max(done[name] for name in ("d0001", "d0002", "d0003")) < 60
    assert done["d0000"] > 300


def test_a_long_lock_is_no_lack_of_progress() -> None:
    stage = Stage(1, waves=AT_ONCE, lock_deadline=7200, progress_deadline=900)
    stage.device(0).locked_until = 4000.0
    assert stage.run() is R.SUCCEEDED


# -- other things that go wrong before the switch, or now and then ---------------------------


def test_a_registry_that_is_down_defers_and_fails_nobody() -> None:
    stage = Stage(4, waves=AT_ONCE, failure_budget={"max_unreachable": "100%"})
    stage.device(0).registry_from = 1e9
    assert stage.run() is R.SUCCEEDED_WITH_DEFERRED
    assert (stage.record(0).state, stage.record(0).failed) == (D.DEFERRED, False)


def test_a_device_without_the_proxy_takes_no_blue_green_switch() -> None:
    stage = Stage(3, waves=AT_ONCE, switch="blue_green")
    stage.device(0).switch_modes = stage.device(1).switch_modes = ("recreate", "blue_green")
    assert stage.run() is R.SUCCEEDED
    assert stage.record(2).state is D.REJECTED
    assert "it has no proxy" in stage.record(2).reason


@pytest.mark.parametrize(
    ("quality", "state"), [(Quality.FLAPPING, R.ROLLED_BACK), (Quality.SILENT, R.PAUSED)]
)
def test_a_release_that_is_right_now_and_then_is_never_confirmed(
    quality: Quality, state: R
) -> None:
    stage = Stage(3, quality)
    assert stage.run() is state
    assert stage.begun(Verb.CONFIRM) == []
    assert stage.running() == {stage.drill.old.id}


# -- a controller that dies while devices wait -----------------------------------------------


def test_a_wait_for_the_window_survives_the_controller() -> None:
    def make() -> Stage:
        window = {"opens": "00:01", "closes": "23:00"}
        return Stage(2, waves=AT_ONCE, maintenance_window=[window])

    for stage in killed_everywhere(make):
        assert stage.run() is R.SUCCEEDED
        assert all(at + TINY >= 60 for at, _ in stage.switches())
        assert {device.generation for device in stage.fleet.devices.values()} == {2}


def test_a_wait_for_a_lock_survives_the_controller() -> None:
    def make() -> Stage:
        stage = Stage(2, waves=AT_ONCE)
        stage.device(0).locked_until = stage.device(1).locked_until = 25.0
        return stage

    stages = killed_everywhere(make)
    assert len(stages) > 20
    for stage in stages:
        assert stage.run() is R.SUCCEEDED
        assert {device.generation for device in stage.fleet.devices.values()} == {2}
