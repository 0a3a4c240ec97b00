from __future__ import annotations

from typing import Any

import pytest
from stories import START, answered, decided, device, gated, moved, ran, snapshot, wave, waved

from muster.live import LOG_LINES, WAVE_ROWS, DeviceRow, Picture, View, left
from muster.rollout.events import Event
from muster.rollout.words import STOPPING


def picture(*events: Event, **story: Any) -> Picture:
    found = Picture(snapshot(**{"devices": [device("a"), device("b")], **story}), START)
    for event in events:
        found.take(event)
    return found


def at(found: Picture, seconds: float, room: int = 50) -> View:
    return found.view(START + seconds, room)


def row(view: View, name: str) -> DeviceRow:
    return next(row for row in view.devices if row.device == name)


def test_a_device_shows_the_clocks_of_its_state() -> None:
    found = picture(
        moved(0, "a", "staging"), moved(4, "a", "switching"), moved(10, "b", "committed")
    )
    shown = row(at(found, 14), "a")
    assert (shown.state, shown.seconds) == ("switching", 10)
    # healthy_deadline 30 s and confirm_timeout 90 s, both since the switch.
    assert shown.clocks == ("ready within 20 s", "guard 80 s")
    assert row(at(found, 14), "b").clocks == ()
    found.take(moved(20, "a", "soaking"))
    assert row(at(found, 22), "a").clocks == ("gates 3 s more", "guard 72 s")


def test_a_guard_that_was_extended_has_its_full_time_again() -> None:
    found = picture(moved(0, "a", "switching"), moved(2, "a", "soaking"))
    found.take(answered(50, "a", "extend"))
    assert row(at(found, 60), "a").clocks[-1] == "guard 80 s"
    found.take(answered(70, "a", "extend", trouble="unreachable"))
    assert row(at(found, 80), "a").clocks[-1] == "guard 60 s"


def test_a_lost_device_shows_when_its_guard_has_acted() -> None:
    found = picture(moved(0, "a", "switching"), moved(30, "a", "lost"))
    assert row(at(found, 31), "a").clocks == ("guard 59 s",)
    assert row(at(found, 91), "a").clocks == ("its guard has acted",)
    found.take(moved(95, "a", "rolled_back", "lost"))
    assert row(at(found, 96), "a").clocks == ()


def test_what_was_before_the_display_began_has_no_clock() -> None:
    found = picture(devices=[device("a", "soaking")])
    shown = row(at(found, 10), "a")
    assert (shown.seconds, shown.clocks) == (None, ())


def test_gates_are_shown_as_they_come_and_forgotten_at_the_next_switch() -> None:
    found = picture(moved(0, "a", "soaking"), gated(1, "a", "ready"), gated(1, "a", "live"))
    found.take(gated(5, "a", "live", "error"))
    assert row(at(found, 6), "a").gates == {"ready": "passed", "live": "error"}
    found.take(moved(7, "a", "switching"))
    assert row(at(found, 8), "a").gates == {}


def test_a_wave_shows_what_of_its_budget_is_used() -> None:
    members = [device(name) for name in "abcde"]
    budget = {"max_failed": "40%", "max_unreachable": 3}
    found = picture(
        waved(0, 0, "updating"),
        moved(1, "a", "rolling_back", failed=True),
        moved(2, "a", "rolled_back", failed=True),
        moved(2, "b", "deferred", unreachable=True),
        moved(3, "c", "committed"),
        decided(4, "c failed its soak", device="c", failed=True),
        devices=members,
        failure_budget=budget,
    )
    (shown,) = at(found, 5).waves
    assert shown.budget == "failed 2 of 2 allowed, unreachable 1 of 3"
    assert (shown.settled, shown.devices) == (3, 5)


def test_what_a_person_accepted_by_resuming_is_not_counted_again() -> None:
    found = picture(
        waved(0, 0, "updating"),
        moved(1, "a", "rolling_back", failed=True),
        ran(2, "paused"),
        ran(9, "running", "paused"),
    )
    assert at(found, 9).waves[0].budget == "failed 0 of 0 allowed, unreachable 0 of 1"
    found.take(moved(10, "b", "rolling_back", failed=True))
    assert at(found, 11).waves[0].budget.startswith("failed 1 of 0")


def test_a_wave_shows_its_clock() -> None:
    found = picture(waved(0, 0, "soaking"), waves=[wave(0, "canary", soak=60)])
    assert at(found, 15).waves[0].clock == "soak 45 s left"
    found.take(waved(60, 0, "awaiting_approval"))
    assert at(found, 75).waves[0].clock == "waits for 15 s"


def test_a_wave_that_makes_no_progress_says_when_it_fails() -> None:
    found = picture(ran(0, "running", "planned"), waved(0, 0, "updating"), progress_deadline=600)
    assert at(found, 250).waves[0].clock == ""
    assert at(found, 400).waves[0].clock == "no progress: fails in 3:20 min"
    found.take(moved(401, "a", "staging"))
    assert at(found, 402).waves[0].clock == ""


def test_of_many_waves_those_around_the_present_one_are_shown() -> None:
    waves = [wave(n, f"w{n}", "passed" if n < 10 else "pending") for n in range(20)]
    shown = at(picture(waves=waves), 0)
    assert [w.index for w in shown.waves] == list(range(9, 9 + WAVE_ROWS))
    assert shown.hidden_waves == 20 - WAVE_ROWS
    ended = at(picture(waves=[wave(n, "w", "passed") for n in range(20)]), 0)
    assert ended.waves[-1].index == 19


def test_the_devices_that_matter_have_the_room() -> None:
    names = [f"d{n:02}" for n in range(40)]
    found = picture(devices=[device(name) for name in names])
    for name in names[:10]:
        found.take(moved(1, name, "committed"))
    for number, name in enumerate(names[10:25]):
        found.take(moved(2 + number, name, "rolled_back", "rolling_back"))
    for name in names[25:32]:
        found.take(moved(30, name, "switching"))
    shown = at(found, 31, room=8)
    states = [r.state for r in shown.devices]
    assert states == ["rolled_back"] * 4 + ["switching"] * 4
    assert [r.device for r in shown.devices][:4] == names[21:25]  # the latest trouble
    assert shown.hidden == {"committed": 10, "rolled_back": 11, "switching": 3, "pending": 8}
    assert sum(shown.counts.values()) == 40


def test_stopping_is_shown_until_the_rollout_rests() -> None:
    found = picture(ran(0, "running", "planned"), moved(1, "a", "switching"))
    assert at(found, 2).stopping == ""
    found.take(decided(3, f"stopped by the operator: {STOPPING}"))
    found.take(moved(4, "a", "soaking"))
    shown = at(found, 5)
    assert (shown.stopping, shown.under_way) == ("stopped by the operator", 1)
    found.take(ran(6, "paused", reason="stopped by the operator"))
    assert (at(found, 7).stopping, at(found, 7).state) == ("", "paused")


def test_the_log_tells_decisions_with_reasons() -> None:
    found = picture(
        waved(0, 0, "updating"),
        moved(1, "a", "rolling_back", reason="live: 3 of 5 wrong"),
        moved(2, "b", "rolling_back", reason="live: 4 of 5 wrong"),
        waved(3, 0, "failed", "2 of 2 devices failed"),
    )
    assert [text for _, text in at(found, 4).log] == [
        "wave 1 (canary) begins",
        "a, b are sent back: live: 3 of 5 wrong (figures of the first)",
        "wave 1 (canary) failed: 2 of 2 devices failed",
    ]
    for number in range(20):
        found.take(decided(5, f"number {number}"))
    assert [text for _, text in at(found, 6).log][-1] == "number 19"
    assert len(at(found, 6).log) == LOG_LINES


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(-5, "0 s"), (0.2, "1 s"), (99, "99 s"), (245, "4:05 min"), (7200, "2:00:00 h")],
)
def test_lengths_of_time(seconds: float, told: str) -> None:
    assert left(seconds) == told
