"""A series refuses what no detector could judge."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from bpudeploy.nightly.series import Point, Scale, Series

NIGHT = datetime(2026, 1, 1, 2, tzinfo=UTC)


def test_points_must_be_in_the_order_of_time() -> None:
    points = (Point(NIGHT, 1.0, "a"), Point(NIGHT - timedelta(days=1), 1.0, "a"))
    with pytest.raises(ValueError, match="goes back in time at 2025-12-31"):
        Series(points, Scale.RATIO, higher_is_worse=True, at_least=1.0)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_ratios_need_finite_values_above_zero(value: float) -> None:
    with pytest.raises(ValueError, match="is not a valid ratio value"):
        Series((Point(NIGHT, value, "a"),), Scale.RATIO, higher_is_worse=True, at_least=1.0)


def test_points_of_accuracy_may_be_zero_but_not_missing() -> None:
    Series((Point(NIGHT, 0.0, "a"),), Scale.POINTS, higher_is_worse=False, at_least=0.5)
    with pytest.raises(ValueError, match="nan"):
        Series((Point(NIGHT, float("nan"), "a"),), Scale.POINTS, higher_is_worse=False, at_least=0.5)
