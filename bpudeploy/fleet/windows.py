"""Maintenance windows: when boards may be touched. A window is open while a wall clock there shows a time in it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from functools import cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from bpudeploy.errors import UsageError
from bpudeploy.spec.compose import nearest

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_TIMES = re.compile(r"(\d{1,2}):(\d\d)-(\d{1,2}):(\d\d)")
_FORM = "write [DAYS] HH:MM-HH:MM [ZONE], such as `mon-fri 20:00-06:00 Europe/Berlin` or `sat,sun 00:00-24:00`"
_MINUTE = timedelta(minutes=1)
_DAY = timedelta(days=1)
_AHEAD_DAYS = 15
"""A window opens every week; it may be missed once where the clocks go forward over it."""


@dataclass(frozen=True)
class Window:
    """Times of day, on some days of the week, in a time zone."""

    text: str
    days: frozenset[int]
    """0 is Monday. A window over midnight belongs to the day on which it begins."""
    begin: int
    """Minutes of the day."""
    end: int
    """Minutes of the day, 1440 at most; not after ``begin``: of the next day."""
    zone: ZoneInfo

    def shows(self, local: datetime) -> bool:
        """Return whether a wall clock and calendar that show ``local`` show a time in the window."""
        minutes, today = local.hour * 60 + local.minute, local.weekday()
        if self.begin < self.end:
            return today in self.days and self.begin <= minutes < self.end
        before = (today - 1) % 7
        return (today in self.days and minutes >= self.begin) or (before in self.days and minutes < self.end)


def parse(text: str) -> Window:
    """Parse ``[DAYS] HH:MM-HH:MM [ZONE]``.

    DAYS are names, ranges or lists of both (``mon-fri``, ``sat,sun``, ``fri-mon,wed``), every day when left out; an
    end that is not after the beginning is on the next day; ZONE is an IANA name, UTC when left out.

    Raises:
        UsageError: it is none; the message names the part that is wrong.
    """
    parts = text.split()
    at = next((i for i, part in enumerate(parts) if _TIMES.fullmatch(part)), None)
    if at is None or at > 1 or len(parts) > at + 2:
        raise UsageError(f"{text!r} is no window", hint=_FORM)
    begin, end = _times(parts[at], text)
    days = _days(parts[0], text) if at == 1 else frozenset(range(7))
    return Window(text, days, begin, end, _zone(parts[at + 1] if len(parts) > at + 1 else "UTC", text))


def open_at(windows: Sequence[Window], when: datetime) -> bool:
    """Return whether one of the windows is open; without any, it always is.

    ``when`` has a time zone. Where clocks go back, an hour is shown twice, and a window in it is open twice.
    """
    if when.tzinfo is None:
        raise ValueError("a moment needs a time zone")
    return not windows or any(window.shows(when.astimezone(window.zone)) for window in windows)


def next_opening(windows: Sequence[Window], when: datetime) -> datetime | None:
    """Return the first moment from ``when`` on at which a window is open: ``when`` itself, or later, in UTC.

    None: they do not open in the next two weeks, as one that clocks go forward over on its only day.
    """
    if open_at(windows, when):
        return when.astimezone(UTC)
    now = when.astimezone(UTC)
    moments = sorted({moment for window in windows for moment in _candidates(window, now) if moment > now})
    return next((moment for moment in moments if open_at(windows, moment)), None)


def _candidates(window: Window, now: datetime) -> Iterator[datetime]:
    """Yield every moment in the days to come at which the window may open: its beginnings, and changes of clocks."""
    first = now.astimezone(window.zone).date()
    for ahead in range(_AHEAD_DAYS):
        midnight = datetime.combine(first + timedelta(days=ahead), time(), tzinfo=window.zone)
        begins = midnight + timedelta(minutes=window.begin)  # by the wall clock
        yield begins.astimezone(UTC)
        yield begins.replace(fold=1).astimezone(UTC)
        day = now + timedelta(days=ahead)
        if _offset(day, window.zone) != _offset(day + _DAY, window.zone):
            yield _change(day, window.zone)


def _change(day: datetime, zone: ZoneInfo) -> datetime:
    """Return the minute of the change of clocks in the 24 hours from ``day`` on."""
    before, low = _offset(day, zone), day.replace(second=0, microsecond=0)
    high = low + _DAY + _MINUTE
    while high - low > _MINUTE:
        middle = low + timedelta(minutes=(high - low) // _MINUTE // 2)
        low, high = (middle, high) if _offset(middle, zone) == before else (low, middle)
    return high


def _offset(when: datetime, zone: ZoneInfo) -> timedelta | None:
    return when.astimezone(zone).utcoffset()


def _times(part: str, text: str) -> tuple[int, int]:
    found = _TIMES.fullmatch(part)
    assert found is not None
    begin_hour, begin_minute, end_hour, end_minute = (int(number) for number in found.groups())
    begin, end = begin_hour * 60 + begin_minute, end_hour * 60 + end_minute
    if begin >= 1440 or end > 1440 or begin_minute > 59 or end_minute > 59:
        raise UsageError(f"{part!r} in the window {text!r} is no time of day", hint="times are 00:00 to 24:00")
    if begin == end:
        raise UsageError(
            f"the window {text!r} begins when it ends",
            hint="write 00:00-24:00 for a whole day; leave it out for always",
        )
    return begin, end


def _days(part: str, text: str) -> frozenset[int]:
    found: set[int] = set()
    for one in part.lower().split(","):
        first, dash, last = one.partition("-")
        for name in (first, last) if dash else (first,):
            if name not in DAYS:
                near = nearest(name[:3], DAYS)
                hint = f"did you mean {near}? " if near else ""
                raise UsageError(
                    f"{name!r} in the window {text!r} is no day", hint=f"{hint}days: {', '.join(DAYS)}; {_FORM}"
                )
        begin, end = DAYS.index(first), DAYS.index(last if dash else first)
        found |= {(begin + i) % 7 for i in range((end - begin) % 7 + 1)}
    return frozenset(found)


@cache
def _known(name: str) -> ZoneInfo | None:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # unknown; no name at all; a folder of the database
        return None


def _zone(name: str, text: str) -> ZoneInfo:
    zone = _known(name)
    if zone is None:
        near = nearest(name, sorted(available_timezones()))
        hint = f"did you mean {near}?" if near else "a zone is an IANA name, such as Europe/Berlin or Asia/Shanghai"
        raise UsageError(f"{name!r} in the window {text!r} is no time zone", hint=hint)
    return zone
