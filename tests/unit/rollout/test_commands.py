"""The commands, over simulated devices: what they print and how they exit."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from drill import Drill, bad, make_release, strategy

from muster.cli import run
from muster.fleet.interface import Fleet
from muster.fleet.simulated import Quality, SimulatedFleet
from muster.rollout import controller
from muster.rollout.journal import Journal, open_journal


class Desk:
    """An inventory, documents and a journal in a folder, and the simulated devices behind them."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.drill = Drill(Journal("sqlite://"))
        self.fleet = SimulatedFleet(self.drill.devices(4))
        monkeypatch.setenv("MUSTER_JOURNAL", f"sqlite:///{folder / 'journal.sqlite'}")
        monkeypatch.setenv("MUSTER_CACHE_DIR", str(folder / "cache"))
        inventory = folder / "hosts.yml"
        hosts = "".join(
            f"            {n}: {{ansible_host: 127.0.0.1}}\n" for n in self.fleet.devices
        )
        inventory.write_text(
            "all:\n  children:\n    site_x:\n      children:\n        hw_a:\n"
            f"          hosts:\n{hosts}"
        )
        monkeypatch.setenv("MUSTER_INVENTORY", str(inventory))
        self.release = self.document(folder / "release.yml", make_release())
        self.strategy = self.document(folder / "strategy.yml", strategy())
        self.folder = folder

        @contextmanager
        def connected(_devices: object, **_options: object) -> Iterator[Fleet]:
            yield self.fleet

        monkeypatch.setattr(controller, "connected_fleet", connected)

    @staticmethod
    def document(path: Path, value: object) -> Path:
        path.write_text(json.dumps(value.model_dump(mode="json", exclude_none=True)))  # type: ignore[attr-defined]
        return path

    def rollout(self, *arguments: str) -> int:
        return run(["rollout", str(self.release), "-s", str(self.strategy), *arguments])


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    return Desk(tmp_path, monkeypatch)


Output = pytest.CaptureFixture[str]


def test_plan_shows_waves_and_touches_nothing(desk: Desk, capsys: Output) -> None:
    assert run(["plan", str(desk.release), "-s", str(desk.strategy)]) == 0
    out = capsys.readouterr().out
    assert "d0000" in out
    assert "1.0-" in out
    assert {d.generation for d in desk.fleet.devices.values()} == {1}
    assert run(["plan", str(desk.release), "-s", str(desk.strategy), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [len(wave["devices"]) for wave in document["waves"]] == [1, 2, 1]
    assert run(["history", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_rollout_prints_lines_and_then_figures(desk: Desk, capsys: Output) -> None:
    assert desk.rollout("--yes") == 0
    out = capsys.readouterr().out
    assert "succeeded" in out
    assert "committed" in out
    assert "at most 5 SSH commands on a device" in out


def test_rollout_prints_events_as_json(desk: Desk, capsys: Output) -> None:
    assert desk.rollout("--json") == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {e["event"] for e in events} == {"rollout", "wave", "device", "answer", "gate", "result"}
    assert events[-1]["exit_code"] == 0
    assert {d["state"] for d in events[-1]["devices"]} == {"committed"}


def test_a_bad_release_exits_3_and_junit_says_why(desk: Desk, capsys: Output) -> None:
    desk.fleet._quality = bad(desk.drill.release, Quality.WRONG)
    junit = desk.folder / "junit.xml"
    assert desk.rollout("--yes", "--junit", str(junit)) == 3
    root = ElementTree.parse(junit).getroot()
    assert [suite.attrib["failures"] for suite in root] == ["1", "0", "0"]
    assert [suite.attrib["skipped"] for suite in root] == ["0", "2", "1"]
    failure = root.find(".//failure")
    assert failure is not None
    assert "live" in failure.attrib["message"]
    assert "rolled back" in capsys.readouterr().out


def test_a_paused_rollout_says_how_to_go_on_and_does(desk: Desk, capsys: Output) -> None:
    desk.document(desk.strategy, strategy(failure_budget={"on_breach": "pause"}))
    desk.fleet._quality = lambda device, release: (
        Quality.WRONG if device == "d0000" and release == desk.drill.release.id else Quality.GOOD
    )
    assert desk.rollout("--yes") == 5
    assert "muster resume" in capsys.readouterr().out
    assert run(["resume"]) == 3  # the rest got it; one device was rolled back
    assert run(["resume"]) == 1
    assert "no rollout is unfinished" in capsys.readouterr().err


def test_a_refused_controller_leaves_no_rollout_behind(desk: Desk, capsys: Output) -> None:
    with open_journal() as journal:
        other = desk.drill.prepare(desk.fleet, strategy()).rollout
        lease = journal.acquire(other, list(desk.fleet.devices))
        assert desk.rollout("--yes") == 1
        assert other.id in capsys.readouterr().err
        assert journal.rollouts() == []
        journal.release(lease)


def test_a_newer_rollout_takes_the_place_of_a_paused_one(desk: Desk, capsys: Output) -> None:
    desk.document(desk.strategy, strategy(failure_budget={"on_breach": "pause"}))
    desk.fleet._quality = bad(desk.drill.release, Quality.WRONG)
    assert desk.rollout("--yes") == 5
    desk.document(desk.release, make_release("3.0"))
    assert desk.rollout("--yes") == 0
    capsys.readouterr()
    assert run(["history", "--json"]) == 0
    newest, oldest = json.loads(capsys.readouterr().out)
    assert (newest["state"], oldest["state"]) == ("succeeded", "superseded")
    assert newest["rollout"] in oldest["reason"]
    assert run(["resume"]) == 1  # nothing is unfinished


def test_status_tells_what_every_device_runs(desk: Desk, capsys: Output) -> None:
    assert desk.rollout("--yes") == 0
    capsys.readouterr()
    assert run(["status"]) == 0
    assert desk.drill.release.id in capsys.readouterr().out
    desk.fleet.devices["d0002"].reachable = False
    assert run(["status", "--json"]) == 1
    rows = {row["device"]: row for row in json.loads(capsys.readouterr().out)["devices"]}
    assert not rows["d0002"]["reachable"]
    assert rows["d0001"]["release"] == desk.drill.release.id


def test_history_lists_rollouts_and_tells_one(desk: Desk, capsys: Output) -> None:
    assert desk.rollout("--yes") == 0
    capsys.readouterr()
    assert run(["history", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert run(["history"]) == 0
    assert row["rollout"] in capsys.readouterr().out
    assert run(["history", row["rollout"], "--device", "d0001", "--json"]) == 0
    events = json.loads(capsys.readouterr().out)["events"]
    assert {event["device"] for event in events} == {"d0001"}


def test_rollback_goes_to_what_ran_before_at_once(desk: Desk, capsys: Output) -> None:
    old, new = make_release("1.5"), desk.drill.release
    desk.document(desk.release, old)
    assert desk.rollout("--yes") == 0
    desk.document(desk.release, new)
    assert desk.rollout("--yes") == 0
    assert run(["rollback", "--yes", "-s", str(desk.strategy)]) == 0
    assert {d.current for d in desk.fleet.devices.values()} == {old.id}
    assert {d.last_good for d in desk.fleet.devices.values()} == {old.id}
    capsys.readouterr()
    assert run(["rollback", "--yes", "--to", "1.5"]) == 2
    assert "nothing to go back to" in capsys.readouterr().err
    assert run(["rollback", "--yes", "--to", "9.9"]) == 2
    assert "expected one known release" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("break_it", "arguments", "message"),
    [
        (lambda d: d.release.write_text("kind: Release"), [], "release.yml"),
        (lambda d: d.strategy.write_text("waves: 3"), [], "strategy.yml"),
        (lambda d: d.release.unlink(), [], "release.yml"),
        (lambda d: None, ["--limit", "nobody"], "nobody"),
        (lambda d: None, ["--inventory", "/nonexistent"], "/nonexistent"),
    ],
)
def test_bad_input_is_exit_2_before_any_device_is_asked(
    desk: Desk,
    capsys: Output,
    break_it: Callable[[Desk], object],
    arguments: list[str],
    message: str,
) -> None:
    break_it(desk)
    assert desk.rollout("--yes", *arguments) == 2
    assert message in capsys.readouterr().err
    assert not desk.fleet.commands


@pytest.mark.parametrize(
    "url", ["nonsense", "nosuch://x", "sqlite:////nonexistent/j.db", "sqlite:///{release}"]
)
def test_an_unusable_journal_is_exit_2(desk: Desk, capsys: Output, url: str) -> None:
    assert desk.rollout("--yes", "--journal", url.format(release=desk.release)) == 2
    assert "error: journal" in capsys.readouterr().err


def test_the_password_of_a_journal_is_not_told(desk: Desk, capsys: Output) -> None:
    assert run(["history", "--journal", "nosuch://somebody:geheim@db/muster"]) == 2
    assert "geheim" not in capsys.readouterr().err


def test_a_report_that_cannot_be_written_is_found_out_before(desk: Desk, capsys: Output) -> None:
    assert desk.rollout("--yes", "--junit", str(desk.folder)) == 2
    assert "Is a directory" in capsys.readouterr().err
    assert not desk.fleet.commands


def test_no_device_for_the_release_is_exit_2(desk: Desk, capsys: Output) -> None:
    image = {"image": "models/digits@sha256:" + "c" * 64}
    desk.document(desk.release, make_release(variants={"hw_other": image}))
    assert desk.rollout("--yes") == 2
    assert "no variant for hw_a" in capsys.readouterr().err


def test_help_tells_the_exit_codes(capsys: Output) -> None:
    assert run(["--help"]) == 0
    assert "3 rolled back" in capsys.readouterr().out


def test_devices_that_run_nothing_need_a_word_of_the_operator(desk: Desk, capsys: Output) -> None:
    device = desk.fleet.devices["d0001"]
    device.current = device.last_good = None
    assert desk.rollout("--yes") == 2
    assert "--accept-no-rollback" in capsys.readouterr().err
    assert {d.generation for d in desk.fleet.devices.values()} == {1}
    with open_journal() as journal:
        assert journal.rollouts() == []
    assert desk.rollout("--yes", "--accept-no-rollback") == 0
    assert device.current == desk.drill.release.id


def test_a_quarantined_device_is_left_alone_until_a_person_says_so(
    desk: Desk, capsys: Output
) -> None:
    desk.document(desk.strategy, strategy(failure_budget={"max_failed": 4}))
    broken = desk.fleet.devices["d0000"]
    broken.broken.add(desk.drill.old.id)
    desk.fleet._quality = lambda device, release: (
        Quality.WRONG if device == "d0000" and release == desk.drill.release.id else Quality.GOOD
    )
    assert desk.rollout("--yes") == 4
    generation = broken.generation
    for version in ("3.0", "4.0"):  # not forgotten after one rollout that left it alone
        desk.document(desk.release, make_release(version))
        capsys.readouterr()
        assert desk.rollout("--yes") == 0
        assert "quarantined by rollout" in capsys.readouterr().out
        assert broken.generation == generation
    assert desk.rollout("--yes", "--include-quarantined") == 0
    assert broken.current == make_release("4.0").id
    desk.document(desk.release, make_release("5.0"))
    assert desk.rollout("--yes") == 0
    assert broken.current == make_release("5.0").id


@pytest.mark.usefixtures("desk")
@pytest.mark.parametrize("model", ["@device", "../x", ""])
@pytest.mark.parametrize(
    "command", [["rollback", "--to", "reset-0123456789ab"], ["catch-up"], ["status"]]
)
def test_what_is_no_model_has_no_releases(capsys: Output, command: list[str], model: str) -> None:
    # tasks stand in the journal under a name of their own
    assert run([*command, "--model", model]) == 2
    assert "expected the name of a model, such as digits" in capsys.readouterr().err


def test_catch_up_takes_a_deferred_device_over_the_releases_between(
    desk: Desk, capsys: Output
) -> None:
    two = make_release("2.0", requires_from=["1.0"])
    three = make_release("3.0", requires_from=["2.0"])
    desk.document(desk.strategy, strategy(failure_budget={"max_unreachable": "100%"}))
    late = desk.fleet.devices["d0003"]
    late.reachable = False
    for release in (two, three):
        desk.document(desk.release, release)
        assert desk.rollout("--yes") == 6
    capsys.readouterr()
    assert run(["catch-up", "--yes"]) == 6  # away still
    assert "still out of reach: d0003" in capsys.readouterr().out
    late.reachable = True
    assert run(["catch-up", "--yes"]) == 0
    assert (late.previous, late.current) == (two.id, three.id)
    assert run(["history"]) == 0
    assert "catch-up by" in " ".join(capsys.readouterr().out.split())
    generation = late.generation
    assert run(["catch-up", "--yes"]) == 0
    assert late.generation == generation
    assert "no device is left behind" in capsys.readouterr().out


def _left_behind_at_two_and_at_one(desk: Desk) -> None:
    """d0002 has to take 3.0, d0003 has to take 2.0 before it; both are back."""
    desk.document(desk.strategy, strategy(failure_budget={"max_unreachable": "100%"}))
    image = {"image": "models/digits@sha256:" + "2" * 64, "requires": {"arch": ["amd64"]}}
    two = make_release("2.0", requires_from=["1.0"], variants={"hw_a": image})
    three = make_release("3.0", requires_from=["2.0"])
    for release, away in ((two, ["d0003"]), (three, ["d0002", "d0003"])):
        for device in desk.fleet.devices.values():
            device.reachable = device.name not in away
        desk.document(desk.release, release)
        assert desk.rollout("--yes") == 6
    for device in desk.fleet.devices.values():
        device.reachable = True


def test_a_device_that_can_not_be_caught_up_does_not_hold_up_the_others(
    desk: Desk, capsys: Output
) -> None:
    _left_behind_at_two_and_at_one(desk)
    desk.fleet.devices["d0003"].arch = "riscv64"
    capsys.readouterr()
    assert run(["catch-up", "--yes"]) == 1
    told = capsys.readouterr()
    assert "d0003" in told.out + told.err
    assert "riscv64" in told.out + told.err
    assert desk.fleet.devices["d0002"].current == make_release("3.0", requires_from=["2.0"]).id


def test_a_catch_up_that_was_paused_takes_no_further_step(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    _left_behind_at_two_and_at_one(desk)
    drive = controller.drive

    def interrupted(*arguments: object, **options: object) -> object:
        options["on_engine"] = lambda engine: engine.stop("stopped by the operator")
        return drive(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(controller, "drive", interrupted)
    assert run(["catch-up", "--yes"]) == 5
    with open_journal() as journal:
        assert [record.kind for record in journal.rollouts()].count("catch_up") == 1


@pytest.mark.parametrize("name", ["[bold]all[/bold]", "north [/b]", ":warning:"])
def test_names_of_waves_are_shown_as_they_are(desk: Desk, capsys: Output, name: str) -> None:
    desk.document(desk.strategy, strategy(waves=[{"size": "rest", "name": name}]))
    assert run(["plan", str(desk.release), "-s", str(desk.strategy)]) == 0
    assert name in capsys.readouterr().out
    assert desk.rollout("--yes") == 0
    assert f"wave 1 ({name}): 4 devices" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["abort", "reject"])
def test_an_end_that_could_not_be_begun_is_not_kept_for_a_later_resume(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: Output, command: str
) -> None:
    desk.document(desk.strategy, strategy(waves=[{"size": 1}, {"size": "rest", "approval": True}]))
    assert desk.rollout("--yes") == 5
    hosts = desk.folder / "hosts.yml"
    text = hosts.read_text()
    hosts.write_text(text.replace("d0003", "d0004"))
    capsys.readouterr()
    assert run([command]) == 2
    assert "not in the inventory any more: d0003" in " ".join(capsys.readouterr().err.split())
    hosts.write_text(text)
    assert run(["approve"]) == 0
    assert run(["resume"]) == 0


def test_reasons_are_text_that_may_be_shown(desk: Desk) -> None:
    desk.document(desk.strategy, strategy(waves=[{"size": "rest", "approval": True}]))
    assert desk.rollout("--yes") == 5
    assert run(["reject", "-r", "bad \udcff\x1b[2J figures"]) == 1
    with open_journal() as journal:
        (rollout,) = journal.rollouts()
    assert rollout.reason.endswith(": bad   [2J figures")
