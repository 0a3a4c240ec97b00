from __future__ import annotations

import json
import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from release_documents import make_release

from muster.errors import InputError
from muster.strategy import Plan, PlanDevice, Strategy, plan

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
