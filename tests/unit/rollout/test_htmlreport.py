from __future__ import annotations

import re
from datetime import timedelta, timezone
from html.parser import HTMLParser
from typing import Any

import pytest
from drill import Drill, Recorder, bad, strategy
from stories import START, answered, decided, device, gated, moved, ran, snapshot, wave, waved

from muster.fleet.simulated import Quality, SimulatedFleet
from muster.gates import HttpGate, Verdict, assess
from muster.htmlreport import make_page, render
from muster.htmlreport.axis import elapsed, lasting, make_axis
from muster.htmlreport.plots import gate_readings, make_plot
from muster.htmlreport.timeline import OPEN_ROWS, bars, severity
from muster.rollout import report
from muster.rollout.events import Event, EventKind
from muster.rollout.machine import DeviceState, RolloutState, WaveState

# the axis of time


def test_times_are_laid_out_from_0_to_100() -> None:
    axis = make_axis([10.0, 20.0, 30.0])
    assert [axis.place(at) for at in (10, 15, 30)] == [0, 25, 100]
    assert [axis.place(at) for at in (0, 99)] == [0, 100]  # outside
    assert [tick.text for tick in axis.ticks()] == ["0:00", "0:05", "0:10", "0:15", "0:20"]


def test_a_long_idle_stretch_is_cut_out() -> None:
    axis = make_axis([0, 50, 100, 30_000, 30_050, 30_100])
    (gap,) = axis.breaks
    assert (gap.begin, gap.end) == (100, 30_000)
    assert gap.width < 5
    # What lies on both sides keeps its scale.
    assert axis.place(100) == pytest.approx(100 - axis.place(30_000), abs=0.01)
    texts = [tick.text for tick in axis.ticks()]
    assert texts[0] == "0:00"
    assert texts[-1].startswith("8:2")
    places = [tick.place for tick in axis.ticks()]
    assert places == sorted(places)
    assert not any(gap.left < place < gap.left + gap.width for place in places)


def test_a_soak_of_some_minutes_is_not_cut_out() -> None:
    assert make_axis([0, 10, 300, 310]).breaks == []


@pytest.mark.parametrize("times", [[], [5.0], [5.0, 5.0]])
def test_an_axis_without_length_still_has_places(times: list[float]) -> None:
    axis = make_axis(times)
    assert axis.place(times[0] if times else 0) == 0
    assert axis.ticks()


def test_times_in_words() -> None:
    assert [elapsed(s) for s in (5, 65, 3725)] == ["0:05", "1:05", "1:02:05"]
    told = [lasting(s) for s in (0, 0.25, 3, 12.34, 200, 7500)]
    assert told == ["0 s", "0.25 s", "3 s", "12.3 s", "3 min 20 s", "2 h 5 min"]


# bars


def test_states_become_bars_that_meet() -> None:
    axis = make_axis([0, 100])
    found = bars([(0, "staging"), (20, "staged"), (60, "switching"), (70, "committed")], axis)
    assert [(b.state, b.left, b.width) for b in found] == [
        ("staging", 0, 20),
        ("staged", 20, 40),
        ("switching", 60, 10),
        ("committed", 70, 30),
    ]
    assert [b.resting for b in found] == [False, True, False, True]
    assert found[0].label == "staging"
    assert found[2].label == ""  # too narrow for its name
    assert found[2].text == "switching 10 s"


def test_what_is_pending_has_no_bar() -> None:
    assert bars([(0, "pending"), (50, "staging")], make_axis([0, 100]))[0].left == 50


# figures


def test_downtime_and_going_back_are_figures_of_the_report() -> None:
    events = [
        answered(1, "a", downtime=2.5),
        answered(9, "a", downtime=1.0),
        gated(10, "a", verdict="failed"),
        moved(10.2, "a", "rolling_back"),
        moved(13, "a", "rolled_back"),
        moved(20, "b", "rolling_back"),  # it did not become ready: no gate was asked
        moved(21.5, "b", "rolled_back"),
        gated(30, "c", verdict="failed"),
        moved(30, "c", "lost"),  # it goes back by itself: nobody saw when
        moved(99, "c", "rolled_back", "lost"),
        gated(40, "d", verdict="failed"),
        moved(41, "d", "switching"),  # a later failure counts, not this one
        moved(50, "d", "rolling_back"),
        moved(53, "d", "rolled_back"),
    ]
    assert report.downtimes(events) == {"a": 2.5}
    assert report.recoveries(events) == {
        "a": pytest.approx(3.0),
        "b": pytest.approx(1.5),
        "d": pytest.approx(3.0),
    }


# gates against their limits


def test_what_a_gate_measured_stands_beside_its_limit() -> None:
    gate = HttpGate(type="http", name="g", path="/", max_latency=0.2)
    sample = {"at": 0.0, "status": 200, "latency": 0.25, "body": "", "error": None}
    found = assess({"g": [sample]}, gate)
    readings = gate_readings([Event(EventKind.GATE, "r", START, "a", 0, found.to_json())])
    (latency,) = readings["g", "latency"]
    assert (latency.value, latency.at_most, latency.beyond) == (0.25, 0.2, True)
    (failures,) = readings["g", "failures"]
    assert (failures.value, failures.at_most, failures.beyond) == (0, 0, False)


def test_a_number_without_a_limit_is_not_plotted_but_for_latency() -> None:
    events = [gated(0, "a", samples=5, latency=0.1), gated(1, "a", latency=None, cases=True)]
    assert set(gate_readings(events)) == {("live", "latency")}


def test_a_plot_tells_the_limit_the_worst_and_what_is_beyond() -> None:
    events = [
        gated(0, "a", cases_right=4, cases_right_at_least=3),
        gated(1, "b", cases_right=4, cases_right_at_least=3),
        gated(1, "c", cases_right=4, cases_right_at_least=3),
        gated(2, "d", verdict="failed", cases_right=1, cases_right_at_least=3),
    ]
    readings = gate_readings(events)["live", "cases_right"]
    plot = make_plot("live", "cases_right", readings, make_axis([START, START + 2]))
    assert (plot.total, plot.beyond, plot.median, plot.worst) == (4, 1, "4", "1")
    assert [limit.text for limit in plot.limits] == ["at least 3"]
    assert [(p.left, p.up, p.beyond, p.number) for p in plot.points] == [
        (0, 100, False, 1),
        (50, 100, False, 2),  # b and c lie on one spot
        (100, 25, True, 1),
    ]
    assert [text for _, text in plot.scale] == ["0", "2", "4"]


# the page


def story(number: int = 3, **changes: Any) -> tuple[Any, list[Event]]:
    names = [f"cam-{n:04}" for n in range(number)]
    events = [ran(0, "running", "planned"), waved(0, 0, "updating")]
    devices = []
    for n, name in enumerate(names):
        at = n / number
        events += [moved(at, name, "switching"), answered(at + 3, name, downtime=1.5)]
        if n == 1:
            events += [
                gated(at + 4, name, verdict="failed", reason="live: wrong", latency=0.5),
                moved(at + 4, name, "rolling_back", "soaking", "live: wrong", failed=True),
                moved(at + 6, name, "rolled_back", "rolling_back", "live: wrong"),
            ]
            devices.append(device(name, "rolled_back", reason="live: wrong", failed=True))
        else:
            events.append(moved(at + 5, name, "committed", "confirming"))
            devices.append(device(name, "committed"))
    events += [waved(9, 0, "passed"), ran(10, "succeeded", reason="2 of 3")]
    return snapshot(devices, [wave(0, "canary", "passed")], "succeeded", **changes), events


class Markup(HTMLParser):
    """Collects tags and text, and checks that the tags nest."""

    VOID = frozenset({"meta", "input", "line", "rect", "circle", "path", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in {"style", "script"}:
            self.text.append(data)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_the_page_tells_figures_waves_devices_gates_and_decisions() -> None:
    found, events = story()
    page = make_page(found, events)
    figures = {figure.name: figure.value for figure in page.figures}
    assert figures["devices on the release"] == "2 of 3"
    assert figures["SSH commands"] == "3"
    assert figures["downtime of a device"] == "1.5 s median"
    assert figures["failed gate to old release ready"] == "2 s median"
    assert [(c.state, c.number) for c in page.counts] == [("committed", 2), ("rolled_back", 1)]
    (first,) = page.waves
    assert (first.title, first.took, first.devices) == ("Wave 1 (canary)", "6.3 s", 3)
    assert [fold.state for fold in first.folds] == ["rolled_back", "committed"]  # trouble first
    (row,) = first.folds[0].rows
    assert (row.device, row.downtime, row.recovery) == ("cam-0001", 1.5, 2.0)
    assert [d.text for d in page.decisions] == [
        "The rollout begins",
        "Wave 1 (canary) begins",
        "Wave 1 (canary): cam-0001 is sent back: live: wrong",
        "Wave 1 (canary) passed",
        "The rollout succeeded: 2 of 3",
    ]
    assert [(f.gate, f.devices) for f in page.failures] == [("live", ("cam-0001",))]
    text = " ".join(Markup(render(page)).text)
    for told in ("cam-0001", "rolled back", "live: wrong", "Rollout of digits", "ops@bastion"):
        assert told in text


def test_times_are_in_the_zone_of_the_reader() -> None:
    found, events = story()
    page = make_page(found, events, timezone(timedelta(hours=2), "HERE"))
    assert dict(page.facts)["began"].endswith(" HERE")
    assert page.iso(START).endswith("+02:00")


def test_nothing_is_loaded_from_anywhere() -> None:
    html = render(make_page(*story()))
    markup = Markup(html)
    for tag in ("link", "img", "iframe", "object", "embed"):
        assert markup.named(tag) == []
    assert all("src" not in attributes for attributes in markup.named("script"))
    assert all(str(a["href"]).startswith("#") for a in markup.named("a"))
    for outside in ("http://", "https://", "url(", "@import"):
        assert outside not in html
    policy = [m["content"] for m in markup.named("meta") if "http-equiv" in m]
    assert policy[0] is not None
    assert policy[0].startswith("default-src 'none'")


def test_text_of_devices_and_gates_is_never_markup() -> None:
    evil = "<script>alert(1)</script>\"'&{{ 7*7 }}"
    found, events = story()
    found.rollout.reason = found.waves[0].name = found.devices[1].reason = evil
    found.devices[0].device = evil
    events += [gated(8, evil, evil, "failed", evil, latency=1.0), decided(8, evil)]
    events.append(moved(8, evil, "rolling_back", reason=evil))
    html = render(make_page(found, events))
    assert "alert(1)" in html
    assert "<script>alert" not in html
    assert "49" not in [text.strip() for text in Markup(html).text]
    assert len(Markup(html).named("script")) == 1


def test_a_few_devices_are_shown_and_many_are_folded() -> None:
    few = make_page(*story(8)).waves[0].folds
    assert all(fold.is_open for fold in few)
    many = make_page(*story(OPEN_ROWS + 10)).waves[0].folds
    assert {fold.state: fold.is_open for fold in many} == {"rolled_back": True, "committed": False}
    assert sum(len(fold.rows) for fold in many) == OPEN_ROWS + 10


def test_two_thousand_devices_make_a_page_that_can_be_mailed() -> None:
    html = render(make_page(*story(2000)))
    assert len(html) < 4_000_000
    assert html.count("data-device=") == 2000
    # What is open at first: one device in trouble, and no row of the others.
    opened = [a for a in Markup(html).named("details") if "open" in a]
    assert len(opened) == 2  # the device that went back, and what its gate saw


def test_devices_in_no_wave_are_told_with_their_reason() -> None:
    found, events = story()
    found.devices.append(device("old-1", "rejected", None, reason="no coral"))
    last = make_page(found, events).waves[-1]
    assert (last.title, last.index, last.folds[0].rows[0].reason) == (
        "In no wave",
        None,
        "no coral",
    )


def test_colours_never_speak_alone() -> None:
    """Every bar has its state as a tooltip, every row as hidden text, every swatch a name."""
    html = render(make_page(*story()))
    tracked = [a for a in Markup(html).named("i") if "style" in a]
    assert tracked
    assert all(a.get("title") for a in tracked)
    text = " ".join(Markup(html).text)
    assert "switching 4 s, rolling back 2 s" in text
    charts = [a for a in Markup(html).named("svg") if a.get("role") == "img"]
    assert charts
    assert all(a.get("aria-label") for a in charts)
    assert Markup(html).named("html")[0]["lang"] == "en"


def test_a_rollout_that_has_not_begun_has_a_page() -> None:
    page = make_page(snapshot([device("a")], state="planned"), [])
    assert page.outcome == "planned (not ended)"
    Markup(render(page))


def test_a_success_with_devices_that_went_back_is_no_plain_success() -> None:
    found, events = story()
    assert make_page(found, events).tone == "good"
    found.rollout.exit_code = 3
    assert make_page(found, events).tone == "warn"


def test_a_real_rollout_makes_a_page(drill: Drill) -> None:
    fleet, recorder = SimulatedFleet(drill.devices(6)), Recorder()
    fleet._quality = bad(drill.release, Quality.WRONG)
    planned = drill.prepare(fleet, strategy())
    drill.drive(planned, fleet, recorder)
    found = drill.journal.load(planned.rollout.id)
    page = make_page(found, drill.journal.events(found.rollout.id))
    assert (page.tone, page.devices) == ("bad", 6)
    assert {plot.title for plot in page.plots} == {"ready", "live"}
    assert any(plot.beyond for plot in page.plots)
    assert any("is sent back: live:" in d.text for d in page.decisions)
    Markup(render(page))


def test_every_state_has_its_place_and_its_colour() -> None:
    assert len({severity(state) for state in DeviceState}) == len(DeviceState)
    html = render(make_page(snapshot([device("a")]), []))
    named: set[str] = {
        state.value for kind in (DeviceState, WaveState, RolloutState) for state in kind
    }
    named |= {verdict.value for verdict in Verdict} - {"passed"}
    assert {name for name in named if not re.search(rf"\.s-{name}\b", html)} == set()
