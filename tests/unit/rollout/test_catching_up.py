"""The way of a device that was left behind to the newest release that it may take."""

from __future__ import annotations

import pytest
from drill import make_release
from hypothesis import given
from hypothesis import strategies as st

from muster.release import Release, may_follow
from muster.rollout.catching_up import way_to_newest


def history(*releases: tuple[str, list[str]]) -> list[Release]:
    """Releases, newest first, by version and what they require."""
    return [make_release(version, requires_from=needs) for version, needs in releases]


def way(current: str | None, releases: list[Release], without: str = "") -> list[str]:
    """Versions on the way; a device takes every release but the version ``without``."""
    ids = {release.version: release.id for release in releases}
    found = way_to_newest(
        ids.get(current or "", current), releases, lambda release: release.version != without
    )
    versions = {release.id: release.version for release in releases}
    return [versions[name] for name in found]


FREE = history(("4", []), ("3", []), ("2", []), ("1", []))
STEPS = history(("4", ["3"]), ("3", ["2"]), ("2", ["1"]), ("1", []))
FORK = history(("5", ["4", "3"]), ("4", ["2"]), ("3", ["1"]), ("2", ["1"]), ("1", []))
JUMP = history(("4", ["2"]), ("3", []), ("2", []), ("1", []))


@pytest.mark.parametrize(
    ("current", "releases", "expected"),
    [
        # Nothing is required: straight to the newest.
        ("1", FREE, ["4"]),
        ("4", FREE, []),
        (None, FREE, ["4"]),
        ("0.9-0123456789ab", FREE, ["4"]),
        # Every release requires the one before.
        ("1", STEPS, ["2", "3", "4"]),
        ("3", STEPS, ["4"]),
        ("4", STEPS, []),
        (None, STEPS, ["4"]),
        # Unknown here: over the oldest, which anything may become.
        ("0.9-0123456789ab", STEPS, ["1", "2", "3", "4"]),
        # What the newest does not ask for is left out.
        ("1", JUMP, ["2", "4"]),
        ("1", FORK, ["3", "5"]),  # of two ways the shorter
        # The newest can't be reached any more without going back: it stays where it is.
        ("3", JUMP, []),
        ("1", history(("3", ["0.5"]), ("2", []), ("1", [])), ["2"]),
        ("1", [], []),
    ],
)
def test_the_way(current: str | None, releases: list[Release], expected: list[str]) -> None:
    assert way(current, releases) == expected


def test_releases_without_a_variant_for_the_device_are_not_on_its_way() -> None:
    assert way("1", FREE, without="4") == ["3"]
    assert way("1", STEPS, without="3") == ["2"]
    assert way("3", FREE, without="3") == ["4"]  # it runs it, whatever the release says now


def test_an_id_is_required_like_a_version() -> None:
    old = make_release("1")
    assert way("1", [make_release("2", requires_from=[old.id]), old]) == ["2"]
    assert way("1", [make_release("2", requires_from=["1-0123456789ab"]), old]) == []


VERSIONS = "12345"
histories = st.permutations(VERSIONS).flatmap(
    lambda order: st.tuples(
        *(
            st.lists(st.sampled_from(VERSIONS), max_size=2).map(
                lambda needs, version=version: make_release(version, requires_from=needs)
            )
            for version in order
        )
    ).map(list)
)


@given(histories, st.none() | st.sampled_from(VERSIONS), st.sets(st.sampled_from(VERSIONS)))
def test_a_way_may_be_gone_ends_as_new_as_possible_and_never_goes_back(
    releases: list[Release], current: str | None, unfit: set[str]
) -> None:
    by_id = {release.id: release for release in releases}
    ids = {release.version: release.id for release in releases}
    place = {release.id: number for number, release in enumerate(releases)}
    here = ids[current] if current else None

    found = way_to_newest(here, releases, lambda release: release.version not in unfit)

    before = here
    for name in found:  # each step is allowed, and to something newer
        assert may_follow(by_id[name].requires_from, before)
        assert by_id[name].version not in unfit
        assert before is None or place[name] < place[before]
        before = name
    assert len(set(found)) == len(found)
    end = found[-1] if found else here  # and from its end nothing newer is one step away
    for release in releases[: place[end]] if end else releases:
        if release.version not in unfit:
            assert not may_follow(release.requires_from, end)


@given(histories, st.sampled_from(VERSIONS))
def test_after_each_step_the_rest_of_the_way_is_as_it_was(
    releases: list[Release], current: str
) -> None:
    """As `muster catch-up` does it: one step, then it asks again."""
    here = next(release.id for release in releases if release.version == current)
    found = way_to_newest(here, releases, lambda _release: True)
    for done, name in enumerate(found, start=1):
        rest = way_to_newest(name, releases, lambda _release: True)
        assert len(rest) == len(found) - done
        assert [name, *rest][-1] == found[-1]
