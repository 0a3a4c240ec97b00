from __future__ import annotations

import json
import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from release_documents import make_release

from muster.errors import InputError
from muster.planning import Plan, PlanDevice, plan
from muster.strategy import Strategy

HARDWARE = ["hw_coral", "hw_intel", "hw_hailo"]
RELEASE = make_release("hw_coral", "hw_intel")


def device(name: str, site: str | None = "site_a", *groups: str) -> PlanDevice:
    return PlanDevice(name, site, groups or ("hw_coral",))


def strategy(*sizes: int | str, **changes: object) -> Strategy:
    return Strategy.model_validate({"waves": [{"size": size} for size in sizes], **changes})


def names(made: Plan) -> list[list[str]]:
    return [[device.name for device in wave.devices] for wave in made.waves]


def fleet(sizes: dict[str, int], hardware: str = "hw_coral") -> list[PlanDevice]:
    return [
        device(f"{site}-{number:03}", site, hardware)
        for site, count in sizes.items()
        for number in range(count)
    ]


devices_of_all_kinds = st.lists(
    st.builds(
        PlanDevice,
        st.text("abcdef", min_size=1, max_size=4),
        st.sampled_from(["site_a", "site_b", "site_c", None]),
        st.lists(st.sampled_from(HARDWARE), max_size=2).map(tuple),
    ),
    max_size=40,
    unique_by=lambda device: device.name,
)

wave_sizes = st.lists(
    st.integers(1, 9) | st.integers(1, 100).map(lambda n: f"{n}%"), max_size=4
).flatmap(lambda sizes: st.sampled_from([[*sizes, "rest"], ["canary", *sizes, "rest"]]))


@given(devices_of_all_kinds, wave_sizes, st.sampled_from(["site", "none"]))
def test_every_device_is_exactly_once_in_a_wave_or_rejected(
    devices: list[PlanDevice], sizes: list[int | str], spread_by: str
) -> None:
    made = plan(devices, RELEASE, strategy(*sizes, spread_by=spread_by))
    planned = [device.name for device in made.devices]
    assert sorted([*planned, *made.rejected]) == sorted(device.name for device in devices)
    assert all(wave.devices for wave in made.waves)
    assert [wave.index for wave in made.waves] == list(range(len(made.waves)))


@given(devices_of_all_kinds, wave_sizes, st.randoms())
def test_the_order_of_the_devices_does_not_matter(
    devices: list[PlanDevice], sizes: list[int | str], random: object
) -> None:
    shuffled = list(devices)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    rules = strategy(*sizes)
    made, again = plan(devices, RELEASE, rules), plan(shuffled, RELEASE, rules)
    assert made == again
    assert list(made.rejected) == list(again.rejected)


@given(devices_of_all_kinds)
def test_the_canary_wave_has_one_device_of_each_variant(devices: list[PlanDevice]) -> None:
    made = plan(devices, RELEASE, strategy("canary", "rest"))
    variants = {device.variant for device in made.devices}
    if made.waves:
        canaries = Counter(device.variant for device in made.waves[0].devices)
        assert canaries == dict.fromkeys(variants, 1)


@given(devices_of_all_kinds, st.integers(1, 100))
def test_a_percentage_is_of_all_planned_devices_rounded_up(
    devices: list[PlanDevice], percent: int
) -> None:
    made = plan(devices, RELEASE, strategy(f"{percent}%", "rest"))
    total = len(made.devices)
    if total:
        assert len(made.waves[0].devices) == math.ceil(total * percent / 100) >= 1


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 30), min_size=1, max_size=5),
    st.integers(1, 99),
)
def test_a_wave_takes_a_like_share_of_every_site(sizes: dict[str, int], percent: int) -> None:
    made = plan(fleet(sizes), RELEASE, strategy(f"{percent}%", "rest"))
    taken = Counter(device.name.split("-")[0] for device in made.waves[0].devices)
    total = sum(sizes.values())
    share = len(made.waves[0].devices) / total
    for site, count in sizes.items():
        # Each site is rounded by half a device at most; where the line is drawn, so that the whole
        # wave has its size, moves by half a device for each site.
        assert abs(taken[site] - share * count) <= 0.5 + count * len(sizes) / (2 * total) + 1e-9


@given(devices_of_all_kinds, wave_sizes)
def test_a_plan_survives_the_journal(devices: list[PlanDevice], sizes: list[int | str]) -> None:
    made = plan(devices, RELEASE, strategy(*sizes))
    assert Plan.from_json(json.loads(json.dumps(made.to_json()))) == made


def test_the_default_strategy_on_a_fleet_of_eight() -> None:
    devices = [
        device(f"{site}-{hardware}", f"site_{site}", f"hw_{hardware}")
        for site in ("north", "south")
        for hardware in ("coral", "intel")
        for _ in range(1)
    ] + fleet({"site_west": 4})
    made = plan(devices, RELEASE, Strategy())
    assert [wave.name for wave in made.waves] == ["canary", "10%", "50%", "rest"]
    assert [len(wave.devices) for wave in made.waves] == [2, 1, 4, 1]
    assert [wave.soak for wave in made.waves] == [60, 30, 30, 0]


def test_canaries_come_from_different_sites_where_possible() -> None:
    devices = [
        device("a-coral", "site_a", "hw_coral"),
        device("a-intel", "site_a", "hw_intel"),
        device("b-coral", "site_b", "hw_coral"),
        device("b-intel", "site_b", "hw_intel"),
    ]
    assert names(plan(devices, RELEASE, strategy("canary", "rest")))[0] == ["a-coral", "b-intel"]


def test_sites_alternate_and_variants_mix() -> None:
    devices = [
        device(f"{site}-{hardware}-{number}", site, f"hw_{hardware}")
        for site in ("a", "b")
        for hardware in ("coral", "intel")
        for number in (1, 2)
    ]
    (first, _) = names(plan(devices, RELEASE, strategy("50%", "rest")))
    assert first == ["a-coral-1", "b-coral-1", "a-intel-1", "b-intel-1"]


def test_without_spreading_devices_come_in_order_of_name() -> None:
    devices = fleet({"site_b": 2, "site_a": 2})
    made = plan(devices, RELEASE, strategy(2, "rest", spread_by="none"))
    assert names(made) == [["site_a-000", "site_a-001"], ["site_b-000", "site_b-001"]]


def test_waves_that_would_be_empty_vanish() -> None:
    made = plan([device("a"), device("b")], RELEASE, strategy("canary", 5, "50%", "rest"))
    assert names(made) == [["a"], ["b"]]
    assert [wave.index for wave in made.waves] == [0, 1]
    assert plan([], RELEASE, Strategy()).waves == ()


def test_waves_have_the_names_that_people_gave_them() -> None:
    rules = Strategy.model_validate({"waves": [{"size": 1, "name": "lab"}, {"size": "rest"}]})
    made = plan([device("a"), device("b")], RELEASE, rules)
    assert [wave.name for wave in made.waves] == ["lab", "rest"]


def test_rejected_devices_have_a_reason() -> None:
    devices = [device("a"), device("b", None, "hw_hailo"), device("c", None, "group")]
    made = plan(devices, RELEASE, Strategy())
    assert made.rejected == {
        "b": f"no variant for hw_hailo; release {RELEASE.id} has hw_coral, hw_intel",
        "c": "it is in no hardware group (hw_*)",
    }


def test_a_device_twice_is_refused() -> None:
    with pytest.raises(InputError, match="a: expected every device once"):
        plan([device("a"), device("a", "site_b")], RELEASE, Strategy())


# Patterns


def matched(devices: list[PlanDevice], patterns: str) -> dict[str, set[str]]:
    """A pattern is a letter here, and selects the names that have it."""
    return {p: {device.name for device in devices if p in device.name} for p in patterns}


rules_with_patterns = st.lists(
    st.tuples(
        st.none() | st.integers(1, 9) | st.integers(1, 100).map(lambda n: f"{n}%"),
        st.none() | st.sampled_from("abc"),
    )
    .filter(any)
    .map(lambda rule: {"size": rule[0], "pattern": rule[1]}),
    max_size=5,
).map(lambda rules: Strategy.model_validate({"waves": [*rules, {"size": "rest"}]}))


@given(devices_of_all_kinds, rules_with_patterns)
def test_with_patterns_too_every_device_is_exactly_once_in_a_wave(
    devices: list[PlanDevice], rules: Strategy
) -> None:
    made = plan(devices, RELEASE, rules, matched(devices, "abc"))
    planned = [device.name for device in made.devices]
    assert sorted([*planned, *made.rejected]) == sorted(device.name for device in devices)
    assert all(wave.devices for wave in made.waves)
    assert [wave.index for wave in made.waves] == list(range(len(made.waves)))


@given(devices_of_all_kinds, st.sampled_from("abc"))
def test_a_pattern_alone_takes_all_of_its_devices(devices: list[PlanDevice], letter: str) -> None:
    rules = Strategy.model_validate({"waves": [{"pattern": letter}, {"size": "rest"}]})
    made = plan(devices, RELEASE, rules, matched(devices, letter))
    for wave in made.waves:
        for device in wave.devices:
            assert (letter in device.name) is (wave.name == letter)


@given(devices_of_all_kinds, st.sampled_from("abc"), st.integers(1, 100))
def test_a_size_counts_among_the_devices_of_the_pattern(
    devices: list[PlanDevice], letter: str, percent: int
) -> None:
    rule = {"pattern": letter, "size": f"{percent}%", "name": "some"}
    rules = Strategy.model_validate({"waves": [rule, {"size": "rest"}]})
    made = plan(devices, RELEASE, rules, matched(devices, letter))
    number = sum(letter in device.name for device in made.devices)
    taken = [device for wave in made.waves if wave.name == "some" for device in wave.devices]
    assert len(taken) == math.ceil(number * percent / 100)
    assert all(letter in device.name for device in taken)


def test_what_an_earlier_wave_took_still_counts_for_the_percentage() -> None:
    devices = fleet({"north": 8, "south": 4})
    rules = Strategy.model_validate(
        {"waves": [{"size": 6, "pattern": "n"}, {"size": "50%", "pattern": "n"}, {"size": "rest"}]}
    )
    made = plan(devices, RELEASE, rules, {"n": {d.name for d in devices if d.site == "north"}})
    # Half of the eight are four, but only two of them are left.
    assert [len(wave.devices) for wave in made.waves] == [6, 2, 4]


def test_canaries_within_a_pattern() -> None:
    devices = [
        device(f"{site}-{kind}-{number}", f"site_{site}", f"hw_{kind}")
        for site in ("north", "south")
        for kind in ("coral", "intel")
        for number in (1, 2)
    ]
    rules = Strategy.model_validate(
        {"waves": [{"size": "canary", "pattern": "south"}, {"pattern": "south"}, {"size": "rest"}]}
    )
    south = {d.name for d in devices if d.site == "site_south"}
    first, second, third = names(plan(devices, RELEASE, rules, {"south": south}))
    assert first == ["south-coral-1", "south-intel-1"]
    assert sorted(second) == ["south-coral-2", "south-intel-2"]
    assert len(third) == 4


def test_waves_carry_whether_they_need_approval() -> None:
    rules = Strategy.model_validate(
        {"waves": [{"size": 1}, {"size": 1, "approval": True}, {"size": "rest"}]}
    )
    made = plan(fleet({"a": 3}), RELEASE, rules)
    assert [wave.approval for wave in made.waves] == [False, True, False]
    assert Plan.from_json(json.loads(json.dumps(made.to_json()))) == made


# Ramps


def ramp(**values: object) -> Strategy:
    return Strategy.model_validate({"ramp": values})


def sizes(made: Plan) -> list[int]:
    return [len(wave.devices) for wave in made.waves]


@pytest.mark.parametrize(
    ("values", "number", "expected"),
    [
        ({}, 20, [1, 1, 2, 4, 8, 4]),
        ({"canary": False}, 20, [1, 2, 4, 8, 5]),
        ({"canary": False, "max": 3}, 11, [1, 2, 3, 3, 2]),
        ({"canary": False, "base": 10, "max": 4}, 9, [4, 4, 1]),
        ({"canary": False, "base": 2, "factor": 1.5, "max": "100%"}, 30, [2, 3, 4, 6, 10, 5]),
        ({"canary": False, "base": 5}, 3, [2, 1]),
        ({}, 1, [1]),
        ({}, 0, []),
    ],
)
def test_a_ramp_grows(values: dict[str, object], number: int, expected: list[int]) -> None:
    assert sizes(plan(fleet({"a": number}), RELEASE, ramp(**values))) == expected


@given(
    devices_of_all_kinds,
    st.integers(1, 5),
    st.sampled_from([1.1, 1.5, 2, 3, 100]),
    st.integers(1, 30) | st.integers(1, 100).map(lambda n: f"{n}%"),
    st.booleans(),
)
def test_a_ramp_takes_everybody_and_never_more_at_once_than_its_largest_wave(
    devices: list[PlanDevice], base: int, factor: float, largest: int | str, canary: bool
) -> None:
    rules = ramp(base=base, factor=factor, max=largest, canary=canary)
    made = plan(devices, RELEASE, rules)
    total = len(made.devices)
    planned = [device.name for device in made.devices]
    assert sorted([*planned, *made.rejected]) == sorted(device.name for device in devices)
    if isinstance(largest, str):
        largest = math.ceil(total * int(largest[:-1]) / 100)
    grown = sizes(made)[1:] if canary else sizes(made)
    assert all(size <= largest for size in grown)
    assert grown[:-1] == sorted(grown[:-1])
    assert all(size <= base * factor**place for place, size in enumerate(grown))
    assert all(wave.soak == 30 for wave in made.waves)


def test_the_canaries_of_a_ramp_are_one_of_each_variant() -> None:
    devices = fleet({"a": 5}) + fleet({"b": 5}, "hw_intel")
    made = plan(devices, RELEASE, ramp())
    assert [wave.name for wave in made.waves] == ["canary", "ramp 1", "ramp 2", "ramp 4", "ramp 5"]
    assert {device.variant for device in made.waves[0].devices} == {"hw_coral", "hw_intel"}
    assert sizes(made) == [2, 1, 2, 4, 1]
