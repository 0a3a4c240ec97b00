"""Maintenance windows: when a device may switch, by its own time zone. Pure."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from muster.fields import Strict, describe

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
_DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def _as_text(value: Any) -> Any:
    # YAML 1.1 reads 22:00 without quotes as the sexagesimal number 1320.
    if isinstance(value, int) and not isinstance(value, bool):
        raise ValueError(f'expected a time in quotes such as "22:00", got {describe(value)}')
    return value


TimeOfDay = Annotated[
    str, StringConstraints(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$"), BeforeValidator(_as_text)
]


class MaintenanceWindow(Strict):
    """A time of day at which devices may switch; one that closes earlier than it opens ends on the
    next day."""

    days: Annotated[tuple[Day, ...], Field(min_length=1)] = _DAYS
    """Days on which it opens."""
    opens: TimeOfDay
    """Local time of the device, ``HH:MM``."""
    closes: TimeOfDay
    """Local time of the device, ``HH:MM``."""

    @model_validator(mode="after")
    def _has_a_length(self) -> MaintenanceWindow:
        if self.opens == self.closes:
            raise ValueError(f"expected opens and closes to differ, got {self.opens} twice")
        return self


def time_zone(name: str) -> datetime.tzinfo:
    """The time zone of an IANA name such as ``Europe/Vienna``.

    :raises ValueError: there is none of that name.
    """
    if name == "UTC":  # also where the controller has no database of time zones
        return datetime.timezone.utc
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(
            f"expected the name of a time zone such as Europe/Vienna, got {describe(name)}"
        ) from None


def opens_in(windows: Sequence[MaintenanceWindow], zone: datetime.tzinfo, now: float) -> float:
    """Seconds until a device may switch; 0 when it may now, or when there is no window.

    :param now: seconds since 1970 UTC.
    """
    if not windows:
        return 0.0
    waits = [
        max(0.0, start - now)
        for window in windows
        for start, end in _occurrences(window, zone, now)
        if now < end
    ]
    return min(waits)


def _occurrences(
    window: MaintenanceWindow, zone: datetime.tzinfo, now: float
) -> Iterable[tuple[float, float]]:
    """Beginning and end of the window from yesterday to this day in two weeks."""
    today = datetime.datetime.fromtimestamp(now, zone).date()
    opens, closes = (datetime.time.fromisoformat(text) for text in (window.opens, window.closes))
    for offset in range(-1, 15):
        day = today + datetime.timedelta(days=offset)
        if _DAYS[day.weekday()] not in window.days:
            continue
        last = day if opens < closes else day + datetime.timedelta(days=1)
        start = datetime.datetime.combine(day, opens, zone).timestamp()
        end = datetime.datetime.combine(last, closes, zone).timestamp()
        if start < end:  # not so where a change of the clocks swallows it
            yield start, end
