"""Maintenance windows: when boards may be updated, in local wall-clock time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from bpudeploy.errors import UsageError
from bpudeploy.spec.compose import did_you_mean, nearest

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_TIMES = re.compile(r"(\d{1,2}):(\d\d)-(\d{1,2}):(\d\d)")
_FORM = "write [DAYS] HH:MM-HH:MM [ZONE], such as `mon-fri 20:00-06:00 Europe/Berlin` or `sat,sun 00:00-24:00`"


@dataclass(frozen=True)
class Window:
    """A time of day on some days of the week, in a time zone."""

    days: frozenset[int]
    """0 is Monday. A window across midnight belongs to the day on which it begins."""
    begin: int
    """Minutes of the day."""
    end: int
    """Minutes of the day, at most 1440; if not after ``begin``, of the next day."""
    zone: ZoneInfo

    def contains(self, local: datetime) -> bool:
        """Return whether the local time is in the window."""
        minutes, today = local.hour * 60 + local.minute, local.weekday()
        if self.begin < self.end:
            return today in self.days and self.begin <= minutes < self.end
        before = (today - 1) % 7
        return (today in self.days and minutes >= self.begin) or (before in self.days and minutes < self.end)


def parse(text: str) -> Window:
    """Parse ``[DAYS] HH:MM-HH:MM [ZONE]``.

    DAYS are names, ranges or lists of both (``mon-fri``, ``sat,sun``, ``fri-mon,wed``); the default is every day. An
    end that is not after the beginning is on the next day. ZONE is an IANA name; the default is UTC.

    Raises:
        UsageError: the window is invalid; the message names the wrong part.
    """
    parts = text.split()
    at = next((i for i, part in enumerate(parts) if _TIMES.fullmatch(part)), None)
    if at is None or at > 1 or len(parts) > at + 2:
        raise UsageError(f"{text!r} is not a maintenance window", hint=_FORM)
    begin, end = _times(parts[at], text)
    days = _days(parts[0], text) if at == 1 else frozenset(range(7))
    return Window(days, begin, end, _zone(parts[at + 1] if len(parts) > at + 1 else "UTC", text))


def open_at(windows: Sequence[Window], when: datetime) -> bool:
    """Return whether any of the windows is open; without windows, always True.

    ``when`` has a time zone. A window in the hour that repeats when clocks go back is open twice.
    """
    if when.tzinfo is None:
        raise ValueError("the time needs a time zone")
    return not windows or any(window.contains(when.astimezone(window.zone)) for window in windows)


def _times(part: str, text: str) -> tuple[int, int]:
    found = _TIMES.fullmatch(part)
    assert found is not None
    begin_hour, begin_minute, end_hour, end_minute = (int(number) for number in found.groups())
    begin, end = begin_hour * 60 + begin_minute, end_hour * 60 + end_minute
    if begin >= 1440 or end > 1440 or begin_minute > 59 or end_minute > 59:
        raise UsageError(f"{part!r} in the window {text!r} is not a time of day", hint="times are 00:00 to 24:00")
    if begin == end:
        raise UsageError(f"the window {text!r} is empty", hint="write 00:00-24:00 for a whole day")
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
                    f"{name!r} in the window {text!r} is not a day", hint=f"{hint}days: {', '.join(DAYS)}; {_FORM}"
                )
        begin, end = DAYS.index(first), DAYS.index(last if dash else first)
        found |= {(begin + i) % 7 for i in range((end - begin) % 7 + 1)}
    return frozenset(found)


def _zone(name: str, text: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:  # unknown; not a name; a folder of the database
        otherwise = "use an IANA name such as Europe/Berlin or Asia/Shanghai"
        hint = did_you_mean(name, sorted(available_timezones()), otherwise)
        raise UsageError(f"{name!r} in the window {text!r} is not a time zone", hint=hint) from error
