"""A metric's history: one point a night, with what may explain it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Scale(StrEnum):
    """What a change of the metric is told in."""

    RATIO = "ratio"
    """Percent of the level: latency, size, memory, compile time. Values are above 0."""
    POINTS = "points"
    """The metric's own unit: top-1 in percentage points."""


class Worse(StrEnum):
    """Which way is a regression."""

    HIGHER = "higher"
    LOWER = "lower"


@dataclass(frozen=True)
class Point:
    """What one night measured."""

    at: datetime
    """UTC: when the measurement began."""
    value: float
    board: str
    """``board_id``: each board has an offset of its own."""
    temperature_c: float | None = None
    """None where no sensor told it, or where the metric cannot depend on it."""
    invalid: bool = False
    """Throttled, hot, rebooted...: drawn, never judged."""


@dataclass(frozen=True)
class Series:
    """Points in the order of time; a missing night is no point.

    Raises:
        ValueError: points out of order, a value that is not finite, or not above 0 on the scale of ratios.
    """

    points: tuple[Point, ...]
    scale: Scale
    worse: Worse
    at_least: float
    """Percent or points (see ``scale``): a smaller change is nobody's concern."""

    def __post_init__(self) -> None:
        for earlier, later in zip(self.points, self.points[1:], strict=False):
            if later.at < earlier.at:
                raise ValueError(f"the series goes back in time at {later.at.isoformat()}")
        lowest = 0.0 if self.scale is Scale.RATIO else float("-inf")
        for point in self.points:
            if not lowest < point.value < float("inf"):
                raise ValueError(f"{point.value} at {point.at.isoformat()} is no value on the scale of {self.scale}")
