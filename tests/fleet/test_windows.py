"""Maintenance windows: days, midnight, zones, and both clock changes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from bpudeploy.errors import UsageError
from bpudeploy.fleet.windows import Window, open_at, parse

BERLIN = ZoneInfo("Europe/Berlin")
NIGHTS = "mon-fri 20:00-06:00 Europe/Berlin"


def at(text: str, zone: ZoneInfo | None = None, fold: int = 0) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=zone or UTC, fold=fold)


def opens_at(windows: list[Window], when: datetime) -> bool:
    return open_at(windows, when) and not open_at(windows, when - timedelta(minutes=1))


def is_open(window: str, when: datetime) -> bool:
    return open_at([parse(window)], when)


@pytest.mark.parametrize(
    ("window", "when", "opened"),
    [  # 2026-11-02 is a Monday
        ("mon-fri 08:00-17:00", "2026-11-02 07:59:59", False),
        ("mon-fri 08:00-17:00", "2026-11-02 08:00", True),
        ("mon-fri 08:00-17:00", "2026-11-02 16:59:59", True),
        ("mon-fri 08:00-17:00", "2026-11-02 17:00", False),
        ("mon-fri 08:00-17:00", "2026-11-07 09:00", False),
        ("mon-fri 20:00-06:00", "2026-11-02 05:00", False),  # Sunday's night is not in it
        ("mon-fri 20:00-06:00", "2026-11-02 20:00", True),
        ("mon-fri 20:00-06:00", "2026-11-03 00:00", True),
        ("mon-fri 20:00-06:00", "2026-11-03 06:00", False),
        ("mon-fri 20:00-06:00", "2026-11-07 05:59", True),  # Friday's night ends on Saturday
        ("mon-fri 20:00-06:00", "2026-11-07 20:00", False),
        ("sun 20:00-06:00", "2026-11-02 05:00", True),  # into the next week
        ("sat,sun 00:00-24:00", "2026-11-07 00:00", True),
        ("sat,sun 00:00-24:00", "2026-11-08 23:59:59", True),
        ("sat,sun 00:00-24:00", "2026-11-09 00:00", False),
        ("fri-mon,wed 10:00-11:00", "2026-11-02 10:30", True),
        ("fri-mon,wed 10:00-11:00", "2026-11-03 10:30", False),
        ("fri-mon,wed 10:00-11:00", "2026-11-04 10:30", True),
        ("SAT 1:00-2:00", "2026-11-07 01:00", True),
        ("10:00-11:00", "2026-11-05 10:30", True),
        ("tue 20:00-00:00", "2026-11-03 23:59", True),
        ("tue 20:00-00:00", "2026-11-04 00:00", False),
        ("mon 00:00-01:00 Asia/Shanghai", "2026-11-01 16:30", True),
        ("mon 00:00-01:00 Asia/Shanghai", "2026-11-02 00:30", False),
        ("mon 00:00-01:00 America/New_York", "2026-11-02 05:30", True),
    ],
)
def test_when_a_window_is_open(window: str, when: str, opened: bool) -> None:
    assert is_open(window, at(when)) is opened


def test_without_windows_it_is_always_open() -> None:
    assert open_at([], at("2026-11-02"))


def test_one_of_several_windows_is_enough() -> None:
    windows = [parse("mon 10:00-11:00"), parse("tue 10:00-11:00")]
    assert open_at(windows, at("2026-11-03 10:30")) and not open_at(windows, at("2026-11-04 10:30"))
    assert opens_at(windows, at("2026-11-03 10:00"))


def test_a_moment_may_be_in_any_zone_but_must_have_one() -> None:
    assert is_open(NIGHTS, at("2026-11-02 20:00", BERLIN)) and is_open(NIGHTS, at("2026-11-02 19:00"))
    with pytest.raises(ValueError, match="time zone"):
        open_at([parse(NIGHTS)], datetime(2026, 11, 2))


# --- the clocks: in Berlin they go from 2:00 to 3:00 on 2026-03-29, and from 3:00 to 2:00 on 2026-10-25


def test_a_night_lasts_an_hour_less_or_more_when_the_clocks_change() -> None:
    window = [parse("sat 20:00-06:00 Europe/Berlin")]
    assert opens_at(window, at("2026-03-28 19:00"))
    assert open_at(window, at("2026-03-29 03:59")) and not open_at(window, at("2026-03-29 04:00"))  # 6:00 CEST
    assert opens_at(window, at("2026-10-24 18:00"))
    assert open_at(window, at("2026-10-25 04:59")) and not open_at(window, at("2026-10-25 05:00"))  # 6:00 CET


def test_the_same_hour_by_the_wall_in_summer_and_winter() -> None:
    assert opens_at([parse(NIGHTS)], at("2026-07-01 18:00"))
    assert opens_at([parse(NIGHTS)], at("2026-12-01 19:00"))


def test_a_time_that_clocks_go_forward_over_is_not_shown() -> None:
    begins_in_it = [parse("sun 02:30-05:00 Europe/Berlin")]
    assert opens_at(begins_in_it, at("2026-03-29 01:00"))  # 3:00 CEST comes at once
    ends_in_it = [parse("sun 01:00-02:30 Europe/Berlin")]
    assert open_at(ends_in_it, at("2026-03-29 00:59")) and not open_at(ends_in_it, at("2026-03-29 01:00"))
    within = [parse("sun 02:00-03:00 Europe/Berlin")]
    assert not any(open_at(within, at("2026-03-29") + timedelta(minutes=m)) for m in range(24 * 60))
    assert opens_at(within, at("2026-04-05 00:00"))  # only a week later


def test_an_hour_that_is_shown_twice_is_open_twice() -> None:
    window = [parse("sun 02:00-02:30 Europe/Berlin")]
    assert open_at(window, at("2026-10-25 02:15", BERLIN)) and open_at(window, at("2026-10-25 02:15", BERLIN, fold=1))
    assert not open_at(window, at("2026-10-25 02:45", BERLIN))
    assert opens_at(window, at("2026-10-25 01:00"))  # 2:00 again, in winter time
    later = [parse("sun 02:15-02:30 Europe/Berlin")]
    assert opens_at(later, at("2026-10-25 01:15"))


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("", "'' is not a maintenance window", "HH:MM-HH:MM"),
        ("mon-fri", "'mon-fri' is not a maintenance window", "HH:MM-HH:MM"),
        ("mon 8-17", "is not a maintenance window", "HH:MM-HH:MM"),
        ("mon 08:00-17:00 Europe/Berlin now", "is not a maintenance window", "HH:MM-HH:MM"),
        ("mon tue 08:00-17:00", "is not a maintenance window", "HH:MM-HH:MM"),
        ("monday 08:00-17:00", "'monday' in the window", "did you mean mon?"),
        ("mon-fry 08:00-17:00", "'fry' in the window", "days: mon, tue"),
        ("mon, 08:00-17:00", "'' in the window", "days: mon, tue"),
        ("mon 08:00-24:01", "'08:00-24:01' in the window", "00:00 to 24:00"),
        ("mon 24:00-08:00", "is not a time of day", "00:00 to 24:00"),
        ("mon 08:60-17:00", "is not a time of day", "00:00 to 24:00"),
        ("mon 08:00-08:00", "is empty", "00:00-24:00"),
        ("mon 08:00-17:00 Europe/Berlni", "'Europe/Berlni' in the window", "did you mean Europe/Berlin?"),
        ("mon 08:00-17:00 Europe", "is not a time zone", "did you mean Europe/"),
        ("mon 08:00-17:00 ../../etc/passwd", "is not a time zone", "IANA name"),
        ("mon 08:00-17:00 /etc/localtime", "is not a time zone", ""),
    ],
)
def test_the_wrong_part_is_named(text: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert message in caught.value.message and hint in str(caught.value.hint)
