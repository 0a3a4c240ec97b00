from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest
from drill import Drill, Recorder, strategy

from muster.fleet.simulated import SimulatedFleet
from muster.rollout import report
from muster.rollout.events import Event, EventKind
from muster.rollout.records import DeviceRecord, Snapshot, WaveRecord


def moved(at: float, device: str, to: str, wave: int = 1) -> Event:
    return Event(EventKind.DEVICE, "r", at, device, wave, {"to": to, "reason": ""})


def test_a_wave_takes_from_its_turn_to_its_last_device(drill: Drill) -> None:
    rollout = drill.prepare(SimulatedFleet(drill.devices(1)), strategy()).rollout
    snapshot = Snapshot(
        rollout,
        [WaveRecord(0, "first"), WaveRecord(1, "second"), WaveRecord(2, "never")],
        [DeviceRecord("a", 1), DeviceRecord("b", 1), DeviceRecord("c", 2)],
    )
    events = [
        moved(0.0, "a", "staging"),  # ahead of its turn: not counted
        moved(3.0, "a", "staged"),
        Event(EventKind.WAVE, "r", 10.0, "", 1, {"to": "updating", "reason": ""}),
        moved(10.0, "b", "staging"),
        moved(10.5, "a", "switching"),
        moved(12.0, "b", "staged"),
        moved(14.0, "b", "switching"),
        moved(15.5, "a", "committed"),
        moved(17.0, "b", "soaking"),
        moved(18.0, "b", "committed"),
    ]
    (figures,) = report.wave_figures(snapshot, events)
    assert (figures.index, figures.devices) == (1, 2)
    assert figures.seconds == pytest.approx(8.0)
    assert (figures.slowest_device, figures.slowest) == ("b", pytest.approx(6.0))


def test_a_summary_counts_the_commands_of_each_device(drill: Drill) -> None:
    fleet = SimulatedFleet(drill.devices(4))
    recorder = Recorder()
    snapshot = drill.prepare(fleet, strategy())
    drill.drive(snapshot, fleet, recorder)
    summary = report.summary(drill.journal.load(snapshot.rollout.id), recorder.events)
    assert {d["device"]: d["commands"] for d in summary["devices"]} == dict(fleet.commands)
    assert summary["exit_code"] == 0
    assert [wave["devices"] for wave in summary["waves"]] == [1, 2, 1]


def test_junit_is_xml_whatever_a_device_says(drill: Drill) -> None:
    snapshot = drill.prepare(SimulatedFleet(drill.devices(1)), strategy())
    snapshot.devices[0].failed = True
    snapshot.devices[0].reason = "docker said \x1b[31m\x00\x0b\udcff\uffff no"
    text = report.junit(snapshot, [])
    text.encode()
    failure = ElementTree.fromstring(text).find(".//failure")
    assert failure is not None
    assert failure.attrib["message"] == "docker said \ufffd[31m\ufffd\ufffd\ufffd\ufffd no"
