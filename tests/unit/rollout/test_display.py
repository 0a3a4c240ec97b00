from __future__ import annotations

import json
from io import StringIO

import pytest
from drill import Drill, Recorder, bad, strategy
from rich.console import Console
from stories import START, decided, device, gated, moved, ran, snapshot, wave, waved

from muster.display import STYLES, JsonLines, LiveTable, PlainLines, observer
from muster.fleet.simulated import Quality, SimulatedFleet
from muster.rollout.events import Event
from muster.rollout.machine import DeviceState, RolloutState, WaveState
from muster.rollout.records import Snapshot
from muster.rollout.words import STOPPING


def drawn(
    story: Snapshot, events: list[Event], seconds: float, width: int = 120, height: int = 40
) -> list[str]:
    console = Console(
        record=True, width=width, height=height, file=StringIO(), legacy_windows=False
    )
    now = [START]
    table = LiveTable(console, story, lambda: now[0])
    for event in events:
        table.event(event)
    now[0] += seconds
    console.print(table)
    lines = console.export_text().splitlines()
    assert all(len(line) <= width for line in lines)
    assert len(lines) < height
    return lines


def test_the_live_display_shows_waves_devices_budget_clocks_and_decisions() -> None:
    story = snapshot(
        [device("cam-1"), device("cam-2"), device("cam-3", wave=1)],
        [wave(0, "canary", soak=60), wave(1, "rest")],
    )
    lines = drawn(
        story,
        [
            ran(0, "running", "planned"),
            waved(0, 0, "updating"),
            moved(1, "cam-1", "switching"),
            moved(3, "cam-1", "soaking"),
            gated(4, "cam-1", "ready"),
            moved(2, "cam-2", "rolling_back", reason="live: wrong", failed=True),
        ],
        5,
    )
    text = "\n".join(lines)
    assert lines[0].startswith("rollout r  digits 2.0-")
    assert "1 canary" in text
    assert "failed 1 of 0 allowed, unreachable 0 of 1" in text
    (first,) = [line for line in lines if line.startswith("cam-1")]
    assert "soaking" in first
    assert "gates 3 s more, guard 86 s" in first
    assert "ready passed" in first
    assert any("cam-2 is sent back: live: wrong" in line for line in lines)
    assert "stopping" not in text


def test_a_stop_is_the_second_line() -> None:
    lines = drawn(
        snapshot([device("cam-1")]),
        [moved(0, "cam-1", "switching"), decided(1, f"stopped by the operator: {STOPPING}")],
        2,
    )
    assert lines[1].strip() == "stopping: stopped by the operator; 1 device under way"


def test_two_thousand_devices_fit_a_small_screen() -> None:
    names = [f"cam-{n:04}" for n in range(2000)]
    events = [moved(n / 100, name, "staging") for n, name in enumerate(names[:300])]
    events.append(moved(4, names[7], "rolling_back", reason="x" * 300))
    waves = [wave(n, f"wave number {n}") for n in range(30)]
    lines = drawn(snapshot([device(name) for name in names], waves), events, 5, 80, 24)
    text = "\n".join(lines)
    assert "cam-0007" in text
    assert "more: 1700 pending" in text
    assert "... 24 more" in text


def test_markup_in_names_and_reasons_is_text() -> None:
    story = snapshot([device("[red]x")], [wave(0, "[bold]w")])
    lines = drawn(story, [moved(0, "[red]x", "rejected", reason="[link]why")], 1)
    text = "\n".join(lines)
    for shown in ("[red]x", "[bold]w", "[link]why"):
        assert shown in text


def test_every_state_that_needs_a_person_stands_out() -> None:
    for state in (RolloutState.AWAITING_APPROVAL, WaveState.AWAITING_APPROVAL, RolloutState.PAUSED):
        assert "yellow" in STYLES[state.value]
    assert "red" in STYLES[DeviceState.QUARANTINED.value]


def test_a_whole_rollout_is_shown_with_the_engine_s_own_events(drill: Drill) -> None:
    fleet, recorder = SimulatedFleet(drill.devices(6)), Recorder()
    story = drill.prepare(fleet, strategy(failure_budget={"on_breach": "roll_back_rollout"}))
    fleet._quality = lambda name, release: (
        bad(drill.release, Quality.WRONG)(name, release) if name == "d0003" else Quality.GOOD
    )
    console = Console(record=True, width=140, height=40, file=StringIO())
    table = LiveTable(console, story)
    drill.drive(story, fleet, recorder)
    for event in recorder.events:
        table.event(event)
    console.print(table)
    text = console.export_text()
    assert "rolled back" in text
    assert "d0003 is sent back: live:" in text
    assert "failed 1 of 0 allowed" in text
    final = {d.device: d.state.value for d in drill.journal.load(story.rollout.id).devices}
    rows = {line.split()[0]: line for line in text.splitlines() if line.startswith("d000")}
    assert set(rows) == set(final)
    assert all(state.replace("_", " ") in rows[name] for name, state in final.items())


def test_a_log_gets_lines_and_a_program_gets_json(capsys: pytest.CaptureFixture[str]) -> None:
    story = snapshot([device("a")])
    console = Console(file=StringIO(), record=True, width=200)
    assert isinstance(observer(console, story, as_json=False), PlainLines)
    assert isinstance(observer(console, story, as_json=True), JsonLines)
    terminal = Console(file=StringIO(), force_terminal=True)
    assert isinstance(observer(terminal, story, as_json=False), LiveTable)
    PlainLines(console, story).event(waved(0, 0, "awaiting_approval", "somebody must look"))
    assert "awaiting approval  somebody must look" in console.export_text()
    JsonLines().event(gated(1, "a"))
    assert json.loads(capsys.readouterr().out)["verdict"] == "passed"
