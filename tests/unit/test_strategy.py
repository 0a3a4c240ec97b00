from __future__ import annotations

import json
from typing import Any

import pytest

from muster.documents import load_document, parse_document
from muster.errors import InputError
from muster.paths import COLLECTION_ROOT
from muster.strategy import FailureBudget, Strategy, WaveRule

HEADER = "apiVersion: muster/v1\nkind: Strategy\n"


def problems(text: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        parse_document(HEADER + text, Strategy, "f.yml")
    return [problem.split(": ", 1)[1] for problem in caught.value.problems]


def test_a_strategy_may_be_absent() -> None:
    strategy = Strategy()
    assert [wave.size for wave in strategy.waves] == ["canary", "10%", "50%", "rest"]
    assert strategy.failure_budget.on_breach == "roll_back_wave"
    assert strategy.failure_budget.max_failed == 0
    assert strategy.confirm_timeout == 240
    assert Strategy.model_validate(strategy.model_dump(mode="json")) == strategy


def test_the_example_shows_the_defaults() -> None:
    example = load_document(COLLECTION_ROOT / "examples/strategy.yml", Strategy)
    shown = example.model_dump(exclude={"waves"})
    assert shown == Strategy().model_dump(exclude={"waves"})
    waves = [wave.model_copy(update={"name": None}) for wave in example.waves]
    assert waves == list(Strategy().waves)


def test_confirm_timeout_follows_the_other_clocks() -> None:
    strategy = Strategy(healthy_deadline=400, min_healthy_time=60, command_margin=20)
    assert strategy.confirm_timeout == 500
    blue_green = strategy.model_dump(exclude={"confirm_timeout"}) | {"switch": "blue_green"}
    assert Strategy.model_validate(blue_green).confirm_timeout == 510
    drain = {"healthy_deadline": 150, "switch": "blue_green", "drain_deadline": "40s"}
    assert Strategy.model_validate(drain).confirm_timeout == 150 + 10 + 2 * 30 + 40


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "healthy_deadline: 5s",
            "min_healthy_time: expected less than healthy_deadline (5s), got 10s",
        ),
        (
            "min_healthy_time: 2m",
            "min_healthy_time: expected less than healthy_deadline (2m), got 2m",
        ),
        (
            "healthy_deadline: 16m",
            "healthy_deadline: expected less than progress_deadline (15m), got 16m",
        ),
        (
            "pull_deadline: 1h30m",
            "pull_deadline: expected at most progress_deadline (15m), got 1h30m",
        ),
        ("probe_interval: 11s", "probe_interval: expected at most min_healthy_time (10s), got 11s"),
        (
            "confirm_timeout: 160s",
            "confirm_timeout: expected more than healthy_deadline (2m) + min_healthy_time (10s)"
            " + command_margin (30s) = 2m40s, got 2m40s",
        ),
        (
            "switch: blue_green\ndrain_deadline: 2m\nconfirm_timeout: 280s",
            "confirm_timeout: expected more than healthy_deadline (2m) + min_healthy_time (10s)"
            " + command_margin (30s) + drain_deadline (2m) = 4m40s, got 4m40s",
        ),
    ],
)
def test_clocks_that_contradict_each_other(text: str, expected: str) -> None:
    assert problems(text) == [expected]


def test_all_contradictions_are_named_at_once() -> None:
    assert len(problems("probe_interval: 20s\nconfirm_timeout: 1m\npull_deadline: 1h")) == 3


@pytest.mark.parametrize("clock", ["min_healthy_time", "healthy_deadline", "probe_interval"])
def test_a_clock_of_zero_is_refused(clock: str) -> None:
    (problem,) = problems(f"{clock}: 0s")
    assert problem == f"{clock}: expected a duration above 0, got '0s'"


@pytest.mark.parametrize(
    ("waves", "expected"),
    [
        ("[]", "waves: expected at least 1 entries, got 0"),
        ("[{size: rest}, {size: rest}]", "waves[0].size: expected rest only in the last wave"),
        (
            "[{size: 1}, {size: canary}, {size: rest}]",
            "waves[1].size: expected canary only in the first wave",
        ),
        (
            "[{size: canary}, {size: 10%}, {size: 80%}]",
            "waves[2].size: expected rest in the last wave, or percentages that reach 100%"
            " together, got 90%: devices would be left out",
        ),
        (
            "[{size: 90%, pattern: a}, {size: 50%}]",  # what a pattern takes does not count
            "waves[1].size: expected rest in the last wave, or percentages that reach 100%"
            " together, got 50%: devices would be left out",
        ),
        (
            "[{size: 100%}, {pattern: site_north}]",
            "waves[1].pattern: expected rest in the last wave, without a pattern: devices would be"
            " left out",
        ),
        (
            "[{size: 1}, {size: canary, pattern: site_north}, {size: rest}]",
            "waves[1].size: expected canary only in the first wave",
        ),
        (
            "[{soak: 5s}, {size: rest}]",
            "waves[0]: expected size, pattern or both, got neither",
        ),
        (
            "[{size: rest, approval: perhaps}]",
            "waves[0].approval: expected true or false, got 'perhaps'",
        ),
    ],
)
def test_waves_that_make_no_sense(waves: str, expected: str) -> None:
    assert problems(f"waves: {waves}") == [expected]


def test_percentages_that_reach_100_need_no_rest() -> None:
    text = HEADER + "waves: [{size: 50%}, {size: 50%}]"
    assert len(parse_document(text, Strategy, "f.yml").waves) == 2


@pytest.mark.parametrize("size", ["0", "0%", "101%", "-1", "1.5", "true", "half", "10 %"])
def test_what_is_no_wave_size(size: str) -> None:
    (problem,) = problems(f"waves: [{{size: {size}}}, {{size: rest}}]")
    assert problem.startswith("waves[0].size: expected a number of devices, a percentage")


def test_the_rest_of_a_pattern_may_come_before_the_last_wave() -> None:
    text = "waves: [{size: canary, pattern: lab}, {size: rest, pattern: lab}, {size: rest}]"
    waves = parse_document(HEADER + text, Strategy, "f.yml").waves
    assert [wave.title for wave in waves] == ["canary of lab", "rest of lab", "rest"]


@pytest.mark.parametrize(
    ("rule", "title"),
    [
        ({"size": 3}, "3"),
        ({"pattern": "site_north"}, "site_north"),
        ({"size": "10%", "pattern": "hw_coral"}, "10% of hw_coral"),
        ({"size": "10%", "pattern": "hw_coral", "name": "some"}, "some"),
        ({"pattern": "x" * 100}, "x" * 60),
    ],
)
def test_the_title_of_a_wave(rule: dict[str, Any], title: str) -> None:
    assert WaveRule.model_validate(rule).title == title


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ramp: {max: canary}", "ramp.max: expected a number of devices or a percentage"),
        ("ramp: {factor: 1}", "ramp.factor: expected more than 1"),
        ("ramp: {base: 0}", "ramp.base: expected at least 1"),
        ("ramp: {}\nwaves: [{size: rest}]", "ramp: expected either waves or ramp, got both"),
        ("pull_concurrency: 0", "pull_concurrency: expected at least 1"),
        ("rate_per_minute: 0", "rate_per_minute: expected at least 0.001"),
        ("rate_per_minute: .inf", "rate_per_minute: expected a finite number"),
        ("lock_deadline: 0s", "lock_deadline: expected a duration above 0"),
        ("drain_deadline: 0s", "drain_deadline: expected a duration above 0"),
        ("offline: {catch_up: all}", "offline.catch_up: expected 'latest' or 'none', got 'all'"),
        ("offline: {deadline: -1}", "offline.deadline: expected a duration such as 30s"),
        ("switch: rolling", "switch: expected 'recreate' or 'blue_green', got 'rolling'"),
        (
            "maintenance_window: [{opens: 22:00, closes: '05:00'}]",
            'maintenance_window[0].opens: expected a time in quotes such as "22:00", got the number'
            " 1320",
        ),
        (
            "maintenance_window: [{opens: '05:00', closes: '05:00'}]",
            "maintenance_window[0]: expected opens and closes to differ, got 05:00 twice",
        ),
        ("maintenance_window: [{opens: '05:00'}]", "maintenance_window[0].closes: "),
        (
            "maintenance_window: [{days: [], opens: '05:00', closes: '06:00'}]",
            "maintenance_window[0].days: expected at least 1",
        ),
        (
            "maintenance_window: [{days: [monday], opens: '05:00', closes: '06:00'}]",
            "maintenance_window[0].days[0]: expected 'mon', 'tue'",
        ),
    ],
)
def test_what_else_is_refused(text: str, expected: str) -> None:
    (problem,) = problems(text)
    assert problem.startswith(expected)


def test_what_devices_would_refuse_is_refused_before_they_are_asked() -> None:
    told = problems("confirm_timeout: 8d\nwaves: [{size: 1, soak: 169h}, {size: rest, soak: 7d}]\n")
    assert told == [
        "confirm_timeout: expected at most 168h, got 192h",
        "waves[0].soak: expected at most 168h, got 169h",
    ]


def test_a_strategy_with_everything_survives_the_journal() -> None:
    text = """
ramp: {base: 2, factor: 1.5, max: 20}
pull_concurrency: 3
rate_per_minute: 0.5
maintenance_window: [{days: [sat, sun], opens: "22:00", closes: "05:00"}]
lock_deadline: 1m
offline: {policy: fail, catch_up: none, deadline: 1h}
switch: blue_green
drain_deadline: 5s
"""
    strategy = parse_document(HEADER + text, Strategy, "f.yml")
    again = Strategy.model_validate(json.loads(json.dumps(strategy.model_dump(mode="json"))))
    assert again == strategy
    assert again.ramp is not None
    assert (again.ramp.factor, again.ramp.max) == (1.5, 20)
    assert again.maintenance_window[0].days == ("sat", "sun")
    assert again.offline.deadline == 3600
    assert again.confirm_timeout == strategy.confirm_timeout == 240


@pytest.mark.parametrize(
    ("limits", "counts", "breached"),
    [
        ({}, {"devices": 4, "failed": 0, "unreachable": 0}, None),
        (
            {},
            {"devices": 4, "failed": 1, "unreachable": 0},
            "1 of 4 devices failed, at most 0 allowed",
        ),
        ({"max_failed": 2}, {"devices": 4, "failed": 2, "unreachable": 0}, None),
        (
            {"max_failed": 2},
            {"devices": 4, "failed": 3, "unreachable": 0},
            "3 of 4 devices failed, at most 2 allowed",
        ),
        ({"max_failed": "10%"}, {"devices": 20, "failed": 2, "unreachable": 0}, None),
        (
            {"max_failed": "10%"},
            {"devices": 19, "failed": 2, "unreachable": 0},
            "2 of 19 devices failed, at most 1 (10%) allowed",
        ),
        ({}, {"devices": 4, "failed": 0, "unreachable": 2}, None),
        (
            {},
            {"devices": 1, "failed": 0, "unreachable": 1},
            "1 of 1 devices unreachable, at most 0 (50%) allowed",
        ),
        ({"max_unreachable": "100%"}, {"devices": 3, "failed": 0, "unreachable": 3}, None),
        ({"max_unreachable": 0}, {"devices": 3, "failed": 0, "unreachable": 0}, None),
    ],
)
def test_a_breach_is_more_than_the_limit(
    limits: dict[str, Any], counts: dict[str, int], breached: str | None
) -> None:
    assert FailureBudget.model_validate(limits).breach(**counts) == breached
