"""The program is killed at every checkpoint of every subcommand, and what follows must heal it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from device_stand_ins import (
    REGISTRY,
    Device,
    ModelServer,
    Release,
    device,
    killed_at,
    seen_checkpoints,
)

MakeDevice = Callable[[], Device]
Action = Callable[[], Any]
WAYS = [(False, "recreate"), (True, "recreate"), (True, "blue_green")]


class Scene:
    """A device that serves 1.0 for good, and 2.0 staged beside it."""

    def __init__(self, dev: Device) -> None:
        self.dev = dev
        self.old, self.new = dev.release("1.0"), dev.release("2.0")
        if not dev.state.exists():
            dev.roll_out(self.old, 1)
            dev.stage(self.new)

    def switch(self) -> Any:
        return self.dev.call("switch", **self.dev.switch_document(self.new, 2))

    def confirm(self) -> Any:
        return self.dev.call("confirm", generation=2, rollout="r2", retain=0)

    def revert(self) -> Any:
        document = {"generation": 2, "rollout": "r2", "to": None, "reason": "gate"}
        return self.dev.call("revert", **document)

    def phase(self) -> str:
        return str(device.Store(str(self.dev.state.parent), "digits").load().phase)


@pytest.fixture(
    scope="module", params=WAYS, ids=lambda way: f"{'proxy' if way[0] else 'no proxy'}, {way[1]}"
)
def way(request: pytest.FixtureRequest) -> tuple[bool, str]:
    """Whether the device has the proxy, and how it switches."""
    return request.param


@pytest.fixture(scope="module")
def template(
    tmp_path_factory: pytest.TempPathFactory, server: ModelServer, way: tuple[bool, str]
) -> Path:
    """The files of a scene, made once."""
    root = tmp_path_factory.mktemp("template") / "device"
    Scene(Device(root, server, None, *way))
    return root


@pytest.fixture
def make_device(
    tmp_path: Path, server: ModelServer, template: Path, way: tuple[bool, str]
) -> MakeDevice:
    """Make one device after the other; only the latest one's model answers."""
    numbers = count(1)
    return lambda: Device(tmp_path / f"device-{next(numbers)}", server, template, *way)


def kills(make: MakeDevice, prepare: Callable[[Scene], Action]) -> Iterator[tuple[Scene, Action]]:
    """One scene for every checkpoint of an action, in which it was killed there."""
    for number in count(1):
        scene = Scene(make())
        action = prepare(scene)
        served = scene.dev.answer()
        if not killed_at(number, action):
            assert number > 2
            return
        # Whatever happened, there is something to start, and it is one of the two.
        assert scene.dev.link("current") in (scene.old.id, scene.new.id)
        assert scene.dev.link("last_good") in (scene.old.id, scene.new.id)
        if served and scene.dev.mode == "blue_green":
            assert scene.dev.answer() in (scene.old.id, scene.new.id), "at no point a gap"
        yield scene, action


def assert_nothing_more_to_do(dev: Device) -> None:
    dev.model()
    before = dev.snapshot()
    assert dev.guard() is None
    assert dev.boot()["ok"]
    dev.model()
    assert dev.snapshot() == before


# What a device may be left to


def by_guard(dev: Device) -> None:
    """The guard comes by, in time or late."""
    dev.guard()
    dev.clock.offset += 1000
    dev.guard()


def by_boot(dev: Device) -> None:
    dev.power_cut()
    assert dev.boot()["ok"]


def by_boot_then_guard(dev: Device) -> None:
    by_boot(dev)
    by_guard(dev)


def by_inspect(dev: Device) -> None:
    assert dev.model()["phase"] == "idle"


HEALERS = [by_guard, by_boot]


@pytest.mark.parametrize("heal", [*HEALERS, by_boot_then_guard])
def test_a_killed_switch_always_ends_on_the_old_release(
    make_device: MakeDevice, heal: Callable[[Device], None]
) -> None:
    for scene, _ in kills(make_device, lambda scene: scene.switch):
        heal(scene.dev)
        scene.dev.assert_rests_on(scene.old)
        assert scene.dev.model()["last_outcome"]["outcome"] in ("reverted", "cancelled")
        assert_nothing_more_to_do(scene.dev)


def test_a_killed_switch_can_be_repeated(make_device: MakeDevice) -> None:
    for scene, switch in kills(make_device, lambda scene: scene.switch):
        answer = switch()
        assert answer["ok"], answer
        assert answer["ready"]
        assert scene.dev.link("current") == scene.new.id
        assert scene.dev.link("previous") == scene.old.id
        assert scene.dev.model()["guard"]["armed"]
        before = scene.dev.snapshot()
        assert switch()["ready"]
        assert scene.dev.snapshot() == before
        scene.dev.confirm(2)
        scene.dev.assert_rests_on(scene.new)
        assert_nothing_more_to_do(scene.dev)


def test_a_killed_switch_whose_time_is_over_does_not_go_on(make_device: MakeDevice) -> None:
    for scene, switch in kills(make_device, lambda scene: scene.switch):
        phase = scene.phase()
        scene.dev.clock.offset += 1000
        answer = switch()
        if phase == "switching":
            assert answer["error"]["code"] == "unfinished_switch"
        scene.dev.guard()
        if phase != "arming":  # nothing was touched: that one began anew, with a time of its own
            scene.dev.assert_rests_on(scene.old)


def test_a_killed_switch_is_undone_by_command(make_device: MakeDevice) -> None:
    for scene, _ in kills(make_device, lambda scene: scene.switch):
        assert scene.revert()["ok"]
        scene.dev.assert_rests_on(scene.old)
        assert_nothing_more_to_do(scene.dev)


def test_inspect_cleans_up_before_the_switch_and_keeps_the_guard_going(
    make_device: MakeDevice,
) -> None:
    for scene, _ in kills(make_device, lambda scene: scene.switch):
        phase = scene.phase()
        model = scene.dev.model()
        if phase == "arming":
            scene.dev.assert_rests_on(scene.old)
            assert model["last_outcome"]["outcome"] == "cancelled"
        elif phase in device.UNCONFIRMED:
            assert model["phase"] == phase
            assert model["guard"]["armed"]


@pytest.mark.parametrize("heal", [*HEALERS, by_inspect])
def test_a_killed_confirm_is_either_finished_or_never_was(
    make_device: MakeDevice, heal: Callable[[Device], None]
) -> None:
    def prepare(scene: Scene) -> Action:
        assert scene.switch()["ready"]
        return scene.confirm

    for scene, _ in kills(make_device, prepare):
        # The first checkpoint lies behind the step that decides.
        assert scene.phase() in ("confirming", "idle")
        heal(scene.dev)
        scene.dev.assert_rests_on(scene.new)
        assert scene.dev.model()["last_outcome"]["outcome"] == "confirmed"
        assert_nothing_more_to_do(scene.dev)


def test_a_killed_confirm_can_be_repeated(make_device: MakeDevice) -> None:
    def prepare(scene: Scene) -> Action:
        third = scene.dev.release("0.9")
        scene.dev.stage(third)
        assert scene.switch()["ready"]
        return scene.confirm

    for scene, confirm in kills(make_device, prepare):
        answer = confirm()
        assert answer["ok"], answer
        assert answer["last_good"] == scene.new.id
        scene.dev.assert_rests_on(scene.new)
        scene.dev.ok("prune", retain=0)
        assert sorted(scene.dev.model()["releases"]) == sorted([scene.old.id, scene.new.id])
        images = {f"{REGISTRY}/{release.image}" for release in (scene.old, scene.new)}
        assert set(scene.dev.world.read()["images"]) == images
        assert_nothing_more_to_do(scene.dev)


def by_command(dev: Device) -> None:
    dev.revert(2)


@pytest.mark.parametrize(
    ("heal", "sick"),
    [(by_guard, False), (by_guard, True), (by_boot, False), (by_command, False)],
)
def test_a_killed_revert_is_finished(
    make_device: MakeDevice, heal: Callable[[Device], None], sick: bool
) -> None:
    def prepare(scene: Scene) -> Action:
        if sick:
            with scene.dev.world.change() as content:
                content["sick"] = [scene.new.id]
        assert scene.switch()["ready"] is not sick
        return scene.revert

    for scene, _ in kills(make_device, prepare):
        heal(scene.dev)
        scene.dev.assert_rests_on(scene.old)
        assert scene.dev.model()["last_outcome"]["outcome"] == "reverted"
        assert_nothing_more_to_do(scene.dev)


@pytest.mark.parametrize("heal", [*HEALERS, None])
def test_a_killed_return_of_a_confirmed_device_is_finished(
    make_device: MakeDevice, heal: Callable[[Device], None] | None
) -> None:
    def prepare(scene: Scene) -> Action:
        scene.switch()
        scene.confirm()
        return lambda: scene.dev.revert(2, to=scene.old.id)

    for scene, take_back in kills(make_device, prepare):
        (lambda _: take_back())(None) if heal is None else heal(scene.dev)
        scene.dev.assert_rests_on(scene.old)
        assert scene.dev.model()["last_outcome"]["outcome"] == "reverted"
        assert_nothing_more_to_do(scene.dev)


@pytest.mark.parametrize("heal", HEALERS)
def test_a_boot_that_is_cut_again_still_goes_back(
    make_device: MakeDevice, heal: Callable[[Device], None]
) -> None:
    def prepare(scene: Scene) -> Action:
        assert scene.switch()["ready"]
        scene.dev.power_cut()
        return scene.dev.boot

    for scene, _ in kills(make_device, prepare):
        heal(scene.dev)
        if heal is by_guard:
            # The cut came after all was done but the start of the unit, or the guard did it.
            assert scene.dev.boot()["ok"]
        scene.dev.assert_rests_on(scene.old)
        assert_nothing_more_to_do(scene.dev)


def test_a_killed_stage_can_be_repeated(make_device: MakeDevice) -> None:
    def prepare(scene: Scene) -> Action:
        third = scene.dev.release("3.0")
        return lambda: scene.dev.stage(third)

    for scene, stage in kills(make_device, prepare):
        answer = stage()
        assert answer["staged"]
        assert scene.dev.world.read()["images"][-1] == answer["image"]
        assert len(scene.dev.model()["releases"]) == 3
        scene.dev.assert_rests_on(scene.old)
        assert stage()["already"]
        assert_nothing_more_to_do(scene.dev)


@pytest.mark.parametrize("heal", [by_boot, by_inspect])
def test_a_killed_stage_leaves_nothing_half_written(
    make_device: MakeDevice, heal: Callable[[Device], None]
) -> None:
    def prepare(scene: Scene) -> Action:
        third = scene.dev.release("3.0")
        return lambda: scene.dev.stage(third)

    for scene, _ in kills(make_device, prepare):
        heal(scene.dev)
        scene.dev.assert_rests_on(scene.old)
        # The image is here exactly if a release needs it.
        assert len(scene.dev.world.read()["images"]) == len(scene.dev.model()["releases"])
        assert_nothing_more_to_do(scene.dev)


@pytest.mark.parametrize("heal", HEALERS)
def test_a_killed_first_switch_leaves_nothing_running(
    tmp_path: Path, server: ModelServer, way: tuple[bool, str], heal: Callable[[Device], None]
) -> None:
    for number in count(1):
        dev = Device(tmp_path / str(number), server, None, *way)
        release = dev.release("1.0")
        dev.stage(release)
        if not killed_at(number, lambda dev=dev, release=release: dev.switch(release, 1)):
            break
        heal(dev)
        dev.assert_rests_on(None)
        assert_nothing_more_to_do(dev)


def test_every_step_has_a_checkpoint(dev: Device) -> None:
    scene = Scene(dev)
    third: Release = scene.dev.release("3.0")
    assert seen_checkpoints(lambda: scene.dev.stage(third)) == [
        "stage:written",
        "stage:pulled",
        "stage:published",
    ]
    assert seen_checkpoints(scene.switch) == [
        "switch:arming",
        "switch:guarded",
        "switch:created",
        "switch:switching",
        "switch:previous",
        "switch:current",
        "switch:stopped",
        "switch:started",
        "switch:switched",
    ]
    assert seen_checkpoints(scene.confirm) == [
        "confirm:confirming",
        "confirm:last_good",
        "prune:container",
        "prune:gone",
        "prune:image",
        "prune:dropped",
        "confirm:idle",
    ]
    assert scene.dev.switch(scene.old, 3)["ready"]
    assert seen_checkpoints(lambda: scene.dev.revert(3)) == [
        "revert:reverting",
        "revert:guarded",
        "revert:current",
        "revert:previous",
        "revert:stopped",
        "revert:started",
        "revert:last_good",
        "revert:idle",
    ]
