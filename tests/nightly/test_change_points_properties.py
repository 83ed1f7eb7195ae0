"""What holds for every series, and how rarely nothing is taken for something."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.detectors_worlds import Lab, World, draw
from bpudeploy.nightly.change_points import find_change_points
from bpudeploy.nightly.series import Point, Scale, Series
from tests.nightly.made import regression_in

worlds = st.builds(draw, st.integers(0, 10_000), st.sampled_from(list(Lab)), steps=st.booleans())


@given(worlds, st.integers(-20, 20))
@settings(max_examples=25, deadline=None)
def test_another_unit_changes_nothing(world: World, power: int) -> None:
    other = replace(world.series, points=tuple(replace(p, value=p.value * 2.0**power) for p in world.series.points))
    found, scaled = find_change_points(world.series), find_change_points(other)
    assert [(c.first, c.last_before, c.regression) for c in found] == [
        (c.first, c.last_before, c.regression) for c in scaled
    ]
    assert [c.after * 2.0**power for c in found] == pytest.approx([c.after for c in scaled])


@given(worlds, st.floats(0.5, 8.0))
@settings(max_examples=25, deadline=None)
def test_nothing_smaller_than_asked_for_is_reported_and_figures_agree(world: World, at_least: float) -> None:
    for change in find_change_points(replace(world.series, at_least=at_least)):
        assert abs(change.size.value) >= at_least
        assert change.size.low <= change.size.value <= change.size.high
        assert change.after == pytest.approx(change.before * (1 + change.size.value / 100))
        assert change.regression is (change.after > change.before)
        assert not world.series.points[change.first].invalid and not world.series.points[change.last_before].invalid


@given(worlds, st.floats(0.001, 1000.0))
@settings(max_examples=25, deadline=None)
def test_what_an_invalid_night_measured_is_never_looked_at(world: World, value: float) -> None:
    points = tuple(replace(p, value=value, board="elsewhere") if p.invalid else p for p in world.series.points)
    assert find_change_points(replace(world.series, points=points)) == find_change_points(world.series)


@given(worlds)
@settings(max_examples=15, deadline=None)
def test_names_of_boards_mean_nothing(world: World) -> None:
    points = tuple(replace(p, board=f"board-{p.board}") for p in world.series.points)
    assert find_change_points(replace(world.series, points=points)) == find_change_points(world.series)


@given(st.lists(st.floats(0.1, 1e6), max_size=40), st.sampled_from(list(Scale)), st.booleans())
@settings(max_examples=100, deadline=None)
def test_any_values_get_an_answer(values: list[float], scale: Scale, higher: bool) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    points = tuple(Point(start + timedelta(days=night), value, "ab"[night % 2]) for night, value in enumerate(values))
    found = regression_in(Series(points, scale, higher_is_worse=higher, at_least=1.0))
    assert found is None or found.regression


def test_nights_with_nothing_in_them_raise_hardly_anything() -> None:
    raised, nights = 0, 0
    for seed in range(6):
        series = draw(500 + seed, Lab.FULL, steps=False).series
        firsts = {
            change.first
            for known in range(20, len(series.points) + 1, 2)
            for change in find_change_points(replace(series, points=series.points[:known]))
            if change.regression
        }
        raised += len(firsts)
        nights += len(series.points)
    assert nights > 700 and raised <= 1


def test_most_steps_of_three_sigma_are_found_within_a_week_on_the_right_night() -> None:
    found = []
    for seed in range(12):
        noise = np.random.default_rng(seed).normal(0, 1.0, 60)
        points = tuple(
            Point(
                datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=n), 50 * (1 + (noise[n] + 3.5 * (n >= 45)) / 100), "a"
            )
            for n in range(53)
        )
        change = regression_in(Series(points, Scale.RATIO, higher_is_worse=True, at_least=1.0))
        found.append(change is not None and abs(change.first - 45) <= 1)
    assert sum(found) >= 10
