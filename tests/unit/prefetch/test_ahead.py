"""Filling the registries of a rollout's sites before its first wave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from test_choosing import HOST, ONE, OTHER, TWO, device, inventory, release

from muster.errors import MusterError
from muster.fleet.interface import Answer, Trouble, Verb
from muster.inventory import Inventory
from muster.prefetch.protecting import Protection
from muster.prefetch.sites import Filled, fill_ahead, needed, refuse_unsure
from muster.prefetch.working import Outcome
from muster.rollout import decide
from muster.rollout.machine import DeviceState, RolloutState
from muster.rollout.records import DeviceRecord, RolloutRecord, Snapshot
from muster.tasks import DEVICE

D = DeviceState
RELEASE = release(hw_a=ONE, hw_b=TWO)
CAM, SECOND = device("cam"), device("second", "site_y", "hw_b")


def snapshot(*records: DeviceRecord, model: str = "digits") -> Snapshot:
    rollout = RolloutRecord("r", "rollout", model, RELEASE.id, RELEASE.canonical, {}, "hosts.yml")
    return Snapshot(rollout, [], list(records))


PLANNED = (
    DeviceRecord("cam", 0, "hw_a"),
    DeviceRecord("second", 1, "hw_b"),
    DeviceRecord("strange", state=D.REJECTED),
)


class Filler:
    """Stands for the registries' hosts."""

    def __init__(self, **errors: str) -> None:
        self.errors = errors
        self.asked: Mapping[str | None, Sequence[str]] = {}

    def __call__(self, found: Inventory, wanted: Any, _told: Any) -> list[Filled]:
        self.asked = wanted
        hosts = {"site_x": "reg", "site_y": "other-reg"}
        return [
            Filled(
                site,
                tuple(images),
                Outcome(hosts[site], {"copied": [], "copied_bytes": 0}, self.errors.get(site, "")),
            )
            for site, images in wanted.items()
        ]


def ahead(filler: Filler, *records: DeviceRecord, **options: Any) -> Any:
    found = inventory(HOST, OTHER, CAM, SECOND)
    return fill_ahead(snapshot(*records, **options), found, fill=filler)


def test_every_site_gets_what_its_devices_are_still_to_take() -> None:
    filler = Filler()
    done = ahead(filler, *PLANNED)
    assert filler.asked == {"site_x": [ONE], "site_y": [TWO]}
    assert done.lacking == {}
    assert done.told == (
        "reg (site_x) had the image already",
        "other-reg (site_y) had the image already",
    )


def test_what_is_done_is_not_asked_for_again() -> None:
    records = (
        DeviceRecord("cam", 0, "hw_a", D.COMMITTED),
        DeviceRecord("second", 1, "hw_b", D.STAGING),
    )
    assert needed(snapshot(*records), RELEASE, [CAM, SECOND]) == {"site_y": [TWO]}


def test_a_registry_that_can_not_be_filled_is_told_and_remembered_for_its_devices() -> None:
    done = ahead(Filler(site_x="no such host"), *PLANNED)
    why = "reg (site_x) could not be filled: no such host"
    assert done.told[0] == why
    assert done.lacking == {"reg": why, "cam": why}


def test_a_task_and_a_site_without_registry_need_nothing() -> None:
    filler = Filler()
    assert ahead(filler, *PLANNED, model=DEVICE).told == ()
    assert fill_ahead(snapshot(*PLANNED), inventory(CAM), fill=filler).told == ()
    assert filler.asked == {}


def test_a_rollout_that_goes_back_fetches_nothing() -> None:
    filler, going_back = Filler(), snapshot(*PLANNED)
    going_back.rollout.state = RolloutState.ROLLING_BACK
    assert fill_ahead(going_back, inventory(HOST, CAM), fill=filler).told == ()
    assert filler.asked == {}


def test_how_much_was_copied_is_told() -> None:
    result = {"copied": [ONE], "copied_bytes": 3 << 20}
    filled = Filled("site_x", (ONE, TWO), Outcome("reg", result, seconds=1.5))
    assert filled.text == "reg (site_x): 1 of 2 images copied, 3 MiB in 1.5 s"


@pytest.mark.parametrize(
    ("lacks", "code", "state", "failed"),
    [
        ("", "pull_failed", D.REJECTED, True),
        ("not filled", "pull_failed", D.DEFERRED, False),
        ("not filled", "registry_unreachable", D.DEFERRED, False),
        ("not filled", "bad_signature", D.REJECTED, True),
        ("not filled", "no_space", D.REJECTED, True),
    ],
)
def test_a_device_whose_registry_was_not_filled_is_not_to_blame(
    lacks: str, code: str, state: DeviceState, failed: bool
) -> None:
    answer = Answer("cam", Verb.STAGE, trouble=Trouble.REFUSED, code=code, message="unknown")
    found = decide.after_stage(answer, "defer", lacks)
    assert (found.state, found.failed) == (state, failed)
    if lacks and code == "pull_failed":
        assert found.reason == "not filled; unknown"


def test_clearing_refuses_where_nobody_can_tell() -> None:
    refuse_unsure("site_x", Protection(frozenset(), {}))
    with pytest.raises(MusterError) as caught:
        refuse_unsure("site_x", Protection(frozenset(), {"cam": "timed out"}))
    assert "cam: timed out" in str(caught.value)
    assert "--force" in str(caught.value)
