"""The history of a metric: one point per night, with what may explain its value."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Scale(StrEnum):
    """The scale on which a metric changes."""

    RATIO = "ratio"
    """Changes in percent of the value, which is positive: latency, size, memory, compile time."""
    POINTS = "points"
    """Changes in the metric's own unit: top-1, in percentage points."""


@dataclass(frozen=True)
class Point:
    """The measurement of one night."""

    at: datetime
    """UTC: the start of the measurement."""
    value: float
    board: str
    """``board_id``: each board has its own offset."""
    temperature_c: float | None = None
    """None if there is no sensor or the metric cannot depend on it."""
    invalid: bool = False
    """Throttled, hot, rebooted...: plotted, but not judged."""


@dataclass(frozen=True)
class Series:
    """Points in chronological order; a missing night has no point.

    Raises:
        ValueError: points are out of order, or a value is not finite or, on the ratio scale, not positive.
    """

    points: tuple[Point, ...]
    scale: Scale
    higher_is_worse: bool
    at_least: float
    """Threshold in percent or points (see ``scale``): smaller changes are ignored."""

    def __post_init__(self) -> None:
        for earlier, later in zip(self.points, self.points[1:], strict=False):
            if later.at < earlier.at:
                raise ValueError(f"the series goes back in time at {later.at.isoformat()}")
        lowest = 0.0 if self.scale is Scale.RATIO else float("-inf")
        for point in self.points:
            if not lowest < point.value < float("inf"):
                raise ValueError(f"{point.value} at {point.at.isoformat()} is not a valid {self.scale} value")
