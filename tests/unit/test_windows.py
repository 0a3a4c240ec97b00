from __future__ import annotations

import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from muster.windows import MaintenanceWindow, opens_in, time_zone

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
HOUR, DAY = 3600, 86400
ZONES = [
    *("UTC", "Europe/Vienna", "America/New_York", "Asia/Kathmandu", "Pacific/Kiritimati"),
    *("Pacific/Pago_Pago", "Australia/Lord_Howe", "Africa/Casablanca", "America/St_Johns"),
]


def window(opens: str, closes: str, *days: str) -> MaintenanceWindow:
    return MaintenanceWindow.model_validate(
        {"opens": opens, "closes": closes} | ({"days": days} if days else {})
    )


def at(text: str, zone: str = "UTC") -> float:
    return datetime.datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


times = st.builds("{:02}:{:02}".format, st.integers(0, 23), st.integers(0, 59))
some_windows = st.lists(
    st.tuples(times, times, st.lists(st.sampled_from(DAYS), min_size=1, max_size=7, unique=True))
    .filter(lambda given: given[0] != given[1])
    .map(lambda given: window(given[0], given[1], *given[2])),
    min_size=1,
    max_size=3,
)
# Whole seconds of ten years.
moments = st.integers(int(at("2020-01-01")), int(at("2030-01-01")))
zones = st.sampled_from(ZONES).map(ZoneInfo)


def covers(window: MaintenanceWindow, local: datetime.datetime) -> bool:
    """By the clock on the wall: what a person at the site would say."""
    now = f"{local:%H:%M:%S}"
    opens, closes = f"{window.opens}:00", f"{window.closes}:00"
    today = DAYS[local.weekday()] in window.days
    yesterday = DAYS[local.weekday() - 1] in window.days
    if opens < closes:
        return today and opens <= now < closes
    return (today and now >= opens) or (yesterday and now < closes)


@given(some_windows, zones, moments)
def test_a_device_may_switch_exactly_when_a_window_covers_now(
    given_windows: list[MaintenanceWindow], zone: ZoneInfo, now: int
) -> None:
    local = datetime.datetime.fromtimestamp(now, zone)
    # Near a change of the clocks the wall is no judge: an hour is missing there, or is twice.
    around = {
        datetime.datetime.fromtimestamp(now + days * DAY, zone).utcoffset() for days in (-2, 0, 2)
    }
    assume(len(around) == 1)
    wait = opens_in(given_windows, zone, now)
    assert (wait == 0) is any(covers(window, local) for window in given_windows)


@given(some_windows, zones, moments)
def test_who_waits_as_long_as_told_may_switch_and_not_before(
    given_windows: list[MaintenanceWindow], zone: ZoneInfo, now: int
) -> None:
    wait = opens_in(given_windows, zone, now)
    assert 0 <= wait <= 14 * DAY
    assert opens_in(given_windows, zone, now + wait) == 0
    if wait:
        assert opens_in(given_windows, zone, now + wait - 1) == 1
        assert opens_in(given_windows, zone, now + wait // 2) == wait - wait // 2


@given(some_windows, zones, moments)
def test_of_several_windows_the_first_to_open_counts(
    given_windows: list[MaintenanceWindow], zone: ZoneInfo, now: int
) -> None:
    alone = [opens_in([window], zone, now) for window in given_windows]
    assert opens_in(given_windows, zone, now) == min(alone)


def test_without_a_window_it_is_always_open() -> None:
    assert opens_in([], ZoneInfo("UTC"), at("2026-05-05T12:00")) == 0


@pytest.mark.parametrize(
    ("now", "wait"),
    [
        ("2026-05-05T09:59:30", 30),  # a Tuesday
        ("2026-05-05T10:00", 0),
        ("2026-05-05T10:29:59", 0),
        ("2026-05-05T10:30", DAY - HOUR / 2),
    ],
)
def test_a_window_holds_its_first_moment_but_not_its_last(now: str, wait: float) -> None:
    assert opens_in([window("10:00", "10:30")], ZoneInfo("UTC"), at(now)) == wait


@pytest.mark.parametrize(
    ("now", "wait"),
    [
        ("2026-05-08T21:00", HOUR),  # a Friday
        ("2026-05-08T23:00", 0),
        ("2026-05-09T04:59", 0),  # Saturday's morning belongs to Friday's window
        ("2026-05-09T05:00", 6 * DAY + 17 * HOUR),
        ("2026-05-08T04:00", 18 * HOUR),  # Friday's morning would belong to Thursday's
    ],
)
def test_a_window_over_midnight_belongs_to_the_day_on_which_it_opens(now: str, wait: float) -> None:
    assert opens_in([window("22:00", "05:00", "fri")], ZoneInfo("UTC"), at(now)) == wait


def test_a_window_is_in_the_time_of_the_device() -> None:
    now = at("2026-07-01T12:00")  # in Vienna two o'clock, in New York eight
    night = [window("02:00", "04:00")]
    assert opens_in(night, ZoneInfo("Europe/Vienna"), now) == 12 * HOUR
    assert opens_in(night, ZoneInfo("America/New_York"), now) == 18 * HOUR


def test_the_day_is_that_of_the_device_too() -> None:
    now = at("2026-05-04T11:00")  # Monday in UTC, already Tuesday on Kiritimati
    assert opens_in([window("00:00", "23:59", "tue")], ZoneInfo("Pacific/Kiritimati"), now) == 0
    assert opens_in([window("00:00", "23:59", "mon")], ZoneInfo("Pacific/Kiritimati"), now) > 0


@pytest.mark.parametrize(
    ("night", "window_", "opens", "closes"),
    [
        # 29 March 2026: 02:00 is 03:00 at once. The night is an hour shorter.
        ("2026-03-28", ("22:00", "05:00", "sat"), "2026-03-28T21:00", "2026-03-29T03:00"),
        # What closes within the hour that is not there closes an hour later by the wall.
        ("2026-03-29", ("01:00", "02:30", "sun"), "2026-03-29T00:00", "2026-03-29T01:30"),
        # 25 October 2026: 03:00 is 02:00 again. The night is an hour longer.
        ("2026-10-24", ("22:00", "05:00", "sat"), "2026-10-24T20:00", "2026-10-25T04:00"),
        # Of the hour that is there twice the first counts, for opening and for closing.
        ("2026-10-25", ("02:30", "04:00", "sun"), "2026-10-25T00:30", "2026-10-25T03:00"),
        ("2026-10-25", ("01:00", "02:30", "sun"), "2026-10-24T23:00", "2026-10-25T00:30"),
    ],
)
def test_windows_in_the_night_in_which_the_clocks_change(
    night: str, window_: tuple[str, ...], opens: str, closes: str
) -> None:
    vienna, rule = ZoneInfo("Europe/Vienna"), [window(*window_)]
    start, end = at(opens), at(closes)
    assert opens_in(rule, vienna, start - 1) == 1
    assert opens_in(rule, vienna, start) == 0
    assert opens_in(rule, vienna, end - 1) == 0
    assert opens_in(rule, vienna, end) > 5 * DAY


def test_a_window_that_a_change_of_the_clocks_swallows_opens_a_week_later() -> None:
    vienna, rule = ZoneInfo("Europe/Vienna"), [window("02:15", "03:15", "sun")]
    friday = at("2026-03-27T12:00", "Europe/Vienna")
    assert opens_in(rule, vienna, friday) == at("2026-04-05T02:15", "Europe/Vienna") - friday


@pytest.mark.parametrize("name", ["", "Europe", "Mars/Base", "../etc/passwd", "/etc/localtime"])
def test_what_is_no_time_zone(name: str) -> None:
    with pytest.raises(ValueError, match=r"expected the name of a time zone such as Europe/Vienna"):
        time_zone(name)


def test_a_time_zone_by_its_name() -> None:
    assert time_zone("Asia/Kathmandu") == ZoneInfo("Asia/Kathmandu")
