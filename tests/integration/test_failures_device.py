"""The device itself fails: its power at every step of its program, its disk, its clock."""

from __future__ import annotations

import calendar
import functools
import json
import shlex
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from drills import SOON, Drill, Scenario, Table, side_by_side
from extra_releases import heavy_release
from site_driver import Site

from muster.documents import load_document
from muster.emulator.containers import STORE
from muster.rollout.orders import Orders
from muster.strategy import Strategy

TABLE = Table()
PROGRAM = "/usr/local/sbin/muster-device"
YEAR = 365 * 86400  # seconds


@pytest.fixture(scope="module")
def play(
    site: Site, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Callable[[Scenario], None]]:
    items = [item for item in request.session.items if item.path == request.path]
    with side_by_side(site, tmp_path_factory.mktemp("device"), items) as playing:
        yield playing


@TABLE.parametrize()
def test_device(scenario: Scenario, play: Callable[[Scenario], None]) -> None:
    play(scenario)


# The power goes at every step

# Runs a program file as it is, but for its checkpoints: it stops at the one that is named first.
STOP_AT = f"""
import sys, time
from importlib import machinery, util
sys.dont_write_bytecode = True
loader = machinery.SourceFileLoader("program", {PROGRAM!r})
program = util.module_from_spec(util.spec_from_loader("program", loader))
sys.modules["program"] = program
loader.exec_module(program)
def checkpoint(name):
    if name == sys.argv[1]:
        open("/run/stopped-here", "w").close()
        time.sleep(600)
program.checkpoint = checkpoint
sys.exit(program.main(sys.argv[2:]))
"""
STEPS = {
    "stage": ("written", "pulled", "published"),
    "switch": (
        *("arming", "guarded", "created", "switching", "previous", "current"),
        *("stopped", "started", "switched"),
    ),
    "confirm": ("confirming", "last_good", "idle"),
    "revert": (
        *("reverting", "guarded", "current", "previous"),
        *("stopped", "started", "last_good", "idle"),
    ),
}


class Steps:
    """The orders of a rollout to another release, as a controller would give them."""

    def __init__(self, drill: Drill) -> None:
        self.drill, device = drill, drill.device
        self.release, variant, image = drill.release(drill.new)
        orders = Orders("power-cut", self.release, load_document(drill.strategy(), Strategy))
        generation = drill.state()["generation"] + 1
        self.order = {
            "stage": orders.stage(device, variant, image.partition("/")[0]),
            "switch": orders.switch(device, generation),
            "confirm": orders.confirm(device, generation),
            "revert": orders.revert(device, generation, None, "a drill"),
        }

    def do(self, subcommand: str) -> None:
        """Carry an order out."""
        answer = self.drill.call(subcommand, self.order[subcommand].document)
        assert answer["ok"], answer

    def lose_power_at(self, subcommand: str, step: str) -> None:
        """Begin an order, and take the power away at one of its steps."""
        document = shlex.quote(json.dumps(self.order[subcommand].document))
        program = f"python3 -c {shlex.quote(STOP_AT)} {subcommand}:{step} {subcommand}"
        self.drill.run(
            f"(printf %s {document} | {program}) > /run/said 2>&1 & "
            "until [ -e /run/stopped-here ];"
            " do kill -0 $! || { cat /run/said; exit 1; }; sleep 0.1; done"
        )
        self.drill.fault("kill")


def power_is_lost(drill: Drill, subcommand: str, step: str) -> None:
    """Whatever the step, the device boots into one release, and that for good."""
    steps = Steps(drill)
    if subcommand == "stage":
        drill.forget(drill.new)
    before = list(STEPS)[: list(STEPS).index(subcommand)]
    for done in before:
        if done != "confirm":
            steps.do(done)
    steps.lose_power_at(subcommand, step)
    drill.fault("heal")
    model = drill.at_rest(drill.device, drill.new if subcommand == "confirm" else drill.old)
    outcome = (model["last_outcome"] or {}).get("outcome")
    if subcommand == "confirm":
        assert outcome == "confirmed"
    elif subcommand == "revert":
        assert outcome == "reverted"
    elif subcommand == "switch":
        touched = STEPS["switch"].index(step) > STEPS["switch"].index("created")
        assert outcome == ("reverted" if touched else "cancelled")
    else:  # staged, or as if it had never begun
        staged = steps.release.id in model["releases"]
        assert staged == (step == "published")
        assert drill.run("ls -A /var/lib/muster/digits/releases").find(".staging") < 0


for _subcommand, _steps in STEPS.items():
    for _step in _steps:
        _play = functools.partial(power_is_lost, subcommand=_subcommand, step=_step)
        TABLE.add(f"power_is_lost_in_{_subcommand}_at_{_step}", _play)


# The disk is full


@TABLE.row(devices=2)
def a_device_whose_disk_is_full_is_left_out_before_anything_is_touched(drill: Drill) -> None:
    """The plan finds out; the others get the release, and it keeps serving the old one."""
    drill.forget(drill.new)  # what is there already needs no room
    drill.fault("fill-disk")
    try:
        ended = drill.roll(drill.new).expect(0)
        assert ended.states == {drill.device: "rejected", drill.other: "committed"}
        assert "disk" in ended.reason(drill.device)
        drill.at_rest(drill.device, drill.old)
    finally:
        drill.fault("heal")
    drill.at_rest(drill.other, drill.new)


@TABLE.row()
def a_disk_that_fills_up_while_it_pulls_costs_nothing_that_serves(drill: Drill) -> None:
    """The pull is given up, what serves and what to go back to stay, and the rollout stops."""
    heavy = heavy_release(drill.site)
    before = drill.at_rest(drill.device, drill.old)
    drill.fault("fill-disk")
    try:
        drill.run(f"truncate --size=-24M {STORE}/data/.filler")
        ended = drill.roll(heavy).expect(3, "rejected")
        assert "filled up while pulling" in ended.reason(drill.device)
        assert drill.at_rest(drill.device, drill.old) == before
        # What it has it can still serve, on a disk that is full.
        drill.run("systemctl restart muster-model@digits")
        drill.at_rest(drill.device, drill.old)
    finally:
        drill.fault("heal")
    drill.roll(heavy).expect(0, "committed")
    assert drill.answers() == "1.5"
    drill.roll(drill.old).expect(0, "committed")


# The clock jumps

# The machine's clock is every container's clock, and must stay as it is. What jumps is the time of
# day that the device program reads, in all that the controller and systemd start of it.
JUMPING = """#!/usr/bin/env python3
import runpy, sys, time
def shift():
    with open("/run/clock-shift") as file:
        return float(file.read())
now, gmtime, localtime = time.time, time.gmtime, time.localtime
strftime, clock_gettime = time.strftime, time.clock_gettime
time.time = lambda: now() + shift()
time.time_ns = lambda: int(time.time() * 1e9)
time.gmtime = lambda seconds=None: gmtime(time.time() if seconds is None else seconds)
time.localtime = lambda seconds=None: localtime(time.time() if seconds is None else seconds)
time.strftime = lambda form, at=None: strftime(form, time.localtime() if at is None else at)
time.clock_gettime = lambda clock: (
    time.time() if clock == time.CLOCK_REALTIME else clock_gettime(clock)
)
runpy.run_path(sys.argv[0] + ".real", run_name="__main__")
"""


def clock_jumps(drill: Drill, years: int, confirmed: bool) -> None:
    """A clock that jumps by a year neither ends an unconfirmed switch, nor keeps it."""
    jumping = shlex.quote(JUMPING)
    drill.run(
        f"echo 0 > /run/clock-shift; cp -p {PROGRAM} {PROGRAM}.real;"
        f" printf %s {jumping} > {PROGRAM}.new; chmod 755 {PROGRAM}.new;"
        f" mv {PROGRAM}.new {PROGRAM}"
    )
    try:
        clocks = {} if confirmed else SOON
        controller = drill.begin(drill.new, **clocks)
        controller.until(event="device", to="soaking")
        if not confirmed:
            controller.kill()
        before = _guard(drill)
        drill.run(f"echo {years * YEAR} > /run/clock-shift")
        after = _guard(drill)
        assert after["armed"]
        assert 0 <= before["remaining"] - after["remaining"] < 10
        if confirmed:
            controller.end().expect(0, "committed")
        else:
            begin = time.monotonic()
            drill.rest(seconds=after["remaining"] + 60)
            assert time.monotonic() - begin > after["remaining"] - 2
        model = drill.at_rest(drill.device, drill.new if confirmed else drill.old)
    finally:
        drill.run(f"mv {PROGRAM}.real {PROGRAM}")
    outcome = model["last_outcome"]
    assert outcome["outcome"] == ("confirmed" if confirmed else "reverted")
    # The program did see the other year.
    told = calendar.timegm(time.strptime(outcome["at"], "%Y-%m-%dT%H:%M:%SZ"))
    assert abs(told - time.time() - years * YEAR) < 600


def _guard(drill: Drill) -> dict[str, Any]:
    guard: dict[str, Any] = drill.site.device_state(drill.device)["guard"]
    return guard


for _years in (1, -1):
    _way = "forward" if _years > 0 else "back"
    for _confirmed in (True, False):
        _end = "a_switch_is_confirmed" if _confirmed else "the_guard_goes_back_in_its_time"
        _play = functools.partial(clock_jumps, years=_years, confirmed=_confirmed)
        TABLE.add(f"the_clock_jumps_a_year_{_way}_and_{_end}", _play)
