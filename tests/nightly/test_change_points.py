"""A regression is found with its first bad night; outliers, boards, heat, drift and gaps are none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from bpudeploy.nightly.change_points import find_change_points
from bpudeploy.nightly.series import Point, Scale, Series
from tests.nightly.made import regression_in

START = datetime(2026, 1, 1, 2, tzinfo=UTC)


def latencies(
    percent: Sequence[float],
    *,
    boards: str | None = None,
    warm: Sequence[float] | None = None,
    invalid: Sequence[int] = (),
    missing: Sequence[int] = (),
    at_least: float = 1.0,
) -> Series:
    """Return nights of 10 ms plus so many percent, with 0.5 % of seeded noise."""
    noise = np.random.default_rng(3).normal(0, 0.5, len(percent))
    points = tuple(
        Point(
            START + timedelta(days=night),
            10 * (1 + (more + float(noise[night])) / 100),
            boards[night] if boards else "a",
            warm[night] if warm else None,
            night in invalid,
        )
        for night, more in enumerate(percent)
        if night not in missing
    )
    return Series(points, Scale.RATIO, higher_is_worse=True, at_least=at_least)


def morning(series: Series, nights: int) -> Series:
    return replace(series, points=series.points[:nights])


def test_a_step_is_found_with_its_first_bad_night_size_and_levels() -> None:
    (change,) = find_change_points(latencies([0.0] * 30 + [4.0] * 20))
    assert (change.first, change.last_before, change.regression) == (30, 29, True)
    assert change.before == pytest.approx(10.0, rel=0.005) and change.after == pytest.approx(10.4, rel=0.005)
    assert change.size.low < 4.0 < change.size.high and change.size.high - change.size.low < 2


def test_a_regression_is_raised_on_the_third_bad_morning_and_not_before() -> None:
    series = latencies([0.0] * 30 + [5.0] * 10)
    raised = [regression_in(morning(series, nights)) for nights in range(1, 41)]
    assert raised[:32] == [None] * 32
    assert [found.first for found in raised[32:] if found] == [30] * 8


def test_one_or_two_wild_nights_are_no_change() -> None:
    series = latencies([0.0] * 20 + [35.0] + [0.0] * 10 + [30.0, 30.0] + [0.0] * 15)
    assert all(find_change_points(morning(series, nights)) == () for nights in range(1, len(series.points) + 1))


@pytest.mark.parametrize("gap", range(20, 40, 3))
def test_two_wild_nights_and_one_that_is_a_little_slow_are_no_new_level(gap: int) -> None:
    series = latencies([0.0] * gap + [1.2, 33.0, 36.0, 1.0] + [0.0] * 5)
    assert all(find_change_points(morning(series, nights)) == () for nights in range(gap, gap + 9))


def test_wild_nights_nobody_marked_do_not_move_the_figures() -> None:
    wild = [40.0 if night % 9 == 4 else 0.0 for night in range(54)]
    (change,) = find_change_points(latencies([more + 4.0 * (night >= 30) for night, more in enumerate(wild)]))
    assert change.first == 30 and change.size.value == pytest.approx(4.0, abs=0.7)
    assert change.before == pytest.approx(10.0, rel=0.01)


def test_a_slow_speed_that_the_machine_has_shown_before_is_no_regression() -> None:
    random = np.random.default_rng(5)
    earlier = [6.0 * (random.random() < 0.3) for _ in range(60)]
    assert regression_in(latencies([*earlier, 6.0, 6.0, 6.0, 6.0])) is None
    assert regression_in(latencies([0.0] * 60 + [6.0, 6.0, 6.0, 6.0])) is not None


def test_a_change_that_is_below_the_threshold_is_not_reported() -> None:
    percent = [0.0] * 40 + [2.0] * 20
    assert len(find_change_points(latencies(percent, at_least=1.0))) == 1
    assert find_change_points(latencies(percent, at_least=3.0)) == ()


def test_throttled_nights_that_are_marked_never_count() -> None:
    assert find_change_points(latencies([0.0] * 30 + [25.0] * 8, invalid=range(30, 38))) == ()
    (change,) = find_change_points(latencies([0.0] * 30 + [25.0, 25.0] + [5.0] * 8, invalid=(30, 31)))
    assert (change.first, change.last_before) == (32, 29)


def test_another_board_is_no_regression_but_its_own_step_is() -> None:
    slower = [0.0] * 30 + [6.0] * 30
    assert find_change_points(latencies(slower, boards="a" * 30 + "b" * 30)) == ()
    (change,) = find_change_points(latencies(slower + [11.0] * 10, boards="a" * 30 + "b" * 40))
    assert change.first == 60 and change.size.value == pytest.approx(5.0, abs=1)


def test_a_pool_of_boards_that_differ_hides_no_step() -> None:
    offsets = {"a": 0.0, "b": 7.0, "c": -5.0}
    boards = "abcabbcacbcaabcacb" * 3
    percent = [offsets[board] + (3.0 if night >= 40 else 0.0) for night, board in enumerate(boards)]
    (change,) = find_change_points(latencies(percent, boards=boards))
    assert abs(change.first - 40) <= 1 and change.size.value == pytest.approx(3.0, abs=0.7)


def test_a_hot_week_is_no_regression() -> None:
    degrees = [45.0 + (night % 5) for night in range(40)] + [60.0] * 7 + [46.0] * 10
    series = latencies([0.2 * (d - 45) for d in degrees], warm=degrees)
    assert all(regression_in(morning(series, nights)) is None for nights in range(1, len(degrees) + 1))
    (change,) = find_change_points(
        latencies([0.2 * (d - 45) + 4 * (n >= 50) for n, d in enumerate(degrees)], warm=degrees)
    )
    assert change.first == 50


def test_without_its_temperature_the_hot_week_would_be_taken_for_one() -> None:
    series = latencies([0.0] * 40 + [3.0] * 7)
    assert regression_in(series) is not None


def test_slow_drift_is_no_step() -> None:
    series = latencies([0.02 * night for night in range(150)])
    assert all(regression_in(morning(series, nights)) is None for nights in range(10, 151, 3))


def test_missing_nights_move_nothing() -> None:
    (change,) = find_change_points(latencies([0.0] * 40 + [4.0] * 12, missing=(3, 4, 20, *range(30, 38), 42)))
    assert change.first == 40 - 11


def test_an_improvement_is_a_change_but_no_regression() -> None:
    series = latencies([0.0] * 30 + [-4.0] * 10)
    assert [change.regression for change in find_change_points(series)] == [False]
    assert regression_in(series) is None


def test_fewer_frames_a_second_or_lower_accuracy_is_the_regression_where_lower_is_worse() -> None:
    points = tuple(
        Point(START + timedelta(days=night), 80.0 - 1.5 * (night >= 20) + 0.1 * (night % 3), "a") for night in range(30)
    )
    change = regression_in(Series(points, Scale.POINTS, higher_is_worse=False, at_least=0.5))
    assert change is not None and change.first == 20
    assert change.size.value == pytest.approx(-1.5, abs=0.1)


def test_a_regression_stands_until_at_least_half_of_it_is_undone() -> None:
    undone = latencies([0.0] * 30 + [6.0] * 12 + [0.0] * 12)
    assert [change.regression for change in find_change_points(undone)] == [True, False]
    assert regression_in(undone) is None
    still = regression_in(latencies([0.0] * 30 + [6.0] * 12 + [4.0] * 12))
    assert still is not None and still.first == 30


def test_sizes_that_never_vary_need_no_noise_to_be_told_apart() -> None:
    points = tuple(Point(START + timedelta(days=n), 1000.0 if n < 12 else 1030.0, "a") for n in range(16))
    (change,) = find_change_points(Series(points, Scale.RATIO, higher_is_worse=True, at_least=1.0))
    assert change.first == 12 and change.size.value == pytest.approx(3.0, abs=0.1)


def test_the_fewer_nights_there_were_before_the_more_it_takes_after() -> None:
    assert regression_in(latencies([0.0] * 9 + [6.0] * 3)) is None
    assert regression_in(latencies([0.0] * 9 + [6.0] * 5)) is not None
    assert regression_in(latencies([0.0] * 18 + [6.0] * 3)) is not None


@pytest.mark.parametrize("nights", [0, 1, 5, 8])
def test_few_nights_say_nothing(nights: int) -> None:
    assert find_change_points(latencies(([0.0] * 4 + [30.0] * 4)[:nights])) == ()


def test_a_series_that_is_invalid_throughout_says_nothing() -> None:
    assert find_change_points(latencies([0.0] * 20, invalid=range(20))) == ()
