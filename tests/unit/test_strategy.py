from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from muster.documents import load_document, parse_document
from muster.errors import InputError
from muster.paths import COLLECTION_ROOT
from muster.strategy import FailureBudget, Strategy

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
    sizes = [(wave.size, wave.soak) for wave in example.waves]
    assert sizes == [(wave.size, wave.soak) for wave in Strategy().waves]


def test_confirm_timeout_follows_the_other_clocks() -> None:
    strategy = Strategy(healthy_deadline=400, min_healthy_time=60, command_margin=20)
    assert strategy.confirm_timeout == 500


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
    ],
)
def test_waves_that_make_no_sense(waves: str, expected: str) -> None:
    assert problems(f"waves: {waves}") == [expected]


def test_percentages_that_reach_100_need_no_rest() -> None:
    text = HEADER + "waves: [{size: 50%}, {size: 50%}]"
    assert len(parse_document(text, Strategy, "f.yml").waves) == 2


@pytest.mark.parametrize("size", ["0", "0%", "101%", "-1", "1.5", "true", "half", "10 %", "null"])
def test_what_is_no_wave_size(size: str) -> None:
    (problem,) = problems(f"waves: [{{size: {size}}}, {{size: rest}}]")
    assert problem.startswith("waves[0].size: expected a number of devices, a percentage")


def test_blue_green_is_not_supported_yet() -> None:
    assert problems("switch: blue_green") == [
        "switch: expected recreate, got 'blue_green', which is not supported yet"
    ]


def test_what_comes_later_is_refused() -> None:
    for key in ("approval", "groups", "pattern"):
        with pytest.raises(ValidationError):
            Strategy.model_validate({"waves": [{"size": "rest", key: True}]})


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
