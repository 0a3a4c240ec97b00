"""Nothing that a device may go back to is ever cleared from its site's registry."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from release_documents import release_document

from muster.prefetch.choosing import digest_in, images_of
from muster.prefetch.protecting import Protection, Remembered, protect
from muster.release import Release
from muster.rollout.machine import DeviceState, RolloutState
from muster.rollout.records import DeviceRecord, RolloutRecord

D, R = DeviceState, RolloutState


def release(number: int) -> Release:
    images = {
        f"hw_{name}": {"image": f"models/digits@sha256:{name}{number:063x}"} for name in ("a", "b")
    }
    return Release.model_validate(release_document(version=f"1.{number}", variants=images))


RELEASES = [release(number) for number in range(8)]


def digests(*numbers: int) -> set[str]:
    return {digest_in(image) for number in numbers for image in images_of(RELEASES[number])}


def rollout(number: int, state: RolloutState = R.SUCCEEDED, name: str = "") -> RolloutRecord:
    found = RELEASES[number]
    return RolloutRecord(
        name or f"r{number}",
        "rollout",
        found.model,
        found.id,
        found.canonical,
        {},
        "hosts.yml",
        state,
    )


def holding(*numbers: int) -> dict[str, Any]:
    return {
        "images": [
            f"registry.example:5000/{RELEASES[number].variants['hw_a'].image}" for number in numbers
        ]
    }


def test_what_a_device_names_stays() -> None:
    found = protect({"cam": holding(1, 2)}, Remembered())
    assert found == Protection(frozenset(d for d in digests(1, 2) if d.startswith("sha256:a")), {})


def test_a_device_out_of_reach_keeps_all_that_it_was_ever_given() -> None:
    record = DeviceRecord("cam", state=D.COMMITTED, previous=RELEASES[0].id)
    rejected = DeviceRecord("cam", state=D.REJECTED)
    history = ((rollout(3), rejected), (rollout(2), DeviceRecord("cam", state=D.ROLLED_BACK)))
    history += ((rollout(1), record),)
    rollouts = (rollout(7), rollout(3, R.ABORTED), *(rollout(n) for n in (2, 1, 0)))
    found = protect({"cam": "timed out"}, Remembered(rollouts, {"cam": history}))
    assert found.digests == digests(0, 1, 2, 7)  # 7 is the newest that ended well
    assert not found.unsure


def test_a_device_that_nobody_knows_anything_of_stops_it() -> None:
    found = protect({"cam": "timed out"}, Remembered())
    assert found.unsure == {"cam": "timed out; and it was in no rollout of this journal"}


def test_an_older_device_program_stops_it() -> None:
    history = ((rollout(1), DeviceRecord("cam", state=D.COMMITTED)),)
    found = protect({"cam": {"model": None}}, Remembered((), {"cam": history}))
    assert "provision it" in found.unsure["cam"]
    assert found.digests == digests(1)  # where it goes on all the same


def test_what_is_on_its_way_stays() -> None:
    under_way = rollout(4, R.PAUSED)
    seen = {"cam": holding()}
    assert protect(seen, Remembered((under_way, rollout(3, R.ABORTED)))).digests == digests(4)
    record = DeviceRecord("cam", state=D.LOST)
    remembered = Remembered((rollout(3, R.ABORTED),), {"cam": ((rollout(3, R.ABORTED), record),)})
    assert protect(seen, remembered).digests == digests(3)


def test_what_devices_that_were_away_catch_up_to_stays() -> None:
    rollouts = tuple(rollout(n, state) for n, state in ((5, R.ROLLED_BACK), (4, R.SUCCEEDED)))
    assert protect({}, Remembered((*rollouts, rollout(3)))).digests == digests(4)


NUMBERS = st.integers(0, len(RELEASES) - 1)
RECORDS = st.builds(
    lambda number, state, previous: (
        rollout(number, R.ABORTED),
        DeviceRecord("d", state=state, previous=RELEASES[previous].id),
    ),
    NUMBERS,
    st.sampled_from(list(D)),
    NUMBERS,
)


@given(
    st.dictionaries(
        st.sampled_from("abcd"),
        st.tuples(st.none() | st.lists(NUMBERS, max_size=4), st.lists(RECORDS, max_size=4)),
    ),
    st.lists(st.tuples(NUMBERS, st.sampled_from(list(R))), max_size=5),
)
def test_whatever_a_device_can_go_back_to_stays_or_it_is_said(
    devices: dict[str, tuple[list[int] | None, list[Any]]], rollouts: list[tuple[int, RolloutState]]
) -> None:
    remembered = Remembered(
        tuple(rollout(number, state) for number, state in rollouts),
        {name: tuple(history) for name, (_, history) in devices.items()},
    )
    seen = {
        name: "out of reach" if held is None else holding(*held)
        for name, (held, _) in devices.items()
    }
    found = protect(seen, remembered)
    for name, (held, history) in devices.items():
        if held is not None:
            names = [digest_in(image) for image in seen[name]["images"]]  # type: ignore[index]
            assert found.digests.issuperset(names)
        else:
            given_to = {r.release_id for r, record in history if record.state is D.COMMITTED}
            known = [n for n, each in enumerate(RELEASES) if each.id in given_to]
            assert found.digests >= digests(*known)
            assert (name in found.unsure) == (not history)
