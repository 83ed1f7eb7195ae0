"""The metrics of a night: names, units, thresholds, and where to find them in a measurement."""

from __future__ import annotations

from enum import StrEnum
from typing import Self

from bpudeploy.nightly.series import Scale
from bpudeploy.provenance import Provenance
from bpudeploy.results.measurement import Measurement
from bpudeploy.spec.suite import NightlyChecks


class Metric(StrEnum):
    """One figure of a release on a board."""

    label: str
    """Name in reports."""
    short: str
    """Name in column headings."""
    unit: str
    digits: int

    def __new__(cls, value: str, label: str = "", short: str = "", unit: str = "", digits: int = 0) -> Self:
        member = str.__new__(cls, value)
        member._value_ = value
        member.label, member.short, member.unit, member.digits = label, short, unit, digits
        return member

    TOP1 = "top1", "top-1", "top-1", "%", 2
    P50 = "p50", "p50 latency", "p50", "ms", 3
    P99 = "p99", "p99 latency", "p99", "ms", 3
    SIZE = "size", "size of the binary", "binary", "MB", 3
    MEMORY = "memory", "memory on the board", "memory", "MB", 1
    COMPILE_TIME = "compile_time", "compile time", "compile", "s", 1

    @property
    def scale(self) -> Scale:
        """Whether changes are in percent of the value or in points."""
        return Scale.POINTS if self is Metric.TOP1 else Scale.RATIO

    @property
    def higher_is_worse(self) -> bool:
        return self is not Metric.TOP1

    @property
    def is_latency(self) -> bool:
        """Whether it depends on the board, its clocks and its temperature."""
        return self in (Metric.P50, Metric.P99)

    @property
    def change_unit(self) -> str:
        """The unit of a change."""
        return "points" if self.scale is Scale.POINTS else "%"

    def value_in(self, m: Measurement) -> float | None:
        """Return the metric's value in a measurement, or None.

        Latency and memory of a simulator are those of this machine, not of a board: None.
        """
        if (self.is_latency or self is Metric.MEMORY) and m.provenance is not Provenance.MEASURED:
            return None
        match self:
            case Metric.TOP1:
                return m.score.top1.value if m.score is not None else None
            case Metric.P50:
                return m.latency.p50_ms.value if m.latency is not None else None
            case Metric.P99:
                return m.latency.p99_ms.value if m.latency is not None and m.latency.p99_ms is not None else None
            case Metric.SIZE:
                return m.build.binary_bytes / 1e6 if m.build is not None else None
            case Metric.MEMORY:
                return m.peak_memory_mb
            case Metric.COMPILE_TIME:
                return m.build.compile_seconds if m.build is not None else None

    def threshold(self, checks: NightlyChecks) -> float | None:
        """Return the change below which a difference is ignored; None if the metric is not judged."""
        limit: float | None = getattr(checks, self.value)
        return limit


def is_from_suite(m: Measurement, suite: str) -> bool:
    """Return whether a night of the suite made a measurement."""
    return m.night is not None and m.night.partition("/")[0] == suite
